"""Why a run has collapsed, most likely, and what to change: told from its config, in the keys of the command line."""

from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.suggestions import choices

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


def likely_cause(cfg: DictConfig) -> str:
    """``most likely because ...: set ...``; what nothing in the config explains is put down to the learning rate.

    A missing predictor is sure: of BYOL's projectors that were drawn together without one, ``embedding_std`` fell from
    0.81 to 0.04 in 56 steps on shapes. A teacher that is a copy (``teacher.momentum=0``) did no harm there.

    Args:
        cfg: of the run, resolved.
    """
    read = [OmegaConf.select(cfg, f"objective.{key}") for key in ("student_head", "teacher_head")]
    if read[0] is not None and read[0] == read[1]:
        between = PROPAGATION if read[0] == DENSE else PREDICTOR
        return (
            f"most likely because the student's {read[0]} is drawn to the teacher's without a {between} between: "
            f"choose {choices('head', lambda head: between in head)}another objective, and set "
            f"objective.student_head={between}"
        )
    if OmegaConf.select(cfg, "objective.centre.momentum") == 1:
        return (
            "most likely because objective.centre.momentum=1 leaves the teacher's outputs uncentred, so that one wins "
            "for all samples: set objective.centre.momentum=0.9"
        )
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
