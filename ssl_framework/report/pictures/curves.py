"""Curves of a run over its steps, from metrics.csv: the loss and what is logged beside it, and every evaluation."""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssl_framework.report.inspection import Inspection
from ssl_framework.report.pictures.base import save

matplotlib.use("Agg")


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#8C6D31", "#999999")
"""Told apart also by the colour-blind: those of Okabe and Ito without their yellow, and four more."""


POINTS = 500


COLUMNS = 3


REFERENCES: dict[str, Any] = {
    **{"before": (0, (5, 1)), "untrained": ":", "raw_pixels": "--", "raw_input": "--", "chance": "-."},
    **{"smoothed": (0, (5, 1, 1, 1)), "popularity": (0, (3, 1, 1, 1, 1, 1)), "transitions": (0, (1, 3))},
}
"""Baseline -> style of its line."""


SCORES = {"positive": "positive", "mean_negative": "mean of the negatives", "hardest_negative": "hardest negative"}
"""Array of scores.npz -> its words."""


RATE = re.compile(r"train/lr_\d+$")
"""The learning rate of a further group of parameters, drawn with the first one's."""


TITLES = {"train/lr": "learning rate", "train/grad_norm": "norm of the gradient"}
"""Logged number -> its words, where its name says too little."""


TIMES = 4


Curve = Sequence[tuple[int, float]]


def draw_training(seen: Inspection, out: Path) -> str | None:
    """The loss and everything else that is logged in training steps; returns words about it, ``None`` without any."""
    found = {name: curve for name, curve in seen.curves.items() if not name.startswith("eval/") and len(curve) > 1}
    if not found:
        return None
    together: dict[str, list[str]] = {}
    for name in sorted(found, key=lambda name: (name != "train/loss", name)):
        together.setdefault(RATE.sub("train/lr", name), []).append(name)
    every = max(math.ceil(len(curve) / POINTS) for curve in found.values())
    figure, grid = panels(len(together))
    for axes, (title, names) in zip(grid, together.items(), strict=True):
        for name, colour in zip(names, itertools.cycle(COLOURS)):
            axes.plot(*zip(*thinned(found[name], every), strict=True), color=colour, linewidth=1.2)
        axes.set_title(TITLES.get(title, spaced(title.removeprefix("train/"))), fontsize=10)
        axes.margins(x=0.02)
        values = [value for name in names for _, value in found[name]]
        if max(values) == min(values):  # a constant fills no axis
            axes.set_ylim(values[0] - 0.5, values[0] + 0.5)
    save(figure, out)
    return f"Every point is the mean of {every} logged steps." if every > 1 else "As logged in training steps."


def draw_evaluation(seen: Inspection, out: Path) -> str | None:
    """One panel a family of metrics, with the references; returns words about it, ``None`` without any evaluation."""
    baselines = {name: seen.scores.get("baselines", {}).get(name) or {} for name in REFERENCES}
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for name, curve in seen.curves.items():
        if name.startswith("eval/"):
            found.setdefault(family(name.removeprefix("eval/")), {})[name.removeprefix("eval/")] = curve
    if not found:
        return None
    figure, grid = panels(len(found))
    for axes, (title, metrics) in zip(grid, found.items(), strict=True):
        for colour, (metric, curve) in zip(COLOURS, metrics.items(), strict=False):
            first = (baselines["before"] or baselines["untrained"]).get(metric)
            points: Curve = [*([] if first is None else [(0, first)]), *curve]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=parameters(metric))
            for name, style in REFERENCES.items():
                if (value := baselines[name].get(metric)) is not None:
                    axes.axhline(value, color=colour, linestyle=style, linewidth=1)
        last = max(step for curve in metrics.values() for step, _ in curve)
        axes.set_xlim(-0.03 * last, 1.04 * last)
        percent = all(metric.endswith("/top1") for metric in metrics)
        alone = parameters(next(iter(metrics))) if len(metrics) == 1 else ""
        axes.set_title(f"{spaced(title)}\n{alone}" if alone else spaced(title), fontsize=9)
        axes.set_ylabel("percent" if percent else "", fontsize=9)
        if percent:
            axes.set_ylim(0, 105)
        if len(metrics) > 1:
            axes.legend(frameon=False, fontsize=8, handlelength=1.2, loc="best")
    shown = [name for name, values in baselines.items() if values]
    lines = [Line2D([], [], color="#555555", linestyle=REFERENCES[name]) for name in shown]
    if lines:
        legend_above(figure, lines, [spaced(name) for name in shown], len(lines))
    save(figure, out)
    lost = sum(max(0, len(metrics) - len(COLOURS)) for metrics in found.values())
    return "On frozen features of clean images." + (f" {lost} further metrics are in metrics.csv only." if lost else "")


