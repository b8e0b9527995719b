import pytest
import torch
from torch import Tensor

from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.feature_mixers.feature_transform import FeatureTransform
from ssl_framework.types import Clock
from tests.golden import core_queue, core_view, golden
from tests.objectives import loops
from tests.objectives.test_moco import objective

LATE = Clock(step=50, epoch=5, total_steps=100)
SETTINGS = {
    "alpha_positive": 2.0,
    "alpha_negative": 1.6,
    "extrapolate": True,
    "per_dimension": False,
    "renormalise": False,
    "original_against_negatives": False,
    "start": 0.0,
}


def mixer(**change: object) -> FeatureTransform:
    return FeatureTransform(**{**SETTINGS, **change})  # type: ignore[arg-type]


def loss(feature_mixer: FeatureTransform) -> Tensor:
    moco = objective(core_queue())
    moco.feature_mixer = feature_mixer
    q, k = core_view(0), core_view(1)
    return moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(6), LATE)["loss"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden values' shares: 1.4 for the pair, 0.7 for the negatives, each mixed with the row before it."""
    shares = {2.0: 0.4, 1.6: 0.7}  # by alpha; extrapolation adds one
    monkeypatch.setattr(
        FeatureTransform, "draw", lambda self, alpha, like, generator: torch.tensor(shares[alpha]).double()
    )
    monkeypatch.setattr(torch, "randperm", lambda n, **_: torch.arange(n).roll(1))


@pytest.mark.parametrize(
    "change, name",
    [
        ({}, "positive and negative transform"),
        ({"alpha_negative": None}, "positive transform only"),
        ({"alpha_positive": None}, "negative transform only"),
        ({"renormalise": True}, "both transforms, transformed pair re-normalised"),
        ({"original_against_negatives": True}, "both transforms, original q against the negatives"),
        (
            {"original_against_negatives": True, "alpha_negative": None},
            "positive transform only, original q against the negatives",
        ),
    ],
)
def test_golden(change: dict, name: str, drawn: None) -> None:
    assert loss(mixer(**change)).item() == pytest.approx(golden(f"feature_transform: loss, {name}"), abs=1e-6)


def test_positives_become_harder_as_the_formula_says(drawn: None) -> None:
    """q^ . k^ = s + 2 l (1 - l) (1 - s)."""
    q, k = core_view(0), core_view(1)
    mixed = mixer()(MixedFeatures(q, k, core_queue()), LATE)
    s = (q * k).sum(dim=1)
    torch.testing.assert_close((mixed.q * mixed.k).sum(dim=1), s + 2 * 1.4 * -0.4 * (1 - s), rtol=1e-6, atol=1e-6)
    before, after = golden("feature_transform: mean positive similarity before, after")
    assert (s.mean().item(), (mixed.q * mixed.k).sum(dim=1).mean().item()) == pytest.approx((before, after), abs=1e-6)


def test_shares_are_beta_and_positives_lie_between_one_and_two() -> None:
    generator = torch.Generator().manual_seed(0)
    m = mixer(per_dimension=True)
    share = m.draw(2.0, torch.zeros(1, 100_000, dtype=torch.float64), generator)
    assert share.shape == (1, 100_000) and share.min() > 0 and share.max() < 1
    assert share.mean().item() == pytest.approx(0.5, abs=0.003)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * 2 + 1)), rel=0.02)
    assert mixer().draw(2.0, torch.zeros(1, 100), generator).shape == (1, 1)


def test_it_starts_when_told_and_draws_the_same_in_the_same_step() -> None:
    q, k, queue = core_view(0), core_view(1), core_queue()
    early = mixer(start=0.6)(MixedFeatures(q, k, queue), LATE)
    assert early.q is q and early.k is k and early.negatives is queue
    first, again = (mixer(start=0.5)(MixedFeatures(q, k, queue), LATE) for _ in range(2))
    other = mixer()(MixedFeatures(q, k, queue), LATE._replace(step=51))
    assert torch.equal(first.q, again.q) and torch.equal(first.negatives, again.negatives)
    assert not torch.equal(first.q, other.q) and not torch.equal(first.negatives, queue)


def test_gradient_flows_through_both_of_the_pair() -> None:
    q = core_view(0).requires_grad_()
    mixed = mixer(alpha_negative=None)(MixedFeatures(q, core_view(1), core_queue()), LATE)
    mixed.k.sum().backward()
    assert q.grad is not None and q.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"alpha_positive": None, "alpha_negative": None}, "no alpha_positive and no alpha_negative"),
        ({"alpha_positive": 0}, "alpha_positive is 0: it must be above 0, or null"),
        ({"start": 2}, "start is 2: it must be between 0 and 1"),
    ],
)
def test_refused_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixer(**change)
