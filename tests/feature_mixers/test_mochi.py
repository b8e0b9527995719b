import pytest
import torch

from ssl_framework.feature_mixers.base import MixedFeatures, in_batch
from ssl_framework.feature_mixers.hard_negatives import hard_negatives
from ssl_framework.feature_mixers.mochi import MoCHi
from ssl_framework.functional import SameClass
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.types import Clock
from tests.golden import ENTRIES, core_queue, core_view, golden
from tests.objectives import loops
from tests.objectives.test_moco import objective

LATE = Clock(step=50, epoch=5, total_steps=100)


def mixer(num_hard: int = 4, num_pair: int = 2, num_query: int = 1, warmup: float = 0.0) -> MoCHi:
    return MoCHi(num_hard, num_pair, num_query, warmup)


def moco_loss(q: torch.Tensor, k: torch.Tensor, feature_mixer: MoCHi | None, clock: Clock = LATE) -> torch.Tensor:
    moco = objective(core_queue())
    moco.feature_mixer = feature_mixer
    return moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(6), clock)["loss"]


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """norm(.25 n0 + .75 n3), norm(.6 n1 + .4 n2) and norm(.4 q + .6 n0) of each query's own four hardest."""
    ranks = torch.tensor([[0, 1, 3, 2, 0]]).repeat(6, 1)  # first partners 0, 1; second 3, 2; the query's 0
    share = torch.tensor([[0.25, 0.6, 0.4]], dtype=torch.float64).repeat(6, 1)
    monkeypatch.setattr(MoCHi, "draw", lambda *_: (ranks, share))
    (name,) = [entry["name"] for entry in ENTRIES if entry["config"] == "mochi"]
    assert moco_loss(core_view(0), core_view(1), mixer()).item() == pytest.approx(golden(name), abs=1e-7)


def test_synthesis_equals_a_loop() -> None:
    m = mixer(num_hard=5, num_pair=3, num_query=2)
    q, queue = loops.random_unit(4, 6, 0), loops.random_unit(9, 6, 1)
    hard = hard_negatives(MixedFeatures(q, q, queue), 5)
    ranks, share = m.draw(hard.available, LATE, q)
    got = m.synthesize(q, queue, hard, ranks, share)
    for i in range(4):
        order = sorted(range(9), key=lambda j: -loops.dot(q[i], queue[j]))[:5]
        for s in range(5):
            first = queue[order[ranks[i, s]]] if s < 3 else q[i]
            second = queue[order[ranks[i, 3 + s]]]
            row = share[i, s] * first + (1 - share[i, s]) * second
            torch.testing.assert_close(got[i, s], row / row.norm(), rtol=1e-10, atol=1e-10)


def test_loss_equals_the_loop_with_its_own_draws() -> None:
    m = mixer()
    q, k, queue = core_view(0), core_view(1), core_queue()
    extra = m(MixedFeatures(q, k, queue), LATE).extra
    assert extra is not None
    assert moco_loss(q, k, m).item() == pytest.approx(loops.moco(q, k, queue, 0.2, extra), abs=1e-10)


def test_draws_are_uniform_and_partners_differ() -> None:
    m = mixer(num_hard=8, num_pair=2000, num_query=1000)
    ranks, share = m.draw(torch.full((20, 1), 8), LATE, torch.zeros(1))
    first, second, of_query = ranks[:, :2000], ranks[:, 2000:4000], ranks[:, 4000:]
    assert (first != second).all()
    for drawn in (first, second, of_query):
        counts = torch.bincount(drawn.flatten(), minlength=8).float() / drawn.numel()
        assert counts.shape == (8,)
        assert (counts - 1 / 8).abs().max() < 0.01
    assert share[:, :2000].mean().item() == pytest.approx(0.5, abs=0.01) and share[:, :2000].max() > 0.99
    assert share[:, 2000:].mean().item() == pytest.approx(0.25, abs=0.01) and share[:, 2000:].max() < 0.5


def test_every_query_draws_from_its_own_list_and_the_step_decides() -> None:
    m = mixer(num_hard=4, num_pair=50, num_query=50)
    ranks, _ = m.draw(torch.full((6, 1), 4), LATE, torch.zeros(1))
    again, _ = m.draw(torch.full((6, 1), 4), LATE, torch.zeros(1))
    later, _ = m.draw(torch.full((6, 1), 4), LATE._replace(step=51), torch.zeros(1))
    assert torch.equal(ranks, again) and not torch.equal(ranks, later) and not torch.equal(ranks[0], ranks[1])


