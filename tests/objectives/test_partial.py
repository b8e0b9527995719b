"""What objectives share that read some labels."""

import pytest
import torch

from ssl_framework.distributed import mean_of
from ssl_framework.objectives.partial import labelled_supcon
from tests.golden import core_view
from tests.objectives import loops


def test_the_mean_of_some_and_of_none() -> None:
    values = torch.tensor([1.0, 2.0, 4.0])
    assert mean_of(values, torch.tensor([True, False, True])).item() == pytest.approx(2.5)
    assert mean_of(values, torch.zeros(3, dtype=torch.bool)).item() == 0.0


def test_supcon_among_the_labelled_is_that_without_the_others() -> None:
    z, label = core_view(0), torch.tensor([0, -1, 1, 0, -1, 2])
    kept = label >= 0
    expected = loops.supcon(z[kept], label[kept].tolist(), 0.2)
    torch.testing.assert_close(labelled_supcon(z, label, 0.2).item(), expected)
    lonely = z.clone().requires_grad_()
    loss = labelled_supcon(lonely, torch.tensor([-1, -1, 3, -1, -1, -1]), 0.2)
    loss.backward()
    assert loss.item() == 0.0 and lonely.grad is not None and lonely.grad.eq(0).all()
