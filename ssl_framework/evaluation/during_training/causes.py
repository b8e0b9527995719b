"""Why a run has collapsed, most likely, and what to change: told from its config, in the keys of the command line."""

from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from ssl_framework.arguments import shown
from ssl_framework.objectives.base import Objective
from ssl_framework.runs.suggestions import nodes_of, one_of

WARMEST = 1.0
"""Temperature above which a softmax over cosines, of which none is above 1, hardly tells a negative from another."""

PREDICTOR = "predictor"
"""Name of a head behind the one that a teacher has as well."""

DENSE = "dense_projector"
"""Name of a head of positions that a teacher has as well."""

PROPAGATION = "propagation"
"""Name of the head behind it that stands in a predictor's place."""

LONG_WARMUP = 0.1
"""Share of the run over which the papers' large rates are reached."""


def known_cause(cfg: DictConfig) -> str | None:
    """``most likely because ...: set ...`` where the config lacks what the method needs against collapse.

    A missing predictor is sure: of BYOL's projectors that were drawn together without one, ``embedding_std`` fell from
    0.81 to 0.04 in 56 steps on shapes. A teacher that is a copy (``teacher.momentum=0``) did no harm there. So is an
    argument that the objective names in ``against_collapse`` and that is switched off.

    Args:
        cfg: of the run, resolved.

    Returns:
        ``None`` where nothing is missing.
    """
    found = (cause_in(cfg, place) for place in ("objective", "objective.host"))
    return next((cause for cause in found if cause is not None), None)


def cause_in(cfg: DictConfig, place: str) -> str | None:
    """``known_cause`` of the objective at a key, or of the one that it is added to."""
    target = OmegaConf.select(cfg, f"{place}._target_")
    objective: Any = get_class(target) if target else Objective
    needed = objective.against_collapse
    pairs = (("student_head", "teacher_head", "the teacher's"), (PREDICTOR, "projector", "the other view's"))
    for predicts, predicted, whose in (pair for pair in pairs if pair[0] in needed):
        read = [OmegaConf.select(cfg, f"{place}.{key}") for key in (predicts, predicted)]
        if read[0] is not None and read[0] == read[1]:
            between = PROPAGATION if read[0] == DENSE else PREDICTOR
            with_it = [name for name, head in nodes_of("head").items() if between in head]
            return (
                f"most likely because the student's {read[0]} is drawn to {whose} without a {between} between: choose "
                f"{one_of('head', with_it)}another objective, and set {place}.{predicts}={between}"
            )
    for centre in (f"{place}.centre", f"{place}.targets.centre"):
        if OmegaConf.select(cfg, f"{centre}.momentum") == 1:
            return (
                f"most likely because {centre}.momentum=1 leaves the teacher's outputs uncentred, so that one wins "
                f"for all samples: set {centre}.momentum=0.9"
            )
    for key in needed:
        value = OmegaConf.select(cfg, f"{place}.{key}")
        if not value:
            alike = [node for node in nodes_of("objective").values() if node.get("_target_") == target]
            cures = (f"set {place}.{key}={shown(node[key])}" for node in alike if node.get(key))
            cure = next(cures, "give it another value")
            return f"most likely because {place}.{key}={shown(value)} takes away what keeps embeddings apart: {cure}"
    return None


def likely_cause(cfg: DictConfig) -> str:
    """``most likely because ...: set ...``; what nothing in the config explains is put down to the learning rate.

    Args:
        cfg: of the run, resolved.
    """
    if (known := known_cause(cfg)) is not None:
        return known
    temperature = OmegaConf.select(cfg, "objective.temperature")
    if isinstance(temperature, int | float) and temperature > WARMEST:
        return (
            f"most likely because objective.temperature={temperature:g} leaves hardly any difference between "
            "negatives: set objective.temperature=0.2"
        )
    rate, warmup = (OmegaConf.select(cfg, f"optimizer.{key}") for key in ("lr_per_256", "warmup"))
    if rate is None:
        return "most likely because the learning rate is too high: lower it"
    longer = f" optimizer.warmup={LONG_WARMUP}" if warmup is not None and warmup < LONG_WARMUP else ""
    return f"most likely because the learning rate is too high: set optimizer.lr_per_256={rate / 3:.2g}{longer}"
