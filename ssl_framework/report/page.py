"""The report of a run: one HTML file that needs nothing else, with what was run, its results and pictures of it.

A picture that cannot be drawn is one line of text in its place.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import matplotlib
import matplotlib.pyplot as plt
from annotated_types import Interval
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf

from ssl_framework.arguments import Seed, guarded
from ssl_framework.evaluation.protocol import protocol_of
from ssl_framework.report.evaluations import REFERENCES
from ssl_framework.report.html import embedded, rendered
from ssl_framework.report.inspection import Inspection
from ssl_framework.report.pictures.augmented import draw_mixes, draw_views
from ssl_framework.report.pictures.curves import draw_evaluation, draw_scores, draw_training
from ssl_framework.report.pictures.features import (
    draw_attention,
    draw_confusion,
    draw_embedding,
    draw_neighbours,
    draw_spectrum,
)
from ssl_framework.report.pictures.similarity import draw_similarity
from ssl_framework.runs.folder import RunFolder, write
from ssl_framework.runs.numbers import several, shown, speed_of, unit_of, work_of

matplotlib.use("Agg")


class Picture(NamedTuple):
    """A picture of a run, as it is drawn."""

    name: str  # of its file and of its image in loggers
    title: str
    draw: Callable[[Inspection, Path], str | None]  # writes a PNG; returns words about it, None where it does not apply


@runtime_checkable
class Shows(Protocol):
    """A logger that shows pictures."""

    def show(self, picture: Path, name: str, title: str, step: int) -> None:
        """Takes a PNG file."""


class Drawn(NamedTuple):
    """What became of a picture."""

    picture: Picture
    path: Path | None  # None: it could not be drawn
    words: str  # about it, or why it could not be drawn


@guarded
class Page:
    """Draws the pictures of a run into ``<run folder>/pictures`` and writes ``<run folder>/report.html``.

    Args:
        num_images: images read for pictures of views, features and classes: half from the train split, half from test.
        tsne: whether a t-SNE stands beside the PCA; it takes seconds more.
        seed: of the choice of images and of what pictures draw at random.
    """

    def __init__(self, num_images: Annotated[int, Interval(ge=20, le=20_000)], tsne: bool, seed: Seed) -> None:
        self.num_images = num_images
        self.seed = seed
        self.pictures = pictures_of(tsne)

    def write(self, folder: Path, loggers: Iterable[Logger] = (), overrides: Sequence[str] = ()) -> Path:
        """Draws, sends the pictures to TensorBoard and W&B where these loggers are among ``loggers``, and writes.

        Args:
            folder: of the run, finished or in training.
            loggers: of the run.
            overrides: of the run's config, such as another ``data.root``.

        Returns:
            The path of the page.

        Raises:
            FileNotFoundError, ValueError: there is no run in the folder, or its config is not trusted.
        """
        seen = Inspection(folder, overrides, self.num_images, self.seed)
        drawn = [found for picture in self.pictures if (found := attempt(seen, picture)) is not None]
        for each in drawn:
            if each.path is not None:
                send(each.path, each.picture, loggers, seen.result.get("steps", 0))
        path = RunFolder(folder).page_file
        write(path, page(seen, drawn))
        return path


def pictures_of(tsne: bool) -> list[Picture]:
    """All pictures in the order of the page."""
    kinds = ("pca", "tsne") if tsne else ("pca",)
    return [
        Picture("evaluation", "Evaluation over training", draw_evaluation),
        Picture("training", "Training", draw_training),
        Picture("scores", "Similarities of views", draw_scores),
        Picture("neighbours", "Nearest neighbours", draw_neighbours),
        Picture("confusion", "Classes", draw_confusion),
        Picture("embedding", "Features in the plane", partial(draw_embedding, kinds=kinds)),
        Picture("spectrum", "Singular values", draw_spectrum),
        Picture("attention", "Attention", draw_attention),
        Picture("views", "Augmented views", draw_views),
        Picture("mixes", "Mixtures", draw_mixes),
        Picture("similarity", "Pairs of modalities", draw_similarity),
    ]


def attempt(seen: Inspection, picture: Picture) -> Drawn | None:
    """Draws a picture; ``None`` where it does not apply to the run. Whatever goes wrong is words."""
    path = seen.run.pictures / f"{picture.name}.png"
    path.unlink(missing_ok=True)  # of an earlier page
    try:
        words = picture.draw(seen, path)
    except Exception as error:
        plt.close("all")
        reason = " ".join(str(error).split()) or "no reason given"
        return Drawn(picture, None, reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}")
    return None if words is None else Drawn(picture, path, words)


def send(path: Path, picture: Picture, loggers: Iterable[Logger], step: int) -> None:
    """Gives a picture to the loggers that show pictures; one that refuses it does not end the run."""
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                logger.log_image(f"report/{picture.name}", [str(path)], caption=[picture.title])
            elif isinstance(logger, TensorBoardLogger):
                pixels = (plt.imread(path)[..., :3] * 255).round().astype("uint8")  # [h, w, 3]
                logger.experiment.add_image(f"report/{picture.name}", pixels, step, dataformats="HWC")
            elif isinstance(logger, Shows):
                logger.show(path, f"report/{picture.name}", picture.title, step)
        except Exception as error:
            print(f"note: {type(logger).__name__} did not take {path.name}: {' '.join(str(error).split())}")


def page(seen: Inspection, drawn: Sequence[Drawn]) -> str:
    """The HTML file as a string."""
    return rendered(
        "run.html",
        title=f"{seen.about['method']} on {seen.about['data']}, seed {seen.stored.seed}",
        state=state(seen),
        reload=0,
        scores=scores_of(seen),
        facts=facts(seen),
        command=seen.about["command"],
        parts=parts_of(drawn),
        config=OmegaConf.to_yaml(seen.stored),
    )


class Part(NamedTuple):
    """A picture with its words, or the titles of pictures that were left out for the same reason."""

    title: str
    picture: str  # the file, embedded; "" for pictures left out
    words: str


def parts_of(drawn: Sequence[Drawn]) -> list[Part]:
    """The pictures in their order; neighbours that were left out for the same reason are one part."""
    parts = []
    for path, group in itertools.groupby(drawn, lambda each: each.words if each.path is None else each.path):
        alike = list(group)
        titles = ", ".join(each.picture.title for each in alike)
        if isinstance(path, Path):
            parts.append(Part(titles, embedded(path.read_bytes()), alike[0].words))
        else:
            parts.append(Part(titles, "", path.rstrip(".")))
    return parts


def state(seen: Inspection) -> str:
    """Whether the run has ended, and how far it is if not."""
    where = f"{os.path.relpath(seen.folder)}, page of {time.strftime('%Y-%m-%d %H:%M')}"
    if seen.result:
        minutes, seconds = divmod(round(seen.result["wall_seconds"]), 60)
        return f"Finished: {seen.result['steps']:,} steps, {minutes} min {seconds} s. {where}"
    try:
        epoch, step = seen.checkpoint["epoch"] + 1, seen.checkpoint["global_step"]
        return f"Not finished: checkpoint of step {step:,}, epoch {epoch} of {seen.stored.trainer.max_epochs}. {where}"
    except (ValueError, KeyError):
        return f"Not finished: no checkpoint yet. {where}"


class Scores(NamedTuple):
    """The table of metrics beside the references, and the protocol they were measured with."""

    heads: list[str]
    rows: list[list[str]]
    protocol: str
    intervals: bool


def scores_of(seen: Inspection) -> Scores | None:
    """Of the run's last evaluation; ``None`` where there is none."""
    return scores_in(seen.scores, seen.stored, seen.about["overrides"])


