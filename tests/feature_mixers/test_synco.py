import pytest
import torch

from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.feature_mixers.hard_negatives import hard_negatives
from ssl_framework.feature_mixers.synco import KINDS, SynCo
from ssl_framework.types import Clock
from tests.golden import core_queue, core_view
from tests.objectives import loops
from tests.objectives.test_moco import objective

LATE = Clock(step=50, epoch=5, total_steps=100)
Q, K, QUEUE = loops.random_unit(4, 6, 0), loops.random_unit(4, 6, 1), loops.random_unit(9, 6, 2)


def mixer(counts: list[int], num_hard: int = 5, size: float = 0.3, warmup: float = 0.0) -> SynCo:
    return SynCo(num_hard, counts, size, size, size, warmup)


def made(counts: list[int], **options: float) -> torch.Tensor:
    extra = mixer(counts, **options)(MixedFeatures(Q, K, QUEUE), LATE).extra  # type: ignore[arg-type]
    assert extra is not None and extra.shape == (4, sum(counts), 6) and not extra.requires_grad
    torch.testing.assert_close(extra.norm(dim=2), torch.ones(4, sum(counts), dtype=torch.float64))
    return extra


def nearest_source(row: torch.Tensor, query: int) -> int:
    """Which of the query's five hardest negatives a slightly moved row came from."""
    order = sorted(range(9), key=lambda j: -loops.dot(Q[query], QUEUE[j]))[:5]
    return max(order, key=lambda j: loops.dot(row, QUEUE[j]))


@pytest.mark.parametrize("kind", [0, 1])
def test_mixtures_with_the_query(kind: int) -> None:
    """Between the negative and half way to the query; beyond the negative, up to half of the way further."""
    extra = made([40 if k == kind else 0 for k in range(6)])
    shares = []
    for i in range(4):
        hard = hard_negatives(MixedFeatures(Q, K, QUEUE), 5).rows[i]
        for row in extra[i]:
            fits = []
            for j in hard:
                plane = torch.stack([Q[i], QUEUE[j]], dim=1)
                solution = torch.linalg.lstsq(plane, row[:, None]).solution[:, 0]
                if (plane @ solution - row).abs().max() < 1e-8:
                    fits.append(solution)
            (solution,) = fits
            shares.append(float(solution[0] / solution.sum()))  # of the query
    low, high = ((0.0, 0.5), (-0.5, 0.0))[kind]
    assert low <= min(shares) < low + 0.05 and high - 0.05 < max(shares) <= high


def test_mixtures_of_two_different_negatives_are_those_of_mochi() -> None:
    extra = made([0, 0, 60, 0, 0, 0])
    hard = hard_negatives(MixedFeatures(Q, K, QUEUE), 5).rows
    for i in range(4):
        for row in extra[i]:
            planes = [torch.stack([QUEUE[a], QUEUE[b]], dim=1) for a in hard[i] for b in hard[i] if a < b]
            solutions = [torch.linalg.lstsq(plane, row[:, None]).solution for plane in planes]
            fits = [
                s for plane, s in zip(planes, solutions, strict=True) if (plane @ s - row[:, None]).abs().max() < 1e-8
            ]
            assert len(fits) == 1 and fits[0].min() >= 0


@pytest.mark.parametrize("kind", [4, 5])
def test_moves_along_the_gradient_of_the_inner_product_are_harder(kind: int) -> None:
    extra = made([30 if k == kind else 0 for k in range(6)], size=0.05)
    for i in range(4):
        for row in extra[i]:
            source = QUEUE[nearest_source(row, i)].clone()
            (gradient,) = torch.autograd.grad(Q[i] @ source.requires_grad_(), source)
            source = source.detach()
            moved = source + 0.05 * (gradient if kind == 4 else gradient.sign())
            torch.testing.assert_close(row, moved / moved.norm())
            assert loops.dot(Q[i], row) > loops.dot(Q[i], source)


def test_noise_is_standard_normal_in_every_dimension() -> None:
    m = mixer([0, 0, 0, 500, 0, 0])
    noise = m.gaussian(20, LATE.generator(), QUEUE)
    assert noise.shape == (20, 500, 6)
    assert noise.mean().item() == pytest.approx(0, abs=0.02) and noise.std().item() == pytest.approx(1, abs=0.02)
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=0.15)
    extra = made([0, 0, 0, 50, 0, 0], size=0.01)
    assert all(loops.dot(row, QUEUE[nearest_source(row, i)]) > 0.995 for i in range(4) for row in extra[i])


def test_loss_equals_the_loop_with_its_own_draws() -> None:
    moco = objective(core_queue())
    moco.feature_mixer = m = mixer([2, 1, 3, 2, 1, 2], num_hard=4)
    q, k = core_view(0), core_view(1)
    extra = m(MixedFeatures(q, k, core_queue()), LATE).extra
    got = moco([{"projector": q}, None], [None, {"projector": k}], loops.batch(6), LATE)["loss"]
    assert got.item() == pytest.approx(loops.moco(q, k, core_queue(), 0.2, extra), abs=1e-10)


def test_the_step_decides_and_the_warmup_delays() -> None:
    features, m = MixedFeatures(Q, K, QUEUE), mixer([1] * 6, warmup=0.5)
    assert m(features, LATE._replace(step=49)).extra is None
    first, again, later = (m(features, LATE._replace(step=s)).extra for s in (50, 50, 51))
    assert first is not None and again is not None and later is not None
    assert torch.equal(first, again) and not torch.equal(first, later)


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1, 2, 3], {}, r"counts is \[1, 2, 3\]: it must be a list of 6 whole numbers, each at least 0"),
        ([0] * 6, {}, f"the numbers, not all 0, of {', '.join(KINDS)}"),
        ([1] * 6, {"num_hard": 1}, "num_hard is 1: it must be at least 2"),
        ([1] * 6, {"warmup": 2}, "warmup is 2: it must be between 0 and 1"),
    ],
)
def test_bad_settings_are_refused(counts: list[int], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixer(counts, **options)


def test_more_hard_negatives_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"num_hard is 10.*only 9 negatives"):
        made([1] * 6, num_hard=10)