def test_synthetic_negatives_are_constants_of_unit_length() -> None:
    q = core_view(0).requires_grad_()
    extra = mixer()(MixedFeatures(q, core_view(1), core_queue()), LATE).extra
    assert extra is not None and extra.shape == (6, 3, 4) and not extra.requires_grad
    torch.testing.assert_close(extra.norm(dim=2), torch.ones(6, 3, dtype=torch.float64))


def test_before_the_warmup_ends_it_is_moco() -> None:
    q, k = core_view(0), core_view(1)
    m = mixer(warmup=0.5)
    assert moco_loss(q, k, m, LATE._replace(step=49)) == moco_loss(q, k, None)
    assert moco_loss(q, k, m, LATE._replace(step=50)) > moco_loss(q, k, None)


def test_kinds_can_be_left_out() -> None:
    q, k, queue = core_view(0), core_view(1), core_queue()
    pairs = mixer(num_pair=3, num_query=0)(MixedFeatures(q, k, queue), LATE).extra
    queries = mixer(num_pair=0, num_query=2)(MixedFeatures(q, k, queue), LATE).extra
    assert pairs is not None and pairs.shape == (6, 3, 4) and queries is not None and queries.shape == (6, 2, 4)
    assert mixer(num_pair=0, num_query=0)(MixedFeatures(q, k, queue), LATE).extra is None
    assert moco_loss(q, k, mixer(num_pair=0, num_query=0)) == moco_loss(q, k, None)


@pytest.mark.parametrize("decoupled", [False, True])
def test_on_simclr_negatives_are_those_of_the_batch(decoupled: bool) -> None:
    """Own sample's views are never hard negatives; the loss is NT-Xent (or DCL) with the synthetic ones added."""
    z0, z1 = loops.random_unit(5, 7, 0), loops.random_unit(5, 7, 1)
    host = DCL(0.2, None) if decoupled else SimCLR(0.2)
    host.feature_mixer = mixer(num_hard=8, num_pair=40, num_query=20)  # all the 2 (5 - 1) there are
    got = host([{"projector": z0}, {"projector": z1}], None, loops.batch(5), LATE)["loss"]
    features = in_batch(z0, z1)
    hard = hard_negatives(features, 8)
    assert (hard.rows // 2 != torch.arange(10)[:, None] // 2).all() and (hard.available == 8).all()
    extra = host.feature_mixer(features, LATE).extra
    assert extra is not None
    z, expected = torch.stack([z0, z1], dim=1).flatten(0, 1), 0.0
    for a in range(10):
        positive = loops.dot(z[a], z[a ^ 1]) / 0.2
        negatives = [loops.dot(z[a], z[j]) / 0.2 for j in range(10) if j // 2 != a // 2]
        negatives += [loops.dot(z[a], row) / 0.2 for row in extra[a]]
        expected += (loops.log_sum_exp(negatives if decoupled else [positive, *negatives]) - positive) / 10
    assert got.item() == pytest.approx(expected, abs=1e-10)
    with pytest.raises(ValueError, match=r"num_hard is 9.*only 8 negatives.*data\.batch_size"):
        mixer(num_hard=9)(features, LATE)


def test_what_the_class_oracle_removes_is_never_mixed() -> None:
    q, queue = loops.random_unit(4, 5, 0), loops.random_unit(12, 5, 1)
    classes, label = torch.arange(12) % 4, torch.arange(4)
    features = MixedFeatures(q, q, queue, (SameClass(label, classes),))
    m = mixer(num_hard=12, num_pair=300, num_query=300)
    hard = hard_negatives(features, 12)
    ranks, _ = m.draw(hard.available, LATE, q)
    assert (hard.available == 9).all()
    drawn = classes[hard.rows.gather(1, ranks)]
    assert (drawn != label[:, None]).all()
    assert all(len(ranks[i].unique()) == 9 for i in range(4)) and (ranks[:, :300] != ranks[:, 300:600]).all()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_hard is 13.*only 12 negatives"):
        moco_loss(core_view(0), core_view(1), mixer(num_hard=13))
    with pytest.raises(ValueError, match="num_hard is 1: it must be at least 2"):
        mixer(num_hard=1)
    with pytest.raises(ValueError, match="warmup is 10: it must be between 0 and 1"):
        mixer(warmup=10)
