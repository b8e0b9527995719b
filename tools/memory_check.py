"""Whether a run's memory stays flat: resident memory, Python's own, and what the garbage collector holds, over many
steps and evaluations of a small run.

    python -m tools.memory_check [method=mocov2] [steps=2000] [evaluations=20] [key=value ...]

One row an evaluation, and the growth from the first quarter's end to the last row; exit code 1 if it is not flat.
"""

import contextlib
import gc
import os
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.config import hosted
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.training.parts import Parts
from ssl_framework.training.run import run

BATCH = 16


class Memory(NamedTuple):
    """What a process holds."""

    step: int
    resident: float  # MiB of RAM
    python: float  # MiB that Python's objects take, as tracemalloc counts; 0 where it does not
    objects: int  # that the garbage collector watches
    tensors: int


class MemoryWatch(L.Callback):
    """Measures after every epoch. Stands behind the evaluation."""

    def __init__(self) -> None:
        self.rows: list[Memory] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows.append(measured(trainer.global_step))


def measured(step: int) -> Memory:
    """What this process holds now, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    objects = gc.get_objects()
    tensors = sum(type(thing).__name__ in ("Tensor", "Parameter") for thing in objects)
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Memory(step, resident, tracemalloc.get_traced_memory()[0] / 2**20, len(objects), tensors)


def config_of(steps: int, evaluations: int, overrides: Sequence[str]) -> DictConfig:
    """A small run with an evaluation after each epoch."""
    own = [
        f"data.source.num_train={steps // evaluations * BATCH}",
        "data.source.num_test=64",
        f"data.batch_size={BATCH}",
        f"trainer.max_epochs={evaluations}",
        *("trainer=cpu", "trainer.precision=32-true", "evaluation=frozen", "evaluation.every_n_epochs=1"),
        "report=none",
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hosted(compose("train", overrides=["data=shapes", *own, *overrides]))
    OmegaConf.resolve(cfg)
    return cfg


def rows_of(cfg: DictConfig) -> list[Memory]:
    """One row an epoch of a run in this process."""
    watch = MemoryWatch()

    def change(parts: Parts) -> None:
        parts.trainer.callbacks.append(watch)  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        about: dict[str, Any] = {"method": "memory", "data": cfg.data.name, "overrides": [], "command": ""}
        folder.prepare(cfg, about)
        with contextlib.redirect_stdout(sys.stderr):
            run(cfg, folder.path, about, False, change)
    return watch.rows


def growth(rows: Sequence[Memory]) -> Memory:
    """From the end of the first quarter, when caches are full, to the last row."""
    first, last = rows[len(rows) // 4], rows[-1]
    return Memory(*(after - before for before, after in zip(first, last, strict=True)))


def is_flat(rows: Sequence[Memory]) -> bool:
    """Whether no column has grown by more than chance: 2 % of the resident memory, 256 KiB of Python's, 1 % of the
    objects, 5 tensors."""
    grown, last = growth(rows), rows[-1]
    small = grown.resident <= 0.02 * last.resident and grown.python <= 0.25
    return small and grown.objects <= 0.01 * last.objects and grown.tensors <= 5


def table(rows: Sequence[Memory]) -> str:
    """All rows, and the growth."""
    head = f"{'step':>6}  {'resident MiB':>12}  {'Python MiB':>10}  {'objects':>8}  {'tensors':>7}"
    lines = [f"{r.step:6d}  {r.resident:12.1f}  {r.python:10.2f}  {r.objects:8d}  {r.tensors:7d}" for r in rows]
    g = growth(rows)
    last = f"{'growth':>6}  {g.resident:+12.1f}  {g.python:+10.2f}  {g.objects:+8d}  {g.tensors:+7d}"
    return "\n".join([head, *lines, f"{last}  over the last {g.step} steps: {'flat' if is_flat(rows) else 'NOT flat'}"])


def main() -> None:
    """The command of this file."""
    own = dict(item.split("=", 1) for item in sys.argv[1:] if item.split("=")[0] in ("steps", "evaluations"))
    overrides = [item for item in sys.argv[1:] if item.split("=")[0] not in own]
    cfg = config_of(int(own.get("steps", 2000)), int(own.get("evaluations", 20)), overrides)
    tracemalloc.start()
    rows = rows_of(cfg)
    print(table(rows))
    sys.exit(not is_flat(rows))


if __name__ == "__main__":
    main()
