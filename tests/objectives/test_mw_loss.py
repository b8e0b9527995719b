import math

import pytest
import torch
from torch import Tensor

from ssl_framework.evaluation.probes.text_similarity import below
from ssl_framework.objectives import mw_loss
from ssl_framework.objectives.mw_loss import MWLoss, off_diagonal
from tests.golden import golden, mix_rows
from tests.objectives import loops


def loss(z0: Tensor, z1: Tensor, tau: float, pooled: bool) -> float:
    return MWLoss(tau, pooled)(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)["loss"].item()


def loop(z0: Tensor, z1: Tensor, tau: float, pooled: bool) -> float:
    terms = [
        math.log1p(math.exp((float(z0[j] @ z1[k]) - float(z0[i] @ z1[i])) / tau))
        for i in range(len(z0))
        for j in (range(len(z0)) if pooled else [i])
        for k in range(len(z0))
        if k != j
    ]
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("pooled", "name"), [(True, "pooled loss (6 positives x 30 non-positives)"), (False, "own row only")]
)
def test_golden(pooled: bool, name: str) -> None:
    assert loss(mix_rows(0), mix_rows(1), 0.05, pooled) == pytest.approx(golden(f"mw_loss: {name}"), rel=1e-7)


def test_golden_auc_which_the_loss_bounds() -> None:
    scores = mix_rows(0) @ mix_rows(1).T
    auc = below(off_diagonal(scores, 0).flatten(), scores.diagonal())
    assert auc == pytest.approx(golden("mw_loss: pooled AUC"), abs=1e-8)
    assert 1 - auc <= loss(mix_rows(0), mix_rows(1), 1.0, True) / math.log(2)


@pytest.mark.parametrize("pooled", [True, False])
def test_equals_the_loop(pooled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    expected = loop(z0, z1, 0.2, pooled)
    assert loss(z0, z1, 0.2, pooled) == pytest.approx(expected, abs=1e-10)
    monkeypatch.setattr("ssl_framework.functional.TILE", 40)  # two right answers at a time
    a, b = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    found = MWLoss(0.2, pooled)(loops.outputs(a, b), None, loops.batch(5), loops.CLOCK)["loss"]
    found.backward()
    assert found.item() == pytest.approx(expected, abs=1e-10)
    assert a.grad is not None and a.grad.abs().max() > 0


def test_a_shift_of_one_querys_scores_counts_only_where_wrong_pairs_are_pooled() -> None:
    assert off_diagonal(torch.arange(6.0).view(2, 3), 1).tolist() == [[0.0, 2.0], [3.0, 4.0]]
    assert mw_loss.__doc__


def test_one_pair_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no wrong one: raise data\.batch_size"):
        loss(loops.random_unit(1, 4, 0), loops.random_unit(1, 4, 1), 0.1, True)
