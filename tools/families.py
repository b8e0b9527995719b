"""Every family of timm through a whole run: two steps of pretraining, an evaluation, an export, and both read back.

    python -m tools.families [MODEL ...] [--minutes M]   the smallest model of each family, or these; writes
                                                         results/families/. Stopped, it goes on where it was.

A family is a file of ``timm.models``. Its smallest model takes part if it has fewer than ``MOST`` parameters; ``NAMED``
are further ones that people ask for by name. Each runs at the smallest of the usual image sizes that it takes, in a
process of its own, which has ``SECONDS``.
"""

import argparse
import contextlib
import csv
import functools
import io
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ssl_framework.exporting import export, load
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.sizes import SIZES, fits
from ssl_framework.runs.config import hosted
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.training.run import run

ROOT = Path(__file__).resolve().parents[1]
RECORD = Path("results") / "families"

BEGUN = Path("outputs") / "families"
"""Where the rows lie until all are there."""

MOST = 8e6
"""Parameters."""

SECONDS = 300

NAMED = (
    *("deit3_small_patch16_224", "vit_pwee_patch16_reg1_gap_256", "eva02_tiny_patch14_224", "mobilenetv4_conv_small"),
    *("swin_tiny_patch4_window7_224", "hiera_tiny_224", "mixer_s32_224", "twins_svt_small", "volo_d1_224"),
    *("efficientformer_l1",),
)
"""Larger ones, or of files that a smaller model lies in: DeiT III, registers, EVA-02, Swin ..."""


class Row(NamedTuple):
    """What a model came to."""

    family: str
    model: str
    parameters: float  # millions
    image_size: int  # px
    told: str  # options that timm had to be given for this size
    dim: int
    map: str  # h x w of the places that dense evaluations read; or why there are none
    outcome: str  # "whole", or the sentence that ended it
    seconds: float


