"""Pictures of data and runs, drawn from the data itself and from the records of runs."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from ssl_framework.data.sources import Images
from ssl_framework.data.views import Views
from ssl_framework.metrics_log import read_metrics
from ssl_framework.run import read_json
from ssl_framework.types import Samples


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """[N, C, H, W] in [0, 1] -> [rows * (H + gap), columns * (W + gap), C], white between."""
    num, channels, height, width = images.shape
    rows = -(-num // columns)
    canvas = torch.ones(channels, rows * (height + gap), columns * (width + gap))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).clamp(0, 1)


def show_views(data: Images, views: Views, out: Path, columns: int = 20, seed: int = 0) -> None:
    """One image of each class after the other, and below each image two views the student sees of it."""
    assert data.label is not None
    by_class = [torch.where(data.label == c)[0] for c in range(int(data.label.max()) + 1)]
    index = torch.stack([rows[i] for i in range(columns // len(by_class) + 1) for rows in by_class])[:columns]
    torch.manual_seed(seed)
    batch = views(Samples(data.pixels[index], index, None))
    shown = [view * views.std + views.mean for view in batch.views[:2]]
    picture = tile(torch.cat([data.pixels[index].float() / 255, *shown]), columns)
    figure, axes = plt.subplots(figsize=(12, 12 * picture.shape[0] / picture.shape[1]))
    axes.imshow(picture, interpolation="nearest", cmap="gray")  # the colour map is for one channel only
    axes.axis("off")
    save(figure, out)


def show_run(record: Path, metric: str, out: Path) -> None:
    """Loss and one metric of a run over its steps, with the two references as lines."""
    curves, result = read_metrics(record / "metrics.csv"), read_json(record / "result.json")
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


def save(figure: plt.Figure, out: Path, pad: float = 1.08) -> None:
    """Writes a PNG and closes the figure; ``pad`` is the space around axes, in letters."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(pad=pad)
    figure.savefig(out, dpi=110, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    plt.close(figure)
