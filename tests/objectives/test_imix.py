"""Losses of mixed views: i-Mix (Lee et al., ICLR 2021, arXiv:2010.08887) on SimCLR, DCL, MoCo and BYOL."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.feature_mixers.mochi import MoCHi
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.byol import BYOL
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.infonce import contrast, mixed_queries
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.types import Batch, Mix
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.objectives.test_moco import objective

LAM = [0.9, 0.6, 0.8, 0.7, 0.55, 1.0]
PARTNER = [1, 2, 0, 5, 3, 4]


def mix(lam: list[float] = LAM, partner: list[int] = PARTNER) -> Mix:
    nothing = torch.empty(0)
    share = torch.tensor(lam, dtype=torch.float64)
    source = torch.stack([torch.arange(6), torch.tensor(partner)], dim=1)
    return Mix(nothing, source, torch.stack([share, 1 - share], dim=1), None, 0)


def batch(*mixes: Mix | None) -> Batch:
    return Batch([], torch.arange(6), mix=list(mixes))


def soft_cross_entropy(q: Tensor, rows: Tensor, tau: float, decoupled: bool = False) -> float:
    """-lam log p_i - (1 - lam) log p_partner, by loops; the first six rows are the samples' keys."""
    total = 0.0
    for i in range(6):
        s = [loops.dot(q[i], row) / tau for row in rows]
        denominator = [x for j, x in enumerate(s) if not decoupled or j not in (i, PARTNER[i])]
        total += loops.log_sum_exp(denominator) - LAM[i] * s[i] - (1 - LAM[i]) * s[PARTNER[i]]
    return total / 6


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("view", [0, 1])
def test_on_simclr_the_mixed_view_asks_and_the_clean_one_answers(view: int, decoupled: bool) -> None:
    z = [loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1)]
    host: Objective = DCL(0.3, None) if decoupled else SimCLR(0.3)
    mixes = [mix() if v == view else None for v in range(2)]
    got = host(loops.outputs(*z), None, batch(*mixes), loops.CLOCK)["loss"]
    assert got.item() == pytest.approx(soft_cross_entropy(z[view], z[1 - view], 0.3, decoupled), abs=1e-10)


@pytest.mark.parametrize("decoupled", [False, True])
def test_on_moco_keys_of_the_batch_stand_beside_the_queue(decoupled: bool) -> None:
    q, k, rows = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1), loops.random_unit(9, 5, 2)
    moco = objective(rows, 0.3, decoupled)
    out = moco([{"projector": q}, None], [None, {"projector": k}], batch(mix(), None), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(soft_cross_entropy(q, torch.cat([k, rows]), 0.3, decoupled), abs=1e-10)
    torch.testing.assert_close(moco.queue.read()[:6], k)
    moco = objective(rows, 0.3, decoupled)  # what was done to a view that only the teacher sees does not count
    out = moco([{"projector": q}, None], [None, {"projector": k}], batch(None, mix()), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(loops.moco(q, k, rows, 0.3, decoupled=decoupled), abs=1e-10)


def test_on_byol_a_mixed_view_regresses_both_targets_by_their_shares() -> None:
    p, k = [loops.random_unit(6, 5, s) for s in (0, 1)], [loops.random_unit(6, 5, s) for s in (2, 3)]
    student = [{"predictor": x} for x in p]
    got = BYOL()(student, loops.outputs(*k), batch(mix(), None), loops.CLOCK)["loss"].item()
    expected = 0.0
    for i in range(6):
        mixed = LAM[i] * loops.dot(p[0][i], k[1][i]) + (1 - LAM[i]) * loops.dot(p[0][i], k[1][PARTNER[i]])
        expected += (2 - 2 * mixed + 2 - 2 * loops.dot(p[1][i], k[0][i])) / 6
    assert got == pytest.approx(expected, abs=1e-10)


def test_unmixed_shares_give_the_one_way_loss() -> None:
    q, k = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1)
    own = list(range(6))
    for partner, lam in ((PARTNER, [1.0] * 6), (own, LAM), (own, [1.0] * 6)):
        features = mixed_queries(q, k, mix(lam, partner), None)
        got = contrast(features, 0.3, positive_in_denominator=True).loss.mean()
        one_way = sum(
            loops.log_sum_exp([loops.dot(q[i], row) / 0.3 for row in k]) - loops.dot(q[i], k[i]) / 0.3 for i in range(6)
        )
        assert got.item() == pytest.approx(one_way / 6, abs=1e-10)


def test_hard_negatives_are_neither_of_the_two_positives() -> None:
    q, k, rows = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1), loops.random_unit(3, 5, 2)
    features = mixed_queries(q, k, mix(), rows)
    extra = MoCHi(num_hard=7, num_pair=40, num_query=0, warmup=0.0)(features, loops.CLOCK).extra
    assert extra is not None
    all_rows = torch.cat([k, rows])
    for i in range(6):
        allowed = [j for j in range(9) if j not in (i, PARTNER[i])]
        for row in extra[i]:
            pairs = [torch.stack([all_rows[a], all_rows[b]], dim=1) for a in allowed for b in allowed if a < b]
            fits = [(p @ torch.linalg.lstsq(p, row[:, None]).solution - row[:, None]).abs().max() < 1e-8 for p in pairs]
            assert any(fits)
    with pytest.raises(ValueError, match="only 7 negatives"):
        MoCHi(num_hard=8, num_pair=1, num_query=0, warmup=0.0)(features, loops.CLOCK)


def test_all_similarities_equal() -> None:
    same = torch.ones(6, 4, dtype=torch.float64)
    got = SimCLR(0.5)(loops.outputs(same, same), None, batch(mix(), None), loops.CLOCK)["loss"]
    assert got.item() == pytest.approx(math.log(6), abs=1e-12)


def test_golden() -> None:
    a, b = mix_rows(0), mix_rows(1)
    features: MixedFeatures = mixed_queries(a, b, mix(), None)
    value = contrast(features, 0.2, positive_in_denominator=True).loss.mean().item()
    assert value == pytest.approx(golden("imix: one side, logits A B^T/tau"), abs=1e-7)
