import pytest
import torch

from ssl_framework.feature_mixers.mochi import MoCHi
from ssl_framework.functional import hardest
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
    ranks, share = m.draw(4, LATE, q)
    got = m.synthesize(q, queue, hardest(q, queue, 5), (ranks, share))
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
    extra = m(q, k, queue, LATE).extra
    assert extra is not None
    assert moco_loss(q, k, m).item() == pytest.approx(loops.moco(q, k, queue, 0.2, extra), abs=1e-10)


def test_draws_are_uniform_and_partners_differ() -> None:
    m = mixer(num_hard=8, num_pair=2000, num_query=1000)
    ranks, share = m.draw(20, LATE, torch.zeros(1))
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
    ranks, _ = m.draw(6, LATE, torch.zeros(1))
    again, _ = m.draw(6, LATE, torch.zeros(1))
    later, _ = m.draw(6, LATE._replace(step=51), torch.zeros(1))
    assert torch.equal(ranks, again) and not torch.equal(ranks, later) and not torch.equal(ranks[0], ranks[1])


def test_synthetic_negatives_are_constants_of_unit_length() -> None:
    q = core_view(0).requires_grad_()
    extra = mixer()(q, core_view(1), core_queue(), LATE).extra
    assert extra is not None and extra.shape == (6, 3, 4) and not extra.requires_grad
    torch.testing.assert_close(extra.norm(dim=2), torch.ones(6, 3, dtype=torch.float64))


def test_before_the_warmup_ends_it_is_moco() -> None:
    q, k = core_view(0), core_view(1)
    m = mixer(warmup=0.5)
    assert moco_loss(q, k, m, LATE._replace(step=49)) == moco_loss(q, k, None)
    assert moco_loss(q, k, m, LATE._replace(step=50)) > moco_loss(q, k, None)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_hard is 13.*only 12 negatives"):
        moco_loss(core_view(0), core_view(1), mixer(num_hard=13))
    with pytest.raises(ValueError, match=r"num_hard=1"):
        mixer(num_hard=1)
    with pytest.raises(ValueError, match=r"feature_mixer\.warmup is 10"):
        mixer(warmup=10)