def panels(count: int) -> tuple[plt.Figure, list[Axes]]:
    """A figure with axes over steps, some in a row; the last row may be shorter."""
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    figure, grid = plt.subplots(rows, columns, figsize=(3.1 * columns if columns > 1 else 5, 2.4 * rows), squeeze=False)
    for axes in grid.flat[count:]:
        figure.delaxes(axes)
    for axes in grid.flat[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("step", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.ticklabel_format(useOffset=False)
    return figure, list(grid.flat[:count])


def legend_above(figure: plt.Figure, handles: Sequence[Artist], words: Sequence[str], columns: int) -> None:
    """A legend for all axes of a figure, above them."""
    figure.legend(
        handles,
        words,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=columns,
        frameon=False,
        fontsize=9,
        borderpad=0.1,
        columnspacing=1,
        handletextpad=0.4,
        markerscale=1.4,
    )


def thinned(curve: Curve, every: int) -> Curve:
    """Means over ``every`` points, at the last step of each."""
    parts = [curve[i : i + every] for i in range(0, len(curve), every)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def family(metric: str) -> str:
    """A metric's name without the parameters in brackets."""
    return re.sub(r"\[[^]]*\]", "", metric).removesuffix("/top1")


def parameters(metric: str) -> str:
    """What stands in the brackets of a metric's name."""
    return ", ".join(re.findall(r"\[([^]]*)\]", metric))


def spaced(name: str) -> str:
    """A metric's name as words."""
    return name.replace("_", " ")


def draw_scores(seen: Inspection, out: Path) -> str | None:
    """Distributions of similarities between views at several times, from scores.npz; returns words about it, ``None``
    where the run has not measured them."""
    path = seen.run.scores_file
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in ("edges", "step", *SCORES)}
    times = sorted({round(t) for t in np.linspace(0, len(found["step"]) - 1, TIMES)})
    figure, grid = plt.subplots(1, len(times), figsize=(2.3 * len(times) + 0.4, 2.5), sharey=True, squeeze=False)
    for axes, t in zip(grid[0], times, strict=True):
        for (name, words), colour, fill in zip(SCORES.items(), COLOURS, (0.35, 0, 0), strict=False):
            counts = found[name][t]
            shares = 100 * counts / max(1, counts.sum())  # [bins]
            axes.stairs(shares, found["edges"], color=colour, linewidth=1.3, label=words)
            axes.stairs(shares, found["edges"], color=colour, alpha=fill, fill=True, linewidth=0)
        axes.set_title(f"step {found['step'][t]:,}", fontsize=9)
        axes.set_xlabel("cosine similarity", fontsize=9)
        axes.set(xlim=(-1, 1), xticks=[-1, 0, 1])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("samples, percent a bin", fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    legend_above(figure, handles, labels, len(SCORES))
    save(figure, out)
    return (
        f"Of {int(found['positive'][-1].sum()):,} train samples: the cosine similarity of two augmented views "
        "(positive), its mean over the views of other samples, and that of the most similar of these (hardest "
        "negative)."
    )