def scores_in(scores: Mapping[str, Any], cfg: DictConfig, overrides: Sequence[str]) -> Scores | None:
    """Of an evaluation with its metrics, their intervals, baselines and protocol, of a run that is configured so."""
    metrics, spread = scores.get("metrics") or {}, scores.get("intervals") or {}
    if not metrics:
        return None
    baselines = scores.get("baselines") or {}
    columns = {"trained": metrics} | {words: baselines.get(name) for name, words in REFERENCES.items()}
    present = {name: values for name, values in columns.items() if values}
    rows = []
    for metric in metrics:
        cells = [shown(metric, values[metric]) if metric in values else "-" for values in present.values()]
        if metric in spread:
            cells[0] += " ({} to {})".format(*(shown(metric, end) for end in spread[metric]))
        rows.append([metric, *cells])
    protocol = scores.get("protocol") or protocol_of(cfg.evaluation, overrides)
    changed = f", changed: {', '.join(protocol['changed'])}" if protocol["changed"] else ""
    heads = [unit_of(list(metrics)), *(f"{n} (95 % interval)" if n == "trained" and spread else n for n in present)]
    return Scores(heads, rows, f"{protocol['name']}{changed}: {protocol['images']}", bool(spread))


def facts(seen: Inspection) -> dict[str, Any]:
    """What was run, on what and with what; empty where it is not known."""
    cfg, result = seen.stored, seen.result
    return {
        "method": f"{seen.about['method']} ({cfg.objective._target_.rsplit('.', 1)[-1]})",
        "composed of": ", ".join(f"{k}={v}" for k, v in seen.about.get("choices", {}).items() if k != "method"),
        "data": seen.about["data"] + images_line(result),
        "backbone": backbone_line(seen),
        "length": f"{cfg.trainer.max_epochs} epoch{'s' * (cfg.trainer.max_epochs != 1)}, batch {cfg.data.batch_size}",
        "speed": speed_of(result) if result else "",
        "work": work_of(result),
        "device": device_line(result),
        "precision": cfg.trainer.precision,
        "commit": result.get("commit") or "",
        "config hash": result.get("config_hash", ""),
        "versions": ", ".join(f"{name} {number}" for name, number in result.get("versions", {}).items()),
    }


def images_line(result: dict[str, Any]) -> str:
    """``: 10,000 images for pretraining, 2,000 for test``, or nothing."""
    count, samples = result.get("images"), several(result.get("sample", "image"))
    return f": {count['pretrain']:,} {samples} for pretraining, {count['test']:,} for test" if count else ""


def backbone_line(seen: Inspection) -> str:
    """Name and size of the backbone, the size where the network can be loaded."""
    try:
        backbone = seen.module.student.backbone
        trained = sum(p.numel() for p in backbone.net.parameters())
        whole = sum(p.numel() for p in seen.module.student.parameters())
        return f"{backbone.name}, {trained / 1e6:.2f} M parameters; {whole / 1e6:.2f} M with heads"
    except Exception:
        return OmegaConf.select(seen.stored, "student.backbone.name") or ""


def device_line(result: dict[str, Any]) -> str:
    """Device and number of processes."""
    if not result:
        return ""
    parts = [result["device"], result.get("cpu") or "", f"{result['processes']} processes"]
    return ", ".join(part for part in parts if part and part != "1 processes")
