"""Vectors of a folder of images, or of a data set, as .npz, .csv or .parquet: path, label, split, vector.

python scripts/embed.py run=outputs/latest images=photos out=photos.parquet       every image below a folder
python scripts/embed.py run=outputs/latest images=list.csv out=photos.npz         those that a CSV file lists
python scripts/embed.py run=outputs/latest data=cifar10 data.root=data out=v.npz  the train and the test split
python scripts/embed.py backbone=net.safetensors images=photos out=v.npz          a file that scripts/export.py wrote
python scripts/embed.py backbone=timm:resnet18 pretrained=true images=photos out=v.npz   timm's own weights

A CSV file has the columns path, label and split; columns={path: file, label: class} names others. A command that was
stopped goes on where it was. Files that cannot be read are named and left out.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build_source, modalities_of
from ssl_framework.device import use_threads
from ssl_framework.evaluation.embedding import (
    Embedded,
    FileSamples,
    Samples,
    SplitSamples,
    embed_to,
    stamp,
    writer_of,
)
from ssl_framework.evaluation.request import Request, Subject, data_sets, foreign_of, run_of, split_overrides
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import admit
from ssl_framework.runs.messages import as_typed, commanded, nearest, quiet, refusing
from ssl_framework.runs.overrides import composed, merged, names_of, override_each, pair, parsed, resolved

WORDS = ("run", "backbone", "model", "pretrained", "images", "columns", "data", "trainer", "out")
"""What the command knows beside ``key=value``."""


@commanded()
def main(arguments: list[str] | None = None) -> None:
    """The command; see this module's docstring."""
    arguments = admit(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(arguments):
        print(as_typed(str(__doc__)))
        return
    quiet()
    with refusing():
        request = request_of(arguments)
        out, started = Path(request.words["out"]).expanduser(), time.perf_counter()
        embedded = embed(request, out)
    say(embedded, time.perf_counter() - started)
    print(out)


def request_of(arguments: list[str]) -> Request:
    """The words and overrides of a command.

    Raises:
        ValueError: an unknown or repeated word, or one that is missing.
    """
    words: dict[str, str] = {}
    overrides = []
    for item in arguments:
        key, value = pair(item)
        if key in words:
            raise ValueError(f"{key}= is there twice: give it once")
        if key in WORDS:
            words[key] = value
        elif "." in key or key == "seed":
            overrides.append(item)
        else:
            raise ValueError(
                f"there is no {key}={nearest(key, WORDS)}: embed takes {', '.join(f'{w}=' for w in WORDS)}"
            )
    for left, right, example in (
        ("run", "backbone", "run=outputs/latest, or backbone=timm:resnet18"),
        ("images", "data", "images=<folder>, or data=<name>"),
    ):
        if (left in words) == (right in words):
            raise ValueError(f"give one of {left}= and {right}=: {example}")
    if "columns" in words and "images" not in words:
        raise ValueError("columns= are of the CSV file that images= names: leave them out, or give images=<file>")
    if "out" not in words:
        raise ValueError("say where the vectors go: out=vectors.npz, .csv or .parquet")
    return Request(words, overrides, list(arguments))


def embed(request: Request, out: Path) -> Embedded:
    """Writes what a command asks for.

    Raises:
        ValueError, FileNotFoundError: what the user asked for cannot be done.
    """
    writer_of(out)
    words = request.words
    of_evaluation, of_data, of_base = split_overrides(request.overrides)
    if of_evaluation:
        raise ValueError(f"{of_evaluation[0]} is of evaluations: leave it out")
    base, make = run_of(request, of_base) if "run" in words else foreign_of(request, of_base)
    if "trainer" in words:
        base = merged(base, composed("trainer", names_of("trainer", words["trainer"])[0]))
        override_each([base], [item for item in of_base if item.startswith("trainer.")], "configs/trainer")
    own = data_of(base, words, of_data)
    subject = make(own)
    refuse_other_modality(subject, own)
    use_threads(base.trainer.num_threads)
    device = torch.device("cuda" if torch.cuda.is_available() and base.trainer.accelerator != "cpu" else "cpu")
    samples = samples_of(subject, own, words)
    return embed_to(out, subject.model.to(device), samples, about(subject, request), progress(len(samples.items)))


def data_of(base: DictConfig, words: dict[str, str], overrides: list[str]) -> DictConfig:
    """``{data: ...}`` of a data set, or of files in a folder."""
    name = words.get("data", "files")
    if "," in name:
        raise ValueError(f"data={name} names several data sets: give one, each has an output of its own")
    return data_sets(base if "data" in words else OmegaConf.create({}), name, overrides)[0]


def refuse_other_modality(subject: Subject, own: DictConfig) -> None:
    """Raises ValueError where the backbone reads samples of another kind."""
    reads, given = modalities_of(subject.cfg.data)[0], modalities_of(own.data)[0]
    if reads != given:
        raise ValueError(
            f"the backbone reads samples of modality {reads}, but these are of {given}: choose data= of {reads}"
        )


def samples_of(subject: Subject, own: DictConfig, words: dict[str, str]) -> Samples:
    """What is embedded."""
    if "images" in words:
        views = subject.cfg.views
        if own.data.table is not None:
            raise ValueError(
                f"data.table={own.data.table} goes with data=files: give images={own.data.table} in the place of "
                f"images={words['images']}"
            )
        place, columns = Path(words["images"]).expanduser(), columns_of(words)
        return FileSamples(place, views.image_size, views.channels, columns)
    cfg = resolved(merged(subject.cfg, {"data": None}, own), "data")
    source = build_source(cfg)
    splits = {name: source.load(name) for name in ("train", "test")}
    return SplitSamples(splits, OmegaConf.to_yaml(cfg.data.source))


def columns_of(words: dict[str, str]) -> dict[str, str]:
    """What a CSV file of images says -> the column that says it, as ``columns=`` has it.

    Raises:
        ValueError: it is no such mapping.
    """
    found = parsed(f"columns={words['columns']}") if "columns" in words else {}
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found.values()):
        raise ValueError(f"columns={words['columns']} names no columns: write columns={{path: file, label: class}}")
    return {str(key): name for key, name in found.items()}


def about(subject: Subject, request: Request) -> dict[str, str]:
    """The backbone, in words that differ where it does."""
    made = OmegaConf.to_yaml(OmegaConf.masked_copy(subject.cfg, ["seed", "backbone", "views"]))
    if "run" not in request.words:
        return {"backbone": str(subject.about["weights"]), "config": made}
    return {"backbone": stamp(RunFolder(Path(request.words["run"])).checkpoint_file), "config": made}


def progress(total: int):  # type: ignore[no-untyped-def]
    """Shows in a terminal how far it is."""

    def show(done: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def say(embedded: Embedded, seconds: float) -> None:
    """How much, how fast, and what was left out."""
    before = embedded.number + len(embedded.failed) - embedded.computed
    rest = f" ({before:,} were there already)" if before else ""
    rate = f", {60 * embedded.computed / seconds:,.0f} a minute" if embedded.computed else ""
    print(f"{embedded.number:,} vectors of {embedded.dim} numbers in {seconds:.1f} s{rate}{rest}")
    if embedded.failed:
        first = "; ".join(f"{path} ({why})" for path, why in list(embedded.failed.items())[:3])
        more = f" and {len(embedded.failed) - 3} more" if len(embedded.failed) > 3 else ""
        print(f"note: {len(embedded.failed)} files could not be read and were left out: {first}{more}", file=sys.stderr)
