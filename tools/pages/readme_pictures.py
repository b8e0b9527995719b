"""The README's pictures of records."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from ssl_framework.report.pictures.base import save
from ssl_framework.runs.folder import RunFolder, read_json


def show_run(record: Path, metric: str, out: Path) -> None:
    """Loss and one metric of a run over its steps, with the two references as lines."""
    curves, result = RunFolder(record).read_metrics(), RunFolder(record).read_result()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    left.plot(*zip(*curves["train/loss"], strict=True), color="tab:blue", linewidth=1)
    left.set(xlabel="step", ylabel="loss", title=f"{result['method']} on {result['data']}")
    untrained, raw = (result["baselines"][name][metric] for name in ("untrained", "raw_pixels"))
    points = [(0, untrained), *curves[f"eval/{metric}"]]
    right.plot(*zip(*points, strict=True), marker="o", color="tab:blue", label="frozen features")
    right.axhline(raw, color="tab:red", linestyle="--", label="raw pixels")
    right.axhline(untrained, color="tab:gray", linestyle=":", label="untrained backbone")
    right.set(xlabel="step", ylabel="top-1, percent", title=metric.removesuffix("/top1"), ylim=(0, None))
    right.legend(frameon=False, loc="center right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, out)


def show_long_runs(records: Sequence[Path], epochs: int, metrics: Sequence[str], out: Path) -> None:
    """Metrics of long runs on one data set over their epochs: a panel a metric, a line a run, and the references."""
    figure, panels = plt.subplots(1, len(metrics), figsize=(5 * len(metrics), 3.4), sharey=True, squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for record, colour in zip(records, ("tab:blue", "tab:orange"), strict=True):
            folder = RunFolder(record)
            result = folder.read_result()
            untrained, raw = (result["baselines"][name][metric] for name in ("untrained", "raw_pixels"))
            steps, values = zip(*folder.read_metrics()[f"eval/{metric}"], strict=True)
            axes.plot(
                [0, *(epochs * step / result["steps"] for step in steps)],
                [untrained, *values],
                marker="o",
                markersize=4,
                color=colour,
                label=result["method"],
            )
        axes.axhline(raw, color="tab:red", linestyle="--", label="raw pixels")
        axes.axhline(untrained, color="tab:gray", linestyle=":", label="untrained backbone")
        axes.set(xlabel="epoch", title=metric.removesuffix("/top1"), ylim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("top-1, percent")
    panels[0][0].legend(frameon=False, loc="lower right")
    save(figure, out)


def show_speed(record: Path, out: Path) -> None:
    """How many times as fast as others, one bar a competitor, from least to greatest of the rounds."""
    figures = read_json(record / "benchmark.json")
    names = {
        ("views", "ours_over_kornia"): "views: kornia on the same batch",
        ("views", "ours_over_lightly"): "views: lightly's transform, 2 workers",
        ("views", "ours_over_torchvision"): "views: torchvision v2, 2 workers",
        ("step", "tiny/ours_over_bare"): "step, tiny net: hand-written loop",
        ("step", "tiny/ours_over_lightly"): "step, tiny net: lightly",
        ("step", "resnet18/ours_over_bare"): "step, ResNet-18: hand-written loop",
        ("step", "resnet18/ours_over_lightly"): "step, ResNet-18: lightly",
    }
    values = [figures[benchmark][name] for benchmark, name in names]
    middle = [value["median"] for value in values]
    reach = [[m - v["min"] for m, v in zip(middle, values, strict=True)],
             [v["max"] - m for m, v in zip(middle, values, strict=True)]]  # fmt: skip
    figure, axes = plt.subplots(figsize=(8, 3))
    colours = ["tab:blue" if benchmark == "views" else "tab:green" for benchmark, _ in names]
    axes.barh(range(len(names)), middle, xerr=reach, color=colours, alpha=0.8, error_kw={"capsize": 3, "linewidth": 1})
    for row, value in enumerate(values):
        axes.text(value["max"] * 1.06, row, f"{value['median']:.3g}", va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlim(0.5, 2 * max(value["max"] for value in values))
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as (median; the line from the slowest round to the fastest)")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, out)
