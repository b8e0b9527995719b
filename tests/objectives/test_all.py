"""What every objective must survive: tiny and odd batches, equal vectors, no positives, half-precision inputs."""

import pytest
import torch
from torch import Tensor

from ssl_framework.types import Clock
from tests.objectives.table import DIM, OBJECTIVES

CLOCK = Clock(step=1, epoch=0, total_steps=3)


def finite_loss_and_gradient(name: str, views: list[Tensor]) -> Tensor:
    case = OBJECTIVES[name]
    views = [view.requires_grad_() for view in views]
    objective = case.build()
    teacher = case.outputs([view.detach() for view in views], case.teacher) if case.teacher else None
    count = len(views[0])
    batch = case.batch(torch.arange(count), case.labels(torch.arange(count) % 2), views)
    loss = objective(case.outputs(views, case.student), teacher, batch, CLOCK)["loss"]
    loss.backward()
    seen = [views[v] for v in case.student if v not in case.answers_only]
    assert torch.isfinite(loss)
    assert all(view.grad is not None and torch.isfinite(view.grad).all() for view in seen)
    return loss.detach()


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_small_and_odd_batches(name: str, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    if count < OBJECTIVES[name].least:
        with pytest.raises(ValueError, match=r"raise data\.batch_size"):
            finite_loss_and_gradient(name, [torch.randn(count, DIM) for _ in range(OBJECTIVES[name].num_views)])
        return
    finite_loss_and_gradient(
        name, [torch.randn(count, DIM, generator=generator) for _ in range(OBJECTIVES[name].num_views)]
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_equal_and_zero_vectors(name: str) -> None:
    one = torch.randn(1, DIM, generator=torch.Generator().manual_seed(0))
    finite_loss_and_gradient(name, [one.repeat(6, 1) for _ in range(OBJECTIVES[name].num_views)])
    some = torch.randn(6, DIM, generator=torch.Generator().manual_seed(1))
    some[2] = 0.0
    finite_loss_and_gradient(name, [some.clone() for _ in range(OBJECTIVES[name].num_views)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_values_of_half_precision_and_of_any_size(name: str, dtype: torch.dtype) -> None:
    """What encoders in half precision give: the module widens it, the values stay coarse and may be large or small."""
    for scale in (1e-4, 1.0, 1e3):
        generator = torch.Generator().manual_seed(0)
        views = [scale * torch.randn(6, DIM, generator=generator) for _ in range(OBJECTIVES[name].num_views)]
        finite_loss_and_gradient(name, [view.to(dtype).float() for view in views])
