"""SIRL: the golden value, a loop over questions, and those without an answer."""

import pytest
import torch

from ssl_framework.objectives.sirl import SIRL, similar_pair
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops


def test_golden() -> None:
    a, b, c = mix_rows(0), mix_rows(1), mix_rows(2)
    away = torch.stack([(x - y).square().sum(dim=1) for x, y in ((a, b), (a, c), (b, c))], dim=1)
    value = similar_pair(away, torch.zeros(6, 1, dtype=torch.int64), 1.0).mean().item()
    expected = golden("sirl_triplet: both orders of the similar pair, squared distances, margin 1")
    assert value == pytest.approx(expected, abs=1e-7)


def test_equals_the_loop_over_questions_with_an_answer() -> None:
    z, number = mix_raw(0, 6, 3), torch.tensor([0.1, 0.5, 0.4, 0.4, 0.4, 2.0])
    costs, right = [], 0
    for i in range(6):
        three = [i, (i + 1) % 6, (i + 2) % 6]
        pairs = [(three[j], three[k], three[3 - j - k]) for j, k in ((0, 1), (0, 2), (1, 2))]
        apart = sorted((abs(float(number[a] - number[b])), (a, b, c)) for a, b, c in pairs)
        if apart[0][0] == apart[1][0]:
            continue  # 2, 3, 4 are alike
        _, (a, b, c) = apart[0]
        ab, ac, bc = (float((z[j] - z[k]).square().sum()) for j, k in ((a, b), (a, c), (b, c)))
        costs.append(max(0.0, ab - ac + 0.5) + max(0.0, ab - bc + 0.5))
        right += ab < min(ac, bc)
    assert len(costs) == 5
    found = SIRL(0.5)(loops.outputs(z), None, loops.batch(6, number), loops.CLOCK)
    assert found["loss"].item() == pytest.approx(sum(costs) / 5, abs=1e-12)
    assert found["agreement"].item() == pytest.approx(right / 5)


def test_two_samples_are_no_question() -> None:
    with pytest.raises(ValueError, match=r"but the batch has 2: raise data\.batch_size"):
        SIRL(0.5).loss_of(mix_raw(0, 2), label=torch.zeros(2))