@functools.cache
def template() -> DictConfig:
    """A small run of SimCLR, unresolved; not to be changed."""
    own = (
        *("data=shapes", "data.source.num_train=16", "data.source.num_test=16", "data.batch_size=8"),
        *("trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "trainer.max_steps=2"),
        *("backbone=timm", "evaluation=knn_imagenet", "evaluation.baselines=false", "report=none"),
    )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hosted(compose("train", overrides=["method=simclr", *own]))


def config_of(model: str, size: int) -> DictConfig:
    """The run of one model on pictures of one size."""
    cfg = template().copy()
    cfg.backbone.name, cfg.data.image_size, cfg.evaluation.probes.knn.k = model, size, 5
    OmegaConf.resolve(cfg)
    return cfg


def trial(model: str, size: int, folder: Path) -> Row:
    """Trains, evaluates, exports and reads back in this process.

    Args:
        model: timm's name.
        size: of the images, pixels.
        folder: of the run.

    Raises:
        ValueError: what came back is not what was trained.
    """
    started = time.perf_counter()
    cfg = config_of(model, size)
    RunFolder(folder).prepare(cfg, about := {"method": "simclr", "data": "shapes", "overrides": [], "command": ""})
    run(cfg, folder, about, False)
    result = RunFolder(folder).read_result()
    if result["steps"] != 2 or not result["metrics"]:
        raise ValueError(f"the run took {result['steps']} steps and found {result['metrics']}")
    trained = load(folder)
    backbone: Any = trained.module.student.backbone
    pixels = trained.pixels()  # [2, 3, S, S]
    with torch.no_grad():
        found = backbone(pixels)["pooled"]  # [2, D]
        again = exported(folder)(pixels)  # [2, D]
        if not torch.equal(found, again):
            raise ValueError(f"the exported features differ by {(found - again).abs().max():.1e}")
        places = places_of(backbone, pixels)
    count = sum(p.numel() for p in backbone.net.parameters())
    told = " ".join(f"{key}={value}" for key, value in backbone.options.items())
    seconds = round(time.perf_counter() - started, 1)
    return Row(family_of(model), model, round(count / 1e6, 2), size, told, found.shape[1], places, "whole", seconds)


def exported(folder: Path) -> Any:
    """The network that the exported file's own line loads, in evaluation mode."""
    path, said = export(folder, folder / "backbone.safetensors")
    assert said.startswith("timm.create_model(") and str(path) in said
    return eval(said, {"timm": timm}).eval()


def places_of(backbone: Backbone, pixels: torch.Tensor) -> str:
    """Rows and columns of the last map, or why there is none."""
    try:
        return "{} x {}".format(*backbone.spatial(pixels).shape[2:])
    except ValueError as error:
        return "none: " + str(error).partition(", which ")[2].partition(", and timm")[2].partition(":")[0]


def family_of(model: str) -> str:
    """The file of ``timm.models`` that a model lies in."""
    return timm.models.model_entrypoint(model).__module__.rpartition(".")[2]


def smallest() -> list[str]:
    """The smallest model of every family that has one below ``MOST``, and ``NAMED``."""
    found = []
    for family in timm.list_modules():
        counted = sorted((count, name) for name in timm.list_models(module=family) if (count := count_of(name)) < MOST)
        real = [name for _, name in counted if not name.startswith(("test_", "ssl_"))]
        found += real[:1]
    return [*found, *(name for name in NAMED if name not in found)]


def count_of(model: str) -> float:
    """Parameters of a model, which is not filled with numbers; infinite where it cannot be made so."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(model, num_classes=0).parameters())
    except Exception:  # a package that is missing, a shape that has to be computed
        return float("inf")


def ended(model: str) -> Row:
    """The row of one model, tried in a process of its own."""
    size = next((size for size in SIZES if fits(model, 3, size, {})), 0)
    nothing = Row(family_of(model), model, round(count_of(model) / 1e6, 2), size, "", 0, "", "", 0.0)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=tried, args=(model, size or 224, theirs))
    process.start()
    row = mine.recv() if mine.poll(SECONDS) else f"took more than {SECONDS} s"
    process.kill()
    process.join()
    return row if isinstance(row, Row) else nothing._replace(outcome=str(row))


def tried(model: str, size: int, answer: Any) -> None:
    """Sends the row, or the sentence that ended the trial."""
    try:
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
            torch.set_num_threads(1)
            found: Row | str = trial(model, size, Path(name) / "run")
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
    answer.send(found)


def write(rows: Sequence[Row], path: Path) -> None:
    """A CSV file of rows, as many as there are so far."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def read(path: Path) -> list[Row]:
    """What ``write`` has written."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [Row(r[0], r[1], float(r[2]), int(r[3]), r[4], int(r[5]), r[6], r[7], float(r[8])) for r in rows]


def main() -> None:
    """The command of this file."""
    parser = argparse.ArgumentParser(prog="python -m tools.families")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further model is begun")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    versions = f"timm {timm.__version__}, torch {torch.__version__}"
    begun = ROOT / BEGUN / f"{versions.replace(', ', '_').replace(' ', '_')}.csv"
    begun.parent.mkdir(parents=True, exist_ok=True)
    rows = [] if given.models or not begun.is_file() else read(begun)
    for row in rows:
        print(*row, sep="  ")
    for model in given.models or smallest():
        if model in {row.model for row in rows}:
            continue
        if time.monotonic() > end:
            print("stopped: the same command goes on")
            return
        rows.append(ended(model))
        print(*rows[-1], sep="  ", flush=True)
        write(rows, begun)
    (ROOT / RECORD).mkdir(parents=True, exist_ok=True)
    begun.replace(ROOT / RECORD / "table.csv")
    whole = sum(row.outcome == "whole" for row in rows)
    print(f"{whole} of {len(rows)} went whole; {versions}")


if __name__ == "__main__":
    main()
