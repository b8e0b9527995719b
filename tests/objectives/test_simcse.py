"""SimCSE and WhitenedCSE: golden values, loops, and a whitening whose gradient stays finite where eigenvalues meet."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.simcse import SimCSE
from ssl_framework.objectives.whitened_cse import InverseRoot, WhitenedCSE, whitened
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def loss(*views: Tensor, tau: float = 0.05) -> float:
    return SimCSE(tau)(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)["loss"].item()


def loop(views: list[Tensor], tau: float) -> float:
    total = 0.0
    for other in views[1:]:
        for i, anchor in enumerate(views[0]):
            logits = [float(anchor @ key / (anchor.norm() * key.norm())) / tau for key in other]
            total += math.log(sum(map(math.exp, logits))) - logits[i]
    return total / len(views[0])


def test_golden_of_three_versions() -> None:
    expected = golden("whitened_cse: multi-positive loss, sum of two terms")
    assert loss(*map(mix_rows, range(3))) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("count", [2, 3])
def test_equals_the_loop(count: int) -> None:
    views = [loops.random_unit(5, 7, v) * (1 + v) for v in range(count)]
    assert loss(*views, tau=0.2) == pytest.approx(loop(views, 0.2), abs=1e-10)


def test_equal_vectors_cost_the_logarithm_of_the_batch() -> None:
    same = torch.ones(4, 3, dtype=torch.float64)
    assert loss(same, same) == pytest.approx(math.log(4))


def test_golden_whitening() -> None:
    white = whitened(mix_raw(0), 2, torch.arange(8), 0.0)
    assert [white[0, 0].item(), white.abs().sum().item()] == pytest.approx(
        golden("whitened_cse: group ZCA of raw0: entry [0,0], sum of absolute values"), abs=2e-7
    )


def test_groups_are_white_and_channels_keep_their_places() -> None:
    x, order = loops.random_unit(40, 8, 0), torch.tensor([3, 1, 7, 0, 2, 5, 6, 4])
    white = whitened(x, 2, order, 0.0)
    for group in (order[:4], order[4:]):
        own = white[:, group]
        torch.testing.assert_close(own.T @ own / 40, torch.eye(4, dtype=x.dtype))
        centred = x[:, group] - x[:, group].mean(dim=0)
        assert (own * centred).sum() > 0  # turned no further than it must
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(8, dtype=x.dtype))


def test_the_gradient_of_the_inverse_root() -> None:
    a = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = (a @ a.mT + torch.eye(4)).requires_grad_()

    def of_symmetric(x: Tensor) -> Tensor:
        return InverseRoot.apply((x + x.mT) / 2)

    assert torch.autograd.gradcheck(of_symmetric, (matrix,))
    torch.testing.assert_close(
        InverseRoot.apply(matrix) @ InverseRoot.apply(matrix) @ matrix, torch.eye(4).expand(2, -1, -1).double()
    )
    equal = torch.eye(3).expand(1, -1, -1).clone().requires_grad_()
    InverseRoot.apply(equal).sum().backward()
    torch.testing.assert_close(equal.grad, torch.full((1, 3, 3), -0.5))


def test_whitened_versions_of_one_sentence_are_its_positives() -> None:
    objective = WhitenedCSE(0.2, 2, False, 1e-3)
    objective.through_heads = lambda x: {"projector": x}
    views = [loops.random_unit(6, 4, v) for v in range(3)]
    outputs = [{"pooled": x, "projector": x} for x in views]
    found = objective(outputs, None, loops.batch(6), loops.CLOCK)["loss"].item()  # type: ignore[arg-type]
    expected = loop([whitened(x, 2, torch.arange(4), 1e-3) for x in views], 0.2)
    assert found == pytest.approx(expected, abs=1e-10)
    shuffled = WhitenedCSE(0.2, 2, True, 1e-3)
    shuffled.through_heads = objective.through_heads
    once, again = (shuffled(outputs, None, loops.batch(6), loops.CLOCK)["loss"].item() for _ in range(2))  # type: ignore
    assert once == again != found  # drawn from the clock


def test_groups_that_do_not_divide_the_width_are_refused() -> None:
    objective = WhitenedCSE(0.2, 3, False, 1e-3)
    objective.through_heads = lambda x: {"projector": x}
    with pytest.raises(ValueError, match=r"objective\.groups is 3, which does not divide the width 4 of features"):
        objective([dict.fromkeys(("pooled", "projector"), torch.randn(4, 4))] * 2, None, loops.batch(4), loops.CLOCK)
