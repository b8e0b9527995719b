import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.models.towers import Towers
from ssl_framework.objectives.cwcl import CWCL, weighted
from ssl_framework.training.parts import begin_with_weights
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.small_runs import small


def by_loops(z: Tensor, keys: Tensor, like: Tensor, tau: float) -> float:
    """Eq. 3, sample by sample."""
    n, total = len(z), 0.0
    for i in range(n):
        weight = [loops.dot(like[i], like[j]) / 2 + 0.5 for j in range(n)]
        logits = [loops.dot(z[i], keys[j]) / tau for j in range(n)]
        denominator = loops.log_sum_exp(logits)
        total -= sum(w * (s - denominator) for w, s in zip(weight, logits, strict=True)) / sum(weight)
    return total / n


def test_golden() -> None:
    found = weighted(mix_rows(0), mix_rows(1), mix_rows(2), mix_rows(2), torch.tensor(0.1).double()).mean()
    assert found.item() == pytest.approx(golden("cwcl: one side, logits A B^T/tau, weights from C"), abs=1e-7)


@pytest.mark.parametrize("frozen", [0, 1])
def test_equals_the_loop(frozen: int) -> None:
    z = [loops.random_unit(5, 7, v) for v in range(2)]
    like = [loops.random_unit(5, 3, 2 + v) for v in range(2)]
    objective = CWCL(0.25, 100, frozen).double()
    outputs = [{"projector": z[v], "pooled": 3 * like[v]} for v in range(2)]
    found = objective(outputs, None, loops.batch(5), loops.CLOCK)
    there = by_loops(z[frozen], z[1 - frozen], like[frozen], 0.25)
    plain = 0.0
    for i in range(5):
        logits = [loops.dot(z[1 - frozen][i], z[frozen][j]) / 0.25 for j in range(5)]
        plain += (loops.log_sum_exp(logits) - logits[i]) / 5
    assert found["loss"].item() == pytest.approx((there + plain) / 2, abs=1e-7)
    assert found["weighted_loss"].item() == pytest.approx(there, abs=1e-7)


def test_where_all_samples_differ_as_far_as_they_can_each_has_itself_alone() -> None:
    """Two opposite samples weigh 0 for each other: the plain cross-entropy."""
    like = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    z, keys = loops.random_unit(2, 4, 0), loops.random_unit(2, 4, 1)
    logits = z @ keys.T / 0.5
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(2), reduction="none")
    torch.testing.assert_close(weighted(z, keys, like, like, torch.tensor(0.5).double()), expected)


def test_the_frozen_tower_stays_and_wants_weights() -> None:
    module = build_module(small("cwcl"), True, 48)
    assert isinstance(module.student, Towers) and module.student.frozen == ("image",)
    assert not any(p.requires_grad for p in module.student.tower("image").parameters())
    with pytest.raises(ValueError, match=r"student\.frozen names image, .* set backbone\.weights=<run folder or file>"):
        begin_with_weights(module)


def test_no_third_view() -> None:
    with pytest.raises(ValueError, match=r"objective\.frozen is 2, but there are two views"):
        CWCL(0.07, 100, 2)
