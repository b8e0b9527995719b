"""What a run has left, compared with what one has left that nothing disturbed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import RunFolder

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "DataModule", "epoch", "global_step")
FOUND = (
    *("metrics", "intervals", "baselines", "protocol", "steps", "config_hash", "command", "overrides"),
    *("method", "data", "seed", "choices", "precision", "processes", "images"),
)
"""Of result.json; the rest are times, places and versions."""

MAY_LACK = ("report.html", "pictures/")
"""A run that was killed in its report has its result; the page is made by another command."""

MAY_HAVE = ("checkpoints/before.ckpt",)


def differences(whole: Path, parts: Path) -> list[str]:
    """Names of what differs between two run folders, the first of an undisturbed run."""
    first, second = RunFolder(whole), RunFolder(parts)
    if not second.result_file.is_file():
        return ["no result.json"]
    found = list(unlike(state_of(first), state_of(second), "last.ckpt"))
    if lines_of(first) != lines_of(second):
        found.append("metrics.csv")
    found += unlike_results(first, second)
    missing = names_in(whole) - names_in(parts)
    return found + [f"no {name}" for name in sorted(missing) if not name.startswith((*MAY_LACK, *MAY_HAVE))]


def unlike_results(first: RunFolder, second: RunFolder) -> list[str]:
    """Names of what differs between two results."""
    try:
        one, two = first.read_result(), second.read_result()
        return [f"result.json {name}" for name in FOUND if one.get(name) != two.get(name)]
    except (ValueError, AttributeError):
        return ["result.json cannot be read"]


def state_of(run: RunFolder) -> dict[str, Any]:
    """What a checkpoint holds of the state of a run."""
    content = load_checkpoint(run.checkpoint_file)
    return {name: content.get(name) for name in STATE}


def lines_of(run: RunFolder) -> list[str]:
    """metrics.csv as it stands, without times."""
    return [line for line in run.metrics_file.read_text().splitlines() if not line.partition(",")[2].startswith("time")]


def unlike(one: Any, two: Any, where: str) -> Iterator[str]:
    """Names of the places in which two nested states differ, bit for bit; times may."""
    if type(one) is not type(two):
        yield where
    elif isinstance(one, torch.Tensor):
        if one.dtype != two.dtype or not torch.equal(one, two):
            yield where
    elif isinstance(one, np.ndarray):
        if not np.array_equal(one, two):
            yield where
    elif isinstance(one, dict):
        for name in sorted({*one, *two}, key=str):
            if "seconds" not in str(name):
                yield from unlike(one.get(name), two.get(name), f"{where}/{name}")
    elif isinstance(one, (list, tuple)):
        if len(one) != len(two):
            yield where
        for number, (a, b) in enumerate(zip(one, two, strict=False)):
            yield from unlike(a, b, f"{where}/{number}")
    elif one != two and not (one != one and two != two):
        yield where


def names_in(folder: Path) -> set[str]:
    """All files below a folder; of links, the link."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def left_over(whole: Path, parts: Path) -> list[str]:
    """Files that a disturbed run has left and an undisturbed one has not, each by its name."""
    return sorted(name for name in names_in(parts) - names_in(whole) if not name.startswith((*MAY_HAVE, *MAY_LACK)))
