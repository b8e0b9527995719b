"""CPL, CoPG and GCPO: the golden values, loops, and the optima that the papers prove, on bandits of a few arms."""

import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.preferences import (
    copg,
    cpl,
    cpl_ranked,
    group_contrast,
    optimum,
    regularised,
    segment_score,
)
from tests.golden import golden, mix_raw

PREFERS_2 = torch.tensor([1, 0, 1, 1, 0, 0.5])
VALUE = torch.tensor([3, 1, 2, 6, 5, 4])


def logistic(preferred: float, other: float, bias: float) -> float:
    return math.log(1 + math.exp(bias * other - preferred))


@pytest.mark.parametrize("bias", [1.0, 0.5])
def test_cpl_golden_and_loop(bias: float) -> None:
    one, two = (segment_score(mix_raw(s), 0.5) for s in range(2))
    found = cpl(one, two, PREFERS_2, bias).item()
    assert found == pytest.approx(golden(f"cpl: loss [bias={bias}]"), abs=1e-7)
    total = 0.0
    for n in range(6):
        a, b = (0.5 * sum(mix_raw(s)[n].tolist()) for s in range(2))
        y = float(PREFERS_2[n])
        total += y * logistic(b, a, bias) + (1 - y) * logistic(a, b, bias)
    assert found == pytest.approx(total / 6, abs=1e-10)


def test_cpl_of_ranked_segments_leaves_equal_ones_out() -> None:
    score = segment_score(mix_raw(0), 0.5)
    found = cpl_ranked(score, VALUE, 0.5).item()
    assert found == pytest.approx(golden("cpl: loss over all pairs of scored segments"), abs=1e-7)
    s, tied = score.tolist(), [3, 1, 3, 6, 1, 1]
    terms = [logistic(s[i], s[j], 0.5) for i in range(6) for j in range(6) if tied[i] > tied[j]]
    assert cpl_ranked(score, torch.tensor(tied), 0.5).item() == pytest.approx(sum(terms) / len(terms), abs=1e-10)
    assert cpl_ranked(score, torch.ones(6), 0.5).item() == 0


def test_cpl_is_least_where_the_policy_has_the_advantages_that_people_judge_by() -> None:
    """Preferences of a logistic model: pi = exp(advantage / alpha), whatever was offered."""
    advantage, alpha = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64), 0.4
    first, second = (pair.flatten() for pair in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
    told = (advantage[second] - advantage[first]).sigmoid()  # [9]
    logits = (advantage / alpha).requires_grad_()
    log_prob = logits.log_softmax(dim=0)
    scores = [segment_score(log_prob[which][:, None], alpha) for which in (first, second)]
    (gradient,) = torch.autograd.grad(cpl(scores[0], scores[1], told, 1.0), logits)
    assert gradient.abs().max() < 1e-12


def test_a_low_bias_keeps_probability_on_what_was_seen() -> None:
    """Both segments less likely by the same factor: nothing to the plain loss, more to the conservative one."""
    a, b, y = torch.tensor([-1.0]), torch.tensor([-2.0]), torch.zeros(1)
    assert cpl(a - 3, b - 3, y, 1.0).item() == pytest.approx(cpl(a, b, y, 1.0).item(), abs=1e-6)
    assert cpl(a - 3, b - 3, y, 0.5) > cpl(a, b, y, 0.5) + 1


def of_actions(logits: Tensor, reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    return regularised(reward, logits.log_softmax(dim=-1), reference.log_softmax(dim=-1), beta)


def test_copg_golden_and_loop() -> None:
    found = of_actions(mix_raw(0), mix_raw(1), mix_raw(2), 0.5)
    name = "copg: mean of half the squared difference of regularised rewards of actions 0 and 1"
    assert copg(found[:, 0], found[:, 1]).item() == pytest.approx(golden(name), abs=1e-7)
    total = 0.0
    for n in range(6):
        sums = [math.log(sum(math.exp(x) for x in mix_raw(s)[n].tolist())) for s in range(2)]
        parts = [
            float(mix_raw(2)[n, a]) - 0.5 * ((float(mix_raw(0)[n, a]) - sums[0]) - (float(mix_raw(1)[n, a]) - sums[1]))
            for a in range(2)
        ]
        total += (parts[0] - parts[1]) ** 2 / 2
    assert copg(found[:, 0], found[:, 1]).item() == pytest.approx(total / 6, abs=1e-10)


def test_copg_is_zero_at_the_optimum_for_every_pair() -> None:
    best = optimum(mix_raw(1).log_softmax(dim=1), mix_raw(2), 0.5)  # [6, 8]
    name = "copg: optimal policy of row 0, where the loss of every pair is 0"
    assert best[0].exp().tolist() == pytest.approx(golden(name), abs=1e-7)
    found = of_actions(best, mix_raw(1), mix_raw(2), 0.5)
    assert max(copg(found[:, a], found[:, b]).item() for a in range(8) for b in range(8)) < 1e-20


def test_copg_finds_the_best_policy_of_a_bandit_from_answers_of_another() -> None:
    """Three arms, pulled by a policy that hardly ever takes the best of them."""
    torch.manual_seed(0)
    reward, reference = torch.tensor([0.0, 0.2, 1.0]), torch.zeros(3)
    logits = torch.zeros(3, requires_grad=True)
    solver = torch.optim.Adam([logits], 0.1)
    for _ in range(100):
        first, second = torch.multinomial(torch.tensor([0.6, 0.35, 0.05]), 64, replacement=True).view(2, 32)
        found = of_actions(logits, reference, reward, 0.5)
        solver.zero_grad()
        copg(found[first], found[second]).backward()
        solver.step()
    best = optimum(reference.log_softmax(dim=0), reward, 0.5).exp()
    torch.testing.assert_close(logits.softmax(dim=0), best, atol=0.01, rtol=0)


def test_groups_are_better_with_an_option_or_without() -> None:
    found = group_contrast(torch.tensor([0.75, 0.25, 0.5, 0.5]), torch.tensor([0.25, 0.75, 0.45, 0.5]), 0.1)
    name = "group_contrast_mask: sign of (mean accuracy with - without option), threshold .1, of four groups"
    assert found.tolist() == golden(name)
