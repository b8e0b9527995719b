import pytest
import torch

from ssl_framework.mixers.targets import common_targets, targets
from ssl_framework.objectives.patchmix import PatchMix
from ssl_framework.types import Batch, Mix
from tests.objectives import loops
from tests.objectives.test_sdmp import Shares, rows, three_terms, views


def mix(of: int, m: int, count: int = 6) -> Mix:
    """Every image with the m - 1 that follow it, 1/m each."""
    source = (torch.arange(count)[:, None] + torch.arange(m)) % count
    return Mix(torch.empty(0), source, torch.full((count, m), 1 / m, dtype=torch.float64), None, of)


def cross_entropy_by_loop(share: Shares, logits: Shares) -> float:
    whole = loops.log_sum_exp(list(logits.values()))
    return sum(c * (whole - logits[j]) for j, c in share.items())


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_weights_between_mixtures_are_the_triangle_of_the_authors(m: int) -> None:
    """(1 - |m - j - 1| / m) / m on the neighbours i - m + 1 + j, j = 0 .. 2m - 2."""
    expected = torch.zeros(7, 7, dtype=torch.float64)
    for i in range(7):
        for j in range(2 * m - 1):
            expected[i, (i - m + 1 + j) % 7] += (1 - abs(m - j - 1) / m) / m
    torch.testing.assert_close(common_targets(mix(0, m, 7), mix(1, m, 7)), expected)
    torch.testing.assert_close(targets(mix(0, m, 7)).sum(dim=1), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize("m", [2, 3])
def test_equals_the_loop(m: int) -> None:
    student, teacher = views("predictor", 0), views("projector", 4)
    batch = Batch([], torch.arange(6), mix=[None, None, mix(0, m), mix(1, m)])
    out = PatchMix(0.2)(student, teacher, batch, loops.CLOCK)
    sources = [{(i + p) % 6: 1 / m for p in range(m)} for i in range(6)]
    overlaps = [{(i - m + 1 + j) % 6: (1 - abs(m - j - 1) / m) / m for j in range(2 * m - 1)} for i in range(6)]
    q, k = rows(student, "predictor"), rows(teacher, "projector")
    terms = three_terms(q, k, 0.2, cross_entropy_by_loop, overlaps, sources)
    for name, term in zip(("clean", "mixed", "mixtures"), terms, strict=True):
        assert out[f"{name}_loss"].item() == pytest.approx(term, abs=1e-10)
    assert out["loss"].item() == pytest.approx(sum(terms), abs=1e-10)


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="temperature is 0: it must be above 0"):
        PatchMix(0)
