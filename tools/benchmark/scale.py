"""What an image costs as the data set grows from ten thousand to ten million, on synthetic images of 8 px.

    python -m tools.benchmark.scale FOLDER [--sizes 10000 100000 1000000 10000000] [--json FILE]

Every size runs in a process of its own, which makes one epoch's order and trains for some steps in the middle of it:

    resident   the whole set in memory
    store      a memory-mapped file, read in the background
    shards     tar files of ten thousand PNG files (all names of one file), decoded in the same process
    bank       resident, and a state of three numbers of every sample in the objective (iSogCLR)
    queue      resident, and a queue of 4,096 keys with a teacher (MoCo v2)

A step is that of ``train.py`` with its callbacks, the watch for numbers that are not finite among them, on the tiny
network and one thread. Its cost is the processor's time of all threads of the process, the lower quartile of the steps,
which other processes on the machine change least; ``wall`` is by the clock. ``loader``: the batches alone. ``order``:
drawing the epoch's order, once an epoch. ``start``: from the data on disk to the end of the first step. ``memory``: the
process's largest, less what it had before the data. Pixels follow from the sample's number by a formula; the store is a
file with holes, which read as zeros.
"""

import argparse
import io
import itertools
import json
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ssl_framework.build import build, build_module
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.images.store import Mapped
from ssl_framework.data.samplers import Draw, Population, Uniform
from ssl_framework.device import cpu_name, keep_freed_memory
from ssl_framework.runs.folder import RunFolder, write_json
from ssl_framework.runs.messages import quiet
from ssl_framework.runs.provenance import versions
from ssl_framework.training.metrics_log import MetricsCSV
from ssl_framework.training.nonfinite import NonFiniteWatch
from ssl_framework.training.progress import Progress
from ssl_framework.training.step_log import StepLog
from ssl_framework.training.trainer import build_trainer
from tools.benchmark.timing import peak_kib
from tools.operations import composed

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
KINDS = {"resident": "simclr", "store": "simclr", "shards": "simclr", "bank": "isogclr", "queue": "mocov2"}
"""What is measured -> the method."""

SIDE, BATCH, IN_SHARD = 8, 256, 10_000
WARM, STEPS = 6, 24
"""Steps that do not count, and that do."""


class Stop(L.Callback):
    """Times every step after the first ``WARM`` and ends the run."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.used: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.times.append(time.perf_counter())
        self.used.append(time.process_time())
        if len(self.times) > WARM + STEPS:
            trainer.should_stop = True


class Made:
    """A source whose three splits are one."""

    def __init__(self, split: Any) -> None:
        self.split = split

    def load(self, split: str) -> Any:
        """For every name; the evaluators' are small."""
        return self.split if split == "pretrain" else Split(torch.zeros(BATCH, 3, SIDE, SIDE, dtype=torch.uint8))


def pixels(count: int) -> torch.Tensor:
    """[N, 3, 8, 8] uint8: of sample n a pattern that n gives."""
    whole = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    pattern = torch.arange(3 * SIDE * SIDE).view(3, SIDE, SIDE).byte()
    for index in torch.arange(count).split(100_000):
        number = index[:, None, None, None]
        whole[index[0] : index[-1] + 1] = (7 * number).byte() + pattern * (1 + number % 5).byte()  # modulo 256
    return whole


def source(kind: str, count: int, folder: Path) -> Any:
    """The training set of so many samples."""
    if kind == "store":
        path = folder / f"{count}.npy"
        if not path.exists():
            np.lib.format.open_memmap(path, "w+", np.uint8, (count, 3, SIDE, SIDE)).flush()
        return Split(Mapped(path))
    if kind == "shards":
        return shards(count, folder)
    return Split(pixels(count))


