"""What is compared: methods at sizes and settings that both sides share, and runs of ours with one factor changed."""

from typing import NamedTuple

from tools.parity.peers import Widths

FEATURES = 192
"""Of ``backbone=tiny``."""

BATCH, EPOCHS, SEEDS = 128, 10, (0, 1, 2)
RATE, DECAY, WARMUP, MOMENTUM = 0.06, 5e-4, 0.05, 0.9  # of SGD, for a batch of 128
RISE = 0.99  # a teacher's momentum at first

VIEWS = {
    **dict.fromkeys(("simclr", "dcl", "swav", "simsiam"), "simclr"),
    **dict.fromkeys(("byol", "barlow_twins", "nnclr", "dino"), "byol"),
    "mocov2": "mocov2",
    "vicreg": "vicreg",
}
"""Method -> the views of its own file, which are those of lightly's transform of that name."""


class Case(NamedTuple):
    """A method at the sizes of this comparison."""

    widths: Widths
    overrides: tuple[str, ...]  # that give this project's method those sizes and common settings
    rate: float = RATE


def head(name: str, hidden: int, out: int, layers: int = 1) -> tuple[str, ...]:
    """Overrides of an MLP head."""
    key = f"student.heads.{name}"
    return f"{key}.hidden=[{','.join([str(hidden)] * layers)}]", f"{key}.out={out}"


CASES = {
    "simclr": Case(Widths(FEATURES, 512, 128), ()),
    "mocov2": Case(Widths(FEATURES, 512, 128, number=4096), ()),
    "byol": Case(Widths(FEATURES, 1024, 256, predictor=1024), ()),
    "barlow_twins": Case(Widths(FEATURES, 1024, 1024), head("projector", 1024, 1024, 2)),
    "nnclr": Case(
        Widths(FEATURES, 512, 128, predictor=512, number=4096),
        (*head("projector", 512, 128, 2), *head("predictor", 512, 128)),
    ),
    "swav": Case(
        Widths(FEATURES, 512, 128, number=512),
        (*head("projector", 512, 128), "objective.num_prototypes=512", "objective.queue=null", "objective.frozen=0"),
    ),
    "simsiam": Case(
        Widths(FEATURES, 512, 512, predictor=128), (*head("projector", 512, 512, 2), *head("predictor", 128, 512))
    ),
    "vicreg": Case(  # its loss is some ten times as large
        Widths(FEATURES, 1024, 1024), (*head("projector", 1024, 1024, 2), "optimizer=sgd"), RATE / 10
    ),
    "dino": Case(
        Widths(FEATURES, 512, 256, number=1024),
        (
            *("student.heads.projector.hidden=[512,512]", "student.heads.projector.out=1024"),
            *("student.heads.projector.frozen=0", "objective.teacher_temperature=0.04"),
        ),
    ),
    "dcl": Case(Widths(FEATURES, 512, 128), ()),
}

VARIANTS = {
    ("simclr", "ours, last_norm=false"): ("student.heads.projector.last_norm=false",),
    ("nnclr", "ours, negatives=all"): ("objective.negatives=all",),
    ("barlow_twins", "ours, scale=1"): ("objective.scale=1",),
}
"""Runs that tell a cause of a difference: one factor of ours changed."""

OPTIMIZER = (f"optimizer.weight_decay={DECAY}", f"optimizer.warmup={WARMUP}", "optimizer.exclude_bias_and_norm=false")
COMMON = (
    *("data=cifar10_10k", f"data.batch_size={BATCH}", "backbone=tiny", "trainer=cpu", "trainer.precision=32-true"),
    *("trainer.num_threads=1", "trainer.log_every_n_steps=1", "report=none"),
    *("evaluation=frozen", "evaluation.every_n_epochs=0", "evaluation.baselines=false"),
)


def overrides(method: str, side: str) -> tuple[str, ...]:
    """The words behind ``train.py``."""
    case = CASES[method]
    own = (*case.overrides, *VARIANTS.get((method, side), ()))
    return f"method={method}", *COMMON, *own, *OPTIMIZER, f"optimizer.lr_per_256={case.rate * 256 / BATCH}"
