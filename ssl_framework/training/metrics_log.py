"""The record of a run that is always written (metrics.csv, one row a number), and the loggers beside it."""

import contextlib
import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build
from ssl_framework.runs.durable import replacing, sync
from ssl_framework.runs.folder import RunFolder, metric_rows
from ssl_framework.runs.messages import sentence
from ssl_framework.runs.system import writing
from ssl_framework.training.loggers import Tracker
from ssl_framework.training.place import is_first

COLUMNS = ("step", "name", "value")


class MetricsCSV(Logger):
    """Appends to ``metrics.csv`` (columns step, name, value), so nothing is lost when a run is interrupted.

    Lightning's own CSV logger rewrites the file with one column a metric and starts anew on resume.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = RunFolder(Path(folder)).metrics_file

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return "0"

    @property
    @rank_zero_experiment
    def experiment(self) -> None:
        return None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The resolved config lies beside the file already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends one row a metric, in the order of names. Lightning adds "epoch" to every call; it is left out."""
        new = not self.path.exists()
        with writing(self.path), self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            rows = sorted((name, repr(float(value))) for name, value in metrics.items() if name != "epoch")
            writer.writerows((step, *row) for row in rows)  # sorted: a resumed run meets them in another order

    @rank_zero_only
    def drop_after(self, step: int, evaluated: bool, every: int) -> str:
        """Removes what a run resumed after ``step`` updates will write again, and a row that was cut off.

        A training row counts the updates before its own, so that of ``step`` itself belongs to the next one; an
        evaluation's row describes the state after ``step`` updates.

        Args:
            step: of the checkpoint.
            evaluated: whether what is evaluated after this step was, before the checkpoint was made.
            every: steps between two rows.

        Returns:
            A sentence where rows are missing that were written before the checkpoint, "" where none are.
        """
        if not self.path.exists():
            return lost_rows([], step, every)
        own = step if evaluated else None
        rows = [row for row in metric_rows(self.path) if row[0] < step or (row[0] == own and is_of_state(row[1]))]
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        return lost_rows(rows, step, every)

    @rank_zero_only
    def sync(self) -> None:
        """Waits until all rows are on the disk."""
        if self.path.exists():
            sync(self.path)


def is_of_state(name: str) -> bool:
    """Whether a metric describes the state after a step, not what went on in it."""
    return name.startswith("eval/")


def lost_rows(rows: Sequence[tuple[int, str, Any]], step: int, every: int) -> str:
    """A sentence if the last rows before ``step`` are not there, nor any where there should be some; "" otherwise."""
    steps = sorted({at for at, name, _ in rows if not is_of_state(name)})
    last = steps[-1] if steps else -1
    if step - 1 - last < max([every, *(b - a for a, b in itertools.pairwise(steps[-2:]))]):  # it may have been another
        return ""
    where = f"ends with step {last}" if steps else "was lost"
    return f"metrics.csv {where}, and the run goes on at step {step}: the rows between are missing"


def build_loggers(cfg: DictConfig, folder: RunFolder, resume: bool) -> list[Logger]:
    """The chosen loggers beside metrics.csv; only rank 0 has any.

    Args:
        cfg: of the run, resolved.
        folder: of the run, which keeps under which name it goes on at a logger's.
        resume: whether it is resumed.

    Raises:
        ValueError: a logger cannot start (not installed, not logged in).
    """
    if not is_first():
        return []
    names = folder.read_names_elsewhere() if resume else {}
    loggers = []
    with contextlib.ExitStack() as begun:
        for key, node in cfg.logger.items():
            logger = started(OmegaConf.create({**node, "id": names[key]}) if key in names else node)
            if isinstance(logger, Tracker):
                names[key] = begin(logger, node, cfg)
                begun.callback(logger.end, False)
            loggers.append(logger)
        begun.pop_all()
    if names:
        folder.write_names_elsewhere(names)
    return loggers


def begin(logger: Tracker, node: DictConfig, cfg: DictConfig) -> str:
    """Begins its run, or goes on with it; the name of it. Errors as ``started``."""
    with starting(node):
        return logger.begin(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def started(node: DictConfig) -> Logger:
    """A logger that runs: a missing login must not surface after an hour."""
    with starting(node):
        logger: Any = build(node)
        if not isinstance(logger, Tracker):
            logger.experiment  # noqa: B018
        return logger


@contextlib.contextmanager
def starting(node: DictConfig) -> Iterator[None]:
    """Whatever a logger raises, in one sentence."""
    try:
        yield
    except Exception as error:
        reason = " ".join(sentence(error).split())
        if isinstance(error, ModuleNotFoundError):
            reason = f"{error.name} is not installed: pip install {error.name}"
        raise ValueError(
            f"logger: {node._target_.rsplit('.', 1)[-1]} cannot start: {reason} (logger=csv always works)"
        ) from error