def shards(count: int, folder: Path) -> Any:
    """As many tar files as hold so many samples, all of them names of one."""
    first = folder / "shard.tar"
    if not first.exists():
        with tarfile.open(first, "w") as archive:
            for number, image in enumerate(pixels(IN_SHARD)):
                content = io.BytesIO()
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "PNG")
                entry = tarfile.TarInfo(f"{number:08d}.png")
                entry.size = content.getbuffer().nbytes
                content.seek(0)
                archive.addfile(entry, content)
    own = folder / f"shards_{count}"
    own.mkdir(exist_ok=True)
    for number in range(count // IN_SHARD):
        link = own / f"{number:06d}.tar"
        if not link.exists():
            link.hardlink_to(first)
    sizes = own / "sizes.json"
    sizes.write_text(json.dumps({f"{number:06d}.tar": IN_SHARD for number in range(count // IN_SHARD)}))
    cfg = composed(
        *("simclr", "data=webdataset", f"data.root={own}", "data.train_shards=.", "data.test_shards=null"),
        *(f"data.image_size={SIDE}", f"data.stored_size={SIDE}", "data.num_workers=0", "data.num_streams=1"),
        f"data.train_sizes={sizes}",
    )
    return build(cfg.data.source).load("pretrain")


def measure(kind: str, count: int, folder: Path) -> dict[str, float]:
    """One size, in this process."""
    quiet()
    keep_freed_memory()
    torch.set_num_threads(1)
    before = peak_kib()
    started = time.perf_counter()
    cfg = composed(
        *(KINDS[kind], "data=cifar10", f"data.image_size={SIDE}", "backbone=tiny", f"data.batch_size={BATCH}"),
        *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "trainer.checkpoint_every_minutes=null"),
        *("evaluation=none", "report=none"),
    )
    data = DataModule(Made(source(kind, count, folder)), BATCH, seed=0, resident_share=0.0)  # a mapped file stays one
    module = build_module(cfg, False, count)
    run = RunFolder(folder / "run")
    run.path.mkdir(exist_ok=True)
    console, stop = Console(quiet=True), Stop()
    callbacks = [NonFiniteWatch(run), Progress(console), StepLog(console), stop]
    trainer = build_trainer(cfg.trainer, run.path, callbacks, [MetricsCSV(run.path)])
    trainer.fit(module, datamodule=data)
    found = {
        "microseconds_an_image": quartile(stop.used[WARM:]),
        "wall_microseconds_an_image": quartile(stop.times[WARM:]),
        "start_seconds": stop.times[0] - started,
        "memory_mib": (peak_kib() - before) / 2**10,
    }
    loader = data.train_dataloader()
    batches, used = iter(loader), []
    for _ in range(WARM + STEPS):
        next(batches)
        used.append(time.process_time())
    found["loader_microseconds_an_image"] = quartile(used[WARM:])
    loader.close()
    at = time.perf_counter()
    Draw(Uniform(), Population(count), BATCH)(0, 1)
    found["order_microseconds_an_image"] = 1e6 * (time.perf_counter() - at) / count
    return found


def quartile(at: list[float]) -> float:
    """Of the microseconds an image between neighbours, the lower quartile."""
    return 1e6 * statistics.quantiles([b - a for a, b in itertools.pairwise(at)], n=4)[0] / BATCH


def main() -> None:
    """Entry point; prints a table, and writes the figures with ``--json``. Sizes that a file has are not run again."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark.scale", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for files of two gigabytes")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="images, multiples of 10,000")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--only", nargs=2, metavar=("KIND", "COUNT"), help="one size in this process; prints its figures"
    )
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.only:
        print(json.dumps(measure(given.only[0], int(given.only[1]), given.folder)))
        return
    stored = json.loads(given.json.read_text()) if given.json is not None and given.json.exists() else {}
    figures: dict[str, dict[str, float]] = stored.get("figures", {})
    for count in given.sizes:
        for kind in given.kinds:
            if (name := f"{kind}/{count}") in figures:
                continue
            command = [sys.executable, "-m", "tools.benchmark.scale", str(given.folder), "--only", kind, str(count)]
            ended = subprocess.run(command, capture_output=True, text=True)
            if ended.returncode:
                print(f"{name} failed: {(ended.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
                continue
            figures[name] = json.loads(ended.stdout.strip().splitlines()[-1])
            if given.json is not None:
                given.json.parent.mkdir(parents=True, exist_ok=True)
                about = {"cpu": cpu_name(), "versions": versions()}
                write_json(given.json, {"figures": figures, "batch": BATCH, "side": SIDE, "about": about})
    Console(width=120).print(table(figures))


def table(figures: dict[str, dict[str, float]]) -> Table:
    """One row a kind and size; ``flat`` is the cost beside that of the smallest set."""
    drawn = Table("", "images", "µs an image", "flat", "loader, µs", "order, µs", "start, s", "memory, MiB")
    for kind in KINDS:
        rows = {int(name.split("/")[1]): found for name, found in figures.items() if name.startswith(f"{kind}/")}
        for count, found in sorted(rows.items()):
            cost = found["microseconds_an_image"] + found["order_microseconds_an_image"]
            least = rows[min(rows)]
            first = least["microseconds_an_image"] + least["order_microseconds_an_image"]
            drawn.add_row(
                kind,
                f"{count:,}",
                f"{found['microseconds_an_image']:.1f}",
                f"{cost / first:.3f}",
                f"{found['loader_microseconds_an_image']:.2f}",
                f"{found['order_microseconds_an_image']:.3f}",
                f"{found['start_seconds']:.1f}",
                f"{found['memory_mib']:,.0f}",
            )
    return drawn


if __name__ == "__main__":
    main()
