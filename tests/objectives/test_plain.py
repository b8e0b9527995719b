"""Objectives on plain tensors: the numbers of a run, without one."""

import pytest
import torch

from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.byol import BYOL
from ssl_framework.objectives.mixco import MixCo
from ssl_framework.objectives.moco import MoCo
from ssl_framework.objectives.pixpro import PixPro
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.objectives.sogclr import SogCLR
from ssl_framework.objectives.supcon import SupCon
from ssl_framework.objectives.vicregl import VICRegL
from ssl_framework.types import Batch, Clock
from tests.objectives.table import DIM, OBJECTIVES, Case

CLOCK = Clock(step=1, epoch=0, total_steps=3)
COUNT = 6
INDEX, LABEL = torch.arange(COUNT), torch.arange(COUNT) % 2
CLEAN = [
    name
    for name, case in OBJECTIVES.items()
    if not (case.mixed or case.added or case.maps or case.patches or case.inputs or case.answers or case.neighbours)
    and "masks" not in case.build().requires
]


def views_of(case: Case) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(COUNT, DIM, generator=generator).requires_grad_() for _ in range(case.num_views)]


def as_in_a_run(case: Case, objective: Objective, views: list[torch.Tensor]) -> torch.Tensor:
    teacher = case.outputs([view.detach() for view in views], case.teacher) if case.teacher else None
    batch = Batch([], INDEX, LABEL)
    return objective(case.outputs(views, case.student), teacher, batch, CLOCK)["loss"]


@pytest.mark.parametrize("name", CLEAN)
def test_the_loss_of_named_outputs_is_that_of_a_run(name: str) -> None:
    case = OBJECTIVES[name]
    views = views_of(case)
    teacher = case.outputs(views, case.teacher) if case.teacher else None
    objective = case.build()
    torch.manual_seed(0)
    found = objective.loss_of(
        *case.outputs(views, case.student), teacher=teacher, label=LABEL, index=INDEX, clock=CLOCK
    )
    torch.manual_seed(0)
    assert torch.equal(found, as_in_a_run(case, case.build(), views))


@pytest.mark.parametrize("name", [name for name in CLEAN if OBJECTIVES[name].heads == ("projector",)])
def test_a_tensor_stands_for_the_head_that_is_read(name: str) -> None:
    case = OBJECTIVES[name]
    views = views_of(case)
    student = [views[v] if v in case.student else None for v in range(case.num_views)]
    teacher = [views[v] if v in case.teacher else None for v in range(case.num_views)] if case.teacher else None
    objective = case.build()
    torch.manual_seed(0)
    found = objective.loss_of(*student, teacher=teacher, label=LABEL, index=INDEX, clock=CLOCK)
    torch.manual_seed(0)
    assert torch.equal(found, as_in_a_run(case, case.build(), views))
    found.backward()
    assert all((views[v].grad is not None) == (v in case.student) for v in range(case.num_views))


def test_a_loop_of_ones_own_learns_by_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    net, objective = torch.nn.Linear(8, 4), SimCLR(temperature=0.2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = []
    for _ in range(60):
        loss = objective.loss_of(net(x + 0.1 * torch.randn_like(x)), net(x + 0.1 * torch.randn_like(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_queue_goes_on_and_half_precision_is_widened() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(4, DIM), torch.randn(4, DIM)
    moco = MoCo(0.2, Queue(8, DIM))
    first = moco.loss_of(q, teacher=[k])
    assert moco.loss_of(q, teacher=[k]) > first  # now the keys themselves are among the negatives
    z0, z1 = torch.randn(4, DIM).bfloat16(), torch.randn(4, DIM).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(SimCLR(0.2).loss_of(z0, z1), SimCLR(0.2).loss_of(z0.float(), z1.float()))


def test_what_is_lacking_is_named() -> None:
    z = torch.randn(4, DIM)
    for objective, given, said in (
        (SimCLR(0.2), (z,), "SimCLR reads 2 views of a sample, but was given 1"),
        (SimCLR(0.2), (z, None), "SimCLR reads 2 views of a sample, but was given 1"),
        (SupCon(0.2, 0.1), (z, z), "SupCon needs more than views: give it label=, the class of each sample"),
        (SimCLR(0.2), (z, z[:3]), r"SimCLR was given views of \[3, 4\] samples: row b of each must be of sample b"),
        (BYOL(), (z, z), r"BYOL needs more than views: give it teacher=\[k0, ...\]"),
        (SogCLR(0.1, 0.9), (z, z), "SogCLR needs more than views: give it index="),
        (PixPro(0.7), (z, z), "PixPro needs more than views: give it teacher="),
        (VICRegL(25.0, 25.0, 1.0, 0.75, (3, 2)), (z, z), "VICRegL needs more than views: give it maps and a Batch"),
        (MixCo(SimCLR(0.5), 0.5, 0.5), (z, z), r"MixCo needs mixtures \(added mixtures\), which plain tensors"),
    ):
        with pytest.raises(ValueError, match=said):
            objective.loss_of(*given)


def test_what_no_head_gives_is_refused() -> None:
    z, label = torch.randn(4, DIM), torch.arange(4)
    for objective, given, options, said in (
        (
            SimCLR(0.2),
            (z[:, None], z),
            {},
            r"SimCLR was given a view 0 of torch\.float32 \[4, 1, \d+\]: give what a head",
        ),
        (SimCLR(0.2), (z, label), {}, r"SimCLR was given a view 1 of torch\.int64 \[4\]: give what a head makes"),
        (SimCLR(0.2), (z, z.tolist()), {}, "SimCLR was given a view 1 of type list: give a tensor"),
        (SimCLR(0.2), (z, z[:, 1:]), {}, r"SimCLR cannot compare views \[\[4, \d+\], \[4, \d+\]\]: "),
        (
            SupCon(0.2, 0.1),
            (z, z),
            {"label": label[:3]},
            r"SupCon was given label=\[3\] with views of 4 samples: give a tensor",
        ),
        (SupCon(0.2, 0.1), (z, z), {"label": [0, 1, 0, 1]}, "SupCon was given label=list with views of 4 samples"),
        (MoCo(0.2, Queue(8, DIM)), (z,), {"teacher": [label]}, r"MoCo was given a teacher's view 0 of torch\.int64"),
        (MoCo(0.2, Queue(8, DIM + 1)), (z,), {"teacher": [z]}, r"MoCo cannot compare views .* and a teacher's \[\[4, "),
    ):
        with pytest.raises(ValueError, match=said):
            objective.loss_of(*given, **options)
