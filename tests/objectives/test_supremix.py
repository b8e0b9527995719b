"""SupReMix against its formula in loops, given the pairs; and what the draws of pairs give."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.supremix import Pairs, SupReMix, bracketing, chosen, opposing, supremix
from ssl_framework.types import Clock
from tests.objectives import loops

LABELS = torch.tensor([2.0, 0, 1, 4, 2, 7], dtype=torch.float64)


def loop(z: Tensor, label: Tensor, positive: Pairs, negative: Pairs, tau: float) -> list[float]:
    """The formula, anchor by anchor, mixture by mixture."""
    losses, rows = [], range(len(z))
    for i in rows:
        others = [j for j in rows if j != i]
        positives = [loops.dot(z[i], z[j]) / tau for j in others if label[j] == label[i]]
        terms = [loops.dot(z[i], z[j]) / tau + math.log(abs(float(label[i] - label[j])) + 1) for j in others]
        for pairs, is_positive in ((positive, True), (negative, False)):
            for s in range(pairs.first.shape[1] if not pairs.absent[i] else 0):
                j, k, a = int(pairs.first[i, s]), int(pairs.second[i, s]), float(pairs.share[i, s])
                similarity = loops.dot(z[i], a * z[j] + (1 - a) * z[k]) / tau
                number = a * float(label[j]) + (1 - a) * float(label[k])
                if is_positive:
                    assert number == pytest.approx(float(label[i]))
                    positives.append(similarity)
                terms.append(similarity + math.log(abs(float(label[i]) - number) + 1))
        losses.append(loops.log_sum_exp(terms) - sum(positives) / len(positives))
    return losses


def pairs_of(label: Tensor, num: int, seed: int = 0) -> tuple[Pairs, Pairs]:
    generator = torch.Generator().manual_seed(seed)
    lower, upper, other, share = torch.rand(4, len(label), num, generator=generator, dtype=torch.float64)
    return bracketing(label, label, 3.0, lower, upper), opposing(label, label, share, other)


@pytest.mark.parametrize("num", [0, 1, 5])
def test_equals_the_loop(num: int) -> None:
    z, label = loops.random_unit(12, 5, 0), LABELS.repeat_interleave(2)
    positive, negative = pairs_of(label, num)
    assert positive.absent.any() and not positive.absent.all() and not negative.absent.any()
    expected = loop(z, label, positive, negative, 0.3)
    assert supremix(z, label, positive, negative, 0.3).tolist() == pytest.approx(expected, abs=1e-10)


def test_the_objective_draws_its_pairs_from_the_clock_sample_by_sample() -> None:
    """The views of a sample stand one after another, as the global batch of any number of ranks."""
    views = [loops.random_unit(6, 5, v) for v in range(2)]
    out = SupReMix(0.3, 3.0, (2.0, 8.0), 4, 3)(loops.outputs(*views), None, loops.batch(6, LABELS), loops.CLOCK)
    z, label = torch.stack(views, dim=1).flatten(0, 1), LABELS.repeat_interleave(2)
    generator = loops.CLOCK.generator()
    lower, upper = torch.rand(2, 12, 4, generator=generator)
    other = torch.rand(12, 3, generator=generator)
    a, b = (torch._standard_gamma(torch.full((12, 3), value), generator) for value in (2.0, 8.0))
    positive = bracketing(label, label, 3.0, lower, upper)
    expected = loop(z, label, positive, opposing(label, label, a / (a + b), other), 0.3)
    assert out["loss"].item() == pytest.approx(sum(expected) / 12, abs=1e-6)
    assert out["bracketed"].item() == pytest.approx(1 - positive.absent.double().mean().item())
    again = SupReMix(0.3, 3.0, (2.0, 8.0), 4, 3)(loops.outputs(*views), None, loops.batch(6, LABELS), Clock(8, 1, 10))
    assert again["loss"] != out["loss"]


def test_mix_pos_brackets_the_anchor_inside_the_window_and_takes_every_such_pair() -> None:
    uniform = torch.rand(2, 6, 400, generator=torch.Generator().manual_seed(0))
    pairs = bracketing(LABELS, LABELS, 3.0, *uniform)
    for i, y in enumerate(LABELS.tolist()):
        below = {j for j, other in enumerate(LABELS.tolist()) if 0 < y - other < 3}
        above = {k for k, other in enumerate(LABELS.tolist()) if 0 < other - y < 3}
        assert bool(pairs.absent[i]) == (not below or not above)
        if not pairs.absent[i]:
            assert set(pairs.first[i].tolist()) == below and set(pairs.second[i].tolist()) == above
            number = pairs.share[i] * LABELS[pairs.first[i]] + (1 - pairs.share[i]) * LABELS[pairs.second[i]]
            torch.testing.assert_close(number, torch.full((400,), y, dtype=torch.float64))
    assert pairs.absent.tolist() == [False, True, False, True, False, True]  # 4 has no number above it in the window


def test_mix_neg_takes_every_other_number_equally_often() -> None:
    other = torch.rand(6, 4000, generator=torch.Generator().manual_seed(0))
    pairs = opposing(LABELS, LABELS, torch.full((6, 4000), 0.25), other)
    for i in range(6):
        assert (pairs.first[i] == i).all()
        seen = Counter(pairs.second[i].tolist())
        wanted = {j for j in range(6) if LABELS[j] != LABELS[i]}
        assert set(seen) == wanted
        assert all(count == pytest.approx(4000 / len(wanted), rel=0.15) for count in seen.values())


def test_equal_numbers_leave_no_mixtures() -> None:
    """Then every other row is a positive: log of their number where all embeddings are equal."""
    label = torch.full((6,), 3.0, dtype=torch.float64)
    positive, negative = pairs_of(label, 4)
    assert positive.absent.all() and negative.absent.all()
    z = (torch.ones(6, 3, dtype=torch.float64) / math.sqrt(3)).requires_grad_()
    loss = supremix(z, label, positive, negative, 0.5)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([math.log(5)] * 6) and torch.isfinite(z.grad).all()  # type: ignore[arg-type]


def test_mixtures_are_constants() -> None:
    """The gradient is that of a loss whose mixtures were made of other tensors with the same values."""
    label = LABELS.repeat_interleave(2)
    z = loops.random_unit(12, 5, 0).requires_grad_()
    positive, negative = pairs_of(label, 3)
    supremix(z, label, positive, negative, 0.3).sum().backward()
    step, direction = 1e-6, loops.random_unit(12, 5, 9)

    def moved(sign: float) -> float:
        with torch.no_grad():
            x, total = z + sign * step * direction, 0.0
            for i in range(12):
                terms = [x[i] @ x[j] / 0.3 + (label[i] - label[j]).abs().log1p() for j in range(12) if j != i]
                near = [x[i] @ x[j] / 0.3 for j in range(12) if j != i and label[j] == label[i]]
                for pairs, is_positive in ((positive, True), (negative, False)):
                    for s in range(0 if pairs.absent[i] else 3):
                        j, k, a = pairs.first[i, s], pairs.second[i, s], pairs.share[i, s]
                        logit = x[i] @ (a * z[j] + (1 - a) * z[k]) / 0.3
                        near += [logit] if is_positive else []
                        terms.append(logit + (label[i] - a * label[j] - (1 - a) * label[k]).abs().log1p())
                total += float(torch.stack(terms).logsumexp(0) - torch.stack(near).mean())
            return total

    assert z.grad is not None
    assert (moved(1) - moved(-1)) / (2 * step) == pytest.approx(float((z.grad * direction).sum()), rel=1e-5)


def test_draws_are_equally_likely_and_never_out_of_range() -> None:
    uniform = torch.tensor([[0.0, 0.26, 0.5, 0.75, 1 - 2**-24]])
    assert chosen(uniform, torch.tensor([4])).tolist() == [[0, 1, 2, 3, 3]]
    assert chosen(uniform, torch.tensor([0])).tolist() == [[0] * 5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": 0.0}, r"window is 0\.0: it must be above 0"),
        ({"beta": (2.0, 0.0)}, r"beta is \(2\.0, 0\.0\): it must be a list of 2 numbers"),
        ({"beta": (2.0,)}, r"beta is \(2\.0,\): it must be a list of 2 numbers, each above 0"),
        ({"num_mix_pos": -1}, "num_mix_pos is -1: it must be at least 0"),
        ({"num_mix_neg": -1}, "num_mix_neg is -1: it must be at least 0"),
        ({"temperature": 0.0}, r"temperature is 0\.0: it must be above 0"),
    ],
)
def test_refused(change: dict, words: str) -> None:
    settings = {"temperature": 0.5, "window": 5.0, "beta": (2.0, 8.0), "num_mix_pos": 2, "num_mix_neg": 2}
    with pytest.raises(ValueError, match=words):
        SupReMix(**{**settings, **change})
