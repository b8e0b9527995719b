"""The runs that a study needs. A run is known by the hash of its resolved config and its seed, whichever study wants it
and whatever it is called there, so what two studies share is run once."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.config import config_hash, hosted
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import composing
from ssl_framework.runs.overrides import latest_of
from ssl_framework.runs.trust import refuse_foreign
from ssl_framework.study.declaration import Study

POOL = Path("outputs") / "studies" / "runs"
"""Where the runs of all studies lie."""


class Run(NamedTuple):
    """One run, begun or not."""

    overrides: tuple[str, ...]
    seed: int
    folder: RunFolder


class Cell(NamedTuple):
    """A place in the table, and its run of one seed."""

    row: str
    column: str
    metrics: tuple[str, ...]  # names in result.json, in the order of the study's
    run: Run


def cells_of(
    study: Study, scale: str, extra: Sequence[str] = (), seeds: Sequence[int] = (), pool: Path = POOL
) -> list[Cell]:
    """All cells of a study, seed after seed, so that an interrupted one has whole tables of fewer seeds.

    Args:
        study: the declaration.
        scale: one of its scales.
        extra: overrides of every run, such as ``data.root=data``.
        seeds: in place of the study's.
        pool: where runs lie.

    Raises:
        ValueError: there is no such scale, or nothing fills in a part of a metric's name.
        HydraException, OmegaConfBaseException: a run does not compose.
    """
    if scale not in study.scales:
        raise ValueError(f"study={study.name} has no scale={scale}: choose one of {', '.join(study.scales)}")
    GlobalHydra.instance().clear()
    cells = []
    known: dict[tuple[str, ...], str] = {}
    with composing():
        for seed in seeds or study.seeds:
            for row in study.rows:
                for column in study.columns:
                    own = tuple(latest_of([*study.scales[scale].overrides, *row.overrides, *column.overrides, *extra]))
                    if own not in known:
                        cfg = hosted(hydra.compose("train", list(own)))
                        if study.foreign:
                            refuse_foreign_study(cfg, study)
                        known[own] = config_hash(cfg)
                    run = Run((*own, f"seed={seed}"), seed, RunFolder(pool / f"{known[own]}-seed{seed}"))
                    names = {"row": row.name, "column": column.name, **row.names, **column.names}
                    metrics = tuple(metric.format(**names) for metric in study.metrics.values())
                    cells.append(Cell(row.name, column.name, metrics, run))
    return cells


def refuse_foreign_study(cfg: DictConfig, study: Study) -> None:
    """Refuses a study of a file that would construct what a run folder could not name either.

    Raises:
        ValueError: a class that is not trusted.
    """
    content = OmegaConf.to_container(cfg, resolve=True)
    refuse_foreign(content, f"study={study.name}")


def runs_of(cells: Sequence[Cell]) -> list[Run]:
    """The different runs of the cells, in their order."""
    return list({cell.run.folder: cell.run for cell in cells}.values())
