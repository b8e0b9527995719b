"""Runs of this project repeated with lightly's own heads, losses and memories: equal weights and views, in float64.

Every difference to lightly is one of two kinds. Most are named by a key, which the overrides below set: they then agree
step by step. Three have none: the cosine of the rate and of the teacher's momentum (see ``optim.warmup_cosine`` and
``EMATeacher.update``), the size of BYOL's loss, and the bias of lightly's prototypes, which the paper's have not.
Skipped without the ``bench`` extra.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import unit
from ssl_framework.models.backbone import Backbone
from ssl_framework.module import SSLModule
from ssl_framework.optim import warmup_cosine
from ssl_framework.views.image import Views
from tests.small_runs import config, run_in
from tools.parity.peers import At, Widths, peer, rising, take_over

pytest.importorskip("lightly")

STEPS, BATCH, TOLERANCE = 6, 8, 1e-9
BOTH = ("student.join_views=false",)
SCALED = ("student.heads.projector.last_norm=scale_and_shift",)


def sizes(projector: str, out: int = 12, predictor: bool = False) -> tuple[str, ...]:
    found = (f"student.heads.projector.hidden={projector}", f"student.heads.projector.out={out}")
    back = ("student.heads.predictor.hidden=[10]", f"student.heads.predictor.out={out}")
    return found + (back if predictor else ())


class Case(NamedTuple):
    overrides: tuple[str, ...]  # of ours
    number: int = 0  # of prototypes, outputs, rows of the memory
    constant: bool = False  # the teacher's momentum
    scale: float = 1.0  # ours = scale * theirs + offset
    offset: float = 0.0
    swapped: bool = False  # lightly's second view is our first


CASES = {
    "simclr": Case((*sizes("[16]"), *BOTH, *SCALED)),
    "dcl": Case((*sizes("[16]"), *BOTH, *SCALED)),
    "dclw": Case((*sizes("[16]"), *BOTH, *SCALED)),
    "mocov2": Case((*sizes("[16]"), "objective.queue.size=24", "teacher.shuffle_bn=null"), 24, constant=True),
    "byol": Case(sizes("[16]", predictor=True), scale=4.0, offset=4.0),
    "barlow_twins": Case((*sizes("[16,16]"), "objective.scale=1")),
    "vicreg": Case((*sizes("[16,16]"), "optimizer=sgd")),
    "simsiam": Case((*sizes("[16,16]", predictor=True), "optimizer.weight_decay=5e-4")),
    "nnclr": Case(
        (*sizes("[16,16]", predictor=True), "objective.queue.size=24", "objective.negatives=all"), 24, swapped=True
    ),
    "swav": Case(
        (*sizes("[16]"), *BOTH, "objective.num_prototypes=20", "objective.queue=null", "objective.frozen=0"), 20
    ),
    "tico": Case((*sizes("[16]"), "optimizer=sgd")),
    "dino": Case(
        (
            *("student.heads.projector.hidden=[16,16]", "student.heads.projector.bottleneck=12", *BOTH),
            *("student.heads.projector.out=20", "student.heads.projector.frozen=0"),
            *("objective.teacher_temperature=0.04", "objective.first_teacher_temperature=0.04"),
        ),
        20,
    ),
}


class Recording:
    """What a real run saw and did.

    Attributes:
        views: of each step.
        initial, final: the module's state before and after.
        losses: of each step.
    """

    def __init__(self) -> None:
        self.views: list[list[Tensor]] = []
        self.losses: list[float] = []
        self.initial: dict[str, Tensor] = {}
        self.final: dict[str, Tensor] = {}


def recorded(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    found = Recording()
    make, step, start = Views.forward, SSLModule.training_step, SSLModule.on_fit_start

    def forward(self: Views, *args: Any, **kwargs: Any) -> Any:
        batch = make(self, *args, **kwargs)
        found.views.append([view.clone() for view in batch.views])
        return batch

    def training_step(self: SSLModule, *args: Any) -> Tensor:
        loss = step(self, *args)
        found.losses.append(loss.item())
        return loss

    def on_fit_start(self: SSLModule) -> None:
        start(self)
        for name, rows in self.objective.named_buffers():
            if name == "queue.rows":  # of unit length in float32 only, and lightly's loss makes them so again
                rows.copy_(unit(rows))
        found.initial.update({name: x.clone() for name, x in self.state_dict().items()})
        found.final = self.state_dict()

    for owner, replacement in ((Views, forward), (SSLModule, training_step), (SSLModule, on_fit_start)):
        monkeypatch.setattr(owner, replacement.__name__, replacement)
    common = (f"data.source.num_train={STEPS * BATCH}", "data.source.num_test=16", f"data.batch_size={BATCH}")
    calm = ("trainer=cpu", "trainer.precision=64-true", "trainer.max_epochs=1", "report=none", "evaluation=none")
    rate = ("optimizer.lr_per_256=1.6", "optimizer.warmup=0.3", "trainer.log_every_n_steps=1")
    run_in(folder, config(f"method={method}", *common, *calm, *rate, *CASES[method].overrides))
    return found


@pytest.fixture
def float64() -> Iterator[None]:
    """Ends with float32 again: lightly makes tensors of temperatures anew at every step, in the default precision."""
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", CASES)
def test_lightly_repeats_the_run(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[method]
    ours = recorded(method, tmp_path, monkeypatch)
    assert len(ours.losses) == STEPS
    widths = Widths(192, 16, 12, predictor=10, number=case.number)
    model = peer(method, Backbone("ssl_tiny", None, 32, 3, channels_last=["cpu"]), widths).double()
    take_over(model, ours.initial)
    torch.set_default_dtype(torch.float64)
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = config(f"method={method}", *case.overrides).optimizer.weight_decay
    optimizer = torch.optim.SGD(trained, lr=1.0, momentum=0.9, weight_decay=decay)
    for step, views in enumerate(ours.views):
        optimizer.param_groups[0]["lr"] = 1.6 * BATCH / 256 * warmup_cosine(step, STEPS, 0.3)
        moved = 0.99 if case.constant or step == 0 else rising(step - 1, STEPS, 0.99)
        loss = case.scale * model.loss(*(reversed(views) if case.swapped else views), At(step, STEPS, moved))
        assert loss.item() + case.offset == pytest.approx(ours.losses[step], rel=TOLERANCE, abs=TOLERANCE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mine = model.backbone.inner.state_dict()  # type: ignore[union-attr]
    for name, x in mine.items():
        if case.swapped and "running" in name:  # they know which view came last
            continue
        expected = ours.final[f"student.backbone.{name}"]
        torch.testing.assert_close(x, expected, rtol=TOLERANCE, atol=TOLERANCE)
