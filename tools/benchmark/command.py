"""``python scripts/benchmark.py NAME``: one table of ratios, every one measured interleaved in one process."""

import argparse
import importlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from rich.console import Console
from rich.table import Table

from ssl_framework.device import cpu_name, device_name, keep_freed_memory
from ssl_framework.runs.folder import write_json
from ssl_framework.runs.provenance import versions
from tools.benchmark.timing import Figure

PEERS = ("lightly", "kornia", "faiss-cpu")


NAMES = ("views", "step", "loss", "knn", "load", "startup")
"""Of the record in results/speed."""


APART = ("mixers", "embed", "gpu")
"""With a record of their own, results/speed_mixers, for their figures grow with the choices of a group, results/embed,
and what tools/gpu_session.sh measures on a GPU."""


MEANINGS = {
    "views": {
        "over_lightly": "times as fast as lightly's SimCLRTransform (PIL) with two workers",
        "over_torchvision": "times as fast as torchvision's v2 transforms with two workers",
        "over_kornia": "times as fast as kornia on the same batch",
        "milliseconds": "two views of 256 images of 32 px",
    },
    "step": {
        "ours_over_bare": "speed beside a hand-written loop of the same operations, float32",
        "ours_over_lightly": "times as fast as lightly's transform, DataLoader (two workers) and loss, float32",
        "best_over_bare": "speed beside the hand-written loop in the precision that trainer=auto chose",
        "best_over_lightly": "times as fast as lightly in float32, in the precision that trainer=auto chose",
        "full_over_model": "speed beside the model's forward and backward pass on views that are there already",
        "peak_mib": "memory of the GPU at its worst, MiB",
        "images_per_second": "images, each of them two views",
    },
    "loss": {
        "tiled_over_dense": "time beside the dense form, 4,096 rows, forward and backward",
        "peak_extra_mib": "memory at its worst beyond inputs and gradients, MiB, at the number of rows below",
        "seconds_65536": "NT-Xent of 65,536 rows, forward and backward",
        "seconds_16384": "NT-Xent of 16,384 rows, forward and backward",
        "dense_needs_mib": "what similarities and their gradient would take in the dense form, MiB, by calculation",
    },
    "knn": {
        "over_faiss": "time of the whole probe beside the search alone in faiss's flat index (50,000 x 10,000 x 512)",
        "peak_extra_mib": "memory at its worst beyond the features, MiB",
        "seconds": "the probe, k = 200",
    },
    "load": {
        "_to_224": "time of decoding and two crops beside Pillow with its draft mode, 224 px",
        "_to_64": "the same, 64 px",
        "px_bare": "speed of batches from a memory-mapped store beside batches from memory",
        "px_two_views": "the same with two views made of every batch",
    },
    "startup": {
        "first_step_over_imports": "until the default job's first step is done, over the three imports alone",
        "first_step_seconds": "from the command to the end of the first step",
        "help_seconds": "python train.py --help",
    },
    "embed": {
        "bare_over_ours": "times as fast as a loop of Pillow and torch over the same files, 32 px, the tiny net",
        "images_per_minute": "vectors of the command a minute",
        "images": "files",
    },
    "gpu": {
        "compiled_over_plain": "times as fast as the same views without a compiled graph",
        "milliseconds": "two compiled views of a batch: 512 images of 32 px, 256 of 224 px",
        "ours_over_bare": "speed beside a hand-written loop of the same operations",
        "full_over_model": "speed beside the model's forward and backward pass on views that are there already",
        "images_per_second": "images, each of them two views",
        "peak_mib": "memory of the GPU at its worst, MiB",
        "share_of_peak": "the model's FLOPs a second over those of the datasheet",
    },
    "mixers": {
        "over_step": "time of mixing one view beside a step of the tiny net without a mixer, 128 images of 32 px",
        "milliseconds": "mixing one view of 128 images of 32 px",
    },
}
"""Benchmark -> ending of a figure's name -> what it says."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point; prints a table for each benchmark, and writes the figures with ``--json FILE``."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__)
    parser.add_argument("names", nargs="+", choices=(*NAMES, *APART), metavar="NAME", help=", ".join((*NAMES, *APART)))
    parser.add_argument("--json", type=Path, help="write {benchmark: {name: {median, min, max}}} to this file")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: tiny sizes, numbers without meaning")
    given = parser.parse_args(arguments)
    keep_freed_memory()  # as every run does; the competitors in this process gain by it too
    console, found = Console(), {}
    for name in given.names:
        try:
            figures = module_of(name).run(given.quick)
        except ValueError as error:
            parser.exit(1, f"error: {error}\n")
        found[name] = figures
        console.print(table(name, figures))
        if given.json is not None:  # after each: an interrupted command keeps what it measured
            given.json.parent.mkdir(parents=True, exist_ok=True)
            write_json(given.json, {**found, "about": about(given.quick)})


def module_of(name: str) -> ModuleType:
    """The benchmark of that name."""
    return importlib.import_module(f"tools.benchmark.{name}")


def about(quick: bool) -> dict[str, object]:
    """Where the figures come from; versions of the competitors too."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peers = {name: version(name) for name in PEERS if find_spec(name.replace("-cpu", ""))}
    return {"device": device_name(device), "cpu": cpu_name(), "versions": versions() | peers, "quick": quick}


def table(name: str, figures: dict[str, Figure]) -> Table:
    """Median, least and greatest of each figure."""
    drawn = Table("figure", "median", "min", "max", "what it is", title=f"benchmark: {name}", title_justify="left")
    for key, value in figures.items():
        drawn.add_row(key, *(number(value[column]) for column in ("median", "min", "max")), meaning(name, key))
    return drawn


def number(value: float) -> str:
    """Three significant digits, whole numbers above a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def meaning(benchmark: str, figure: str) -> str:
    """What a figure says, in words."""
    if figure.startswith("files/"):
        return "speed of decoding and two crops beside torchvision's ImageFolder and DataLoader, two workers each"
    return next((words for ending, words in MEANINGS[benchmark].items() if figure.endswith(ending)), "")
