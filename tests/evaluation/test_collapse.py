"""The alarm against collapse: quiet on the recipe, and it speaks where a run lacks what the recipe has against it.

Short trainings of small networks on digits. Which methods have something that a config can take away, and what happens
then, stands here: ``BROKEN`` and ``ALIKE``.

No alarm is right where nothing collapses. Measured with the tiny network, 60 steps of 32 digits, embedding_std at first
and at last, and of how many of the 16 dimensions it is (participation ratio):

    simsiam, no predictor, but the projector's last normalisation and the stop-gradient   1.00, 1.00    8.2, 4.4
    vibcreg, variance=0 covariance=0: the head's whitening keeps them apart                 .85,  .89    8.4, 2.0
    barlow_twins, off_diagonal_weight=0: as the recipe within so many steps                 .85,  .90    7.8, 4.0
    frossl, invariance=1000; w_mse, eps=0.999: no argument takes away what they have        .86,  .91    7.1, 4.9
"""

import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_class

from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.evaluation.during_training.alarm import CollapseAlarm
from ssl_framework.evaluation.during_training.causes import known_cause
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.training.parts import alarms
from ssl_framework.types import Clock
from tests.small_runs import METHODS, config

PROJECTOR = ("student.heads.projector.hidden=[32]", "student.heads.projector.out=16")
PREDICTOR = ("student.heads.predictor.hidden=[32]", "student.heads.predictor.out=16")
QUEUE = ("objective.queue.size=96",)
DIRECTIONS = ("student.heads.projector.hidden=[32]", "objective.num_directions=16")
DINO = tuple(f"student.heads.projector.{size}" for size in ("hidden=[32]", "bottleneck=8", "out=30"))

SMALL = {
    "byol": PROJECTOR + PREDICTOR,
    "simsiam": PROJECTOR + PREDICTOR,
    "vicreg": PROJECTOR,
    "tico": PROJECTOR,
    "lejepa": DIRECTIONS,
    "dino": DINO,
}
"""Methods that are run here -> what makes them small."""

BROKEN = {
    "byol": ("head=barlow_twins", "objective.student_head=projector", *PROJECTOR),
    "simsiam": ("head=ressl", "objective.predictor=projector", *PROJECTOR),
    "vicreg": ("objective.variance=0", *PROJECTOR),
    "tico": ("objective.rho=0", *PROJECTOR),
    "lejepa": ("objective.lam=0", *DIRECTIONS),
    "dino": ("objective.centre.momentum=1", *DINO),
}
"""Method -> a run of it that collapses."""

ALIKE = {
    "imix_byol": "head=barlow_twins objective.student_head=projector",
    "unmix_byol": "head=barlow_twins objective.host.student_head=projector",
    "bgrl": "head=grace objective.student_head=projector",
    "nnbyol": "head=barlow_twins objective.student_head=projector",
    "pixpro": "head=densecl objective.student_head=dense_projector",
    "nnsiam": "head=ressl objective.predictor=projector",
    "beclr": "head=barlow_twins objective.predictor=projector",
    "vicregl": "objective.variance=0",
    "vibcreg": "objective.variance=0",  # its whitening still keeps them apart, see above
    "visreg": "objective.lam=0",
    "ibot": "objective.targets.centre.momentum=1",
    "msn": "objective.weight=0",
    "pmsn": "objective.weight=0",
    "circuitgcl": "objective.scatter_weight=0",
}
"""Method -> what breaks it as it breaks one above: the cause is told, they are not run."""

BATCH = 32


def said_of(method: str, *overrides: str, steps: int) -> list[str]:
    """What the alarm says of a method's run of so many steps, looking at every fifth; it ends with the first word."""
    cfg = config(
        f"method={method}", "data=digits", "backbone=mlp", "backbone.options.width=64", "optimizer=adamw",
        "optimizer.lr_per_256=0.02", "optimizer.weight_decay=0", *overrides,
    )  # fmt: skip
    torch.manual_seed(0)
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0])
    optimizer, schedule = module.recipe.build(module, BATCH, steps)
    (alarm,) = alarms(cfg)
    assert isinstance(alarm, CollapseAlarm)
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=5, loggers=[])
    alarm.on_fit_start(trainer, module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            torch.manual_seed(step)
            rows, clock = torch.randperm(data.shape[0])[:BATCH].sort().values, Clock(step, 0, steps)
            optimizer.zero_grad()
            module.losses(take(data, rows), clock)["loss"].backward()
            optimizer.step()
            schedule.step()
            if module.teacher is not None:
                module.teacher.update(module.student, clock)
            trainer.global_step += 1
            alarm.on_train_batch_end(trainer)
            if alarm.warned:
                break
    return [str(warning.message) for warning in caught if "the encoder" in str(warning.message)]


@pytest.mark.parametrize("method", SMALL)
def test_it_is_quiet_on_the_recipe_and_speaks_where_that_is_broken(method: str) -> None:
    assert said_of(method, *SMALL[method], steps=40) == []
    (message,) = said_of(method, *BROKEN[method], steps=120)
    cause = known_cause(config(f"method={method}", *BROKEN[method]))
    assert cause is not None and message.endswith(cause)


@pytest.mark.parametrize("method", ["mocov2", "supcon", "supervised"])
def test_it_speaks_at_a_rate_that_no_network_stands(method: str) -> None:
    """What is left to break of a loss with negatives or labels."""
    (message,) = said_of(method, *(QUEUE if method == "mocov2" else ()), "optimizer.lr_per_256=100", steps=40)
    assert (
        "almost all the same way" in message and "the learning rate is too high: set optimizer.lr_per_256=33" in message
    )


@pytest.mark.parametrize("method", ALIKE)
def test_the_cause_is_told_of_methods_that_collapse_as_another(method: str) -> None:
    cause = known_cause(config(f"method={method}", *ALIKE[method].split()))
    assert cause is not None and cause.startswith("most likely because ")
    assert known_cause(config(f"method={method}")) is None


def test_every_method_with_something_against_collapse_is_among_them() -> None:
    """All others have negatives, labels, pixels or targets of a fixed number of groups in their loss itself, which no
    argument takes away, or whiten what they compare."""
    for method in METHODS:
        node = objective_of(method)
        nodes = [part for part in (node, node.get("host")) if part]
        needed = [name for part in nodes for name in get_class(part["_target_"]).against_collapse]  # type: ignore[attr-defined]
        centres = [node.get("centre"), (node.get("targets") or {}).get("centre")]
        centred = any(isinstance(centre, dict) and "momentum" in centre for centre in centres)
        assert bool(needed or centred) == (method in BROKEN or method in ALIKE), method


def objective_of(method: str) -> dict[str, Any]:
    """The node of a method's objective, as its file has it."""
    chosen = re.search(r"override /objective: (\w+)", (CONFIGS / "method" / f"{method}.yaml").read_text())
    assert chosen is not None
    content = yaml.safe_load((CONFIGS / "objective" / f"{chosen[1]}.yaml").read_text())
    return content.get("objective", content)
