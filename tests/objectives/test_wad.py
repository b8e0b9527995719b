"""WAD: the golden weights, a loop over several steps, the rounds, and what it refuses."""

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.wad import WAD, weights
from ssl_framework.types import Batch, Clock
from tests.golden import core_view, golden
from tests.objectives import loops


def wad(rounds: int = 5, share: float = 0.1, samples: int = 6) -> WAD:
    objective = WAD(3, rounds, share)
    objective.meet({"pooled": 4})
    objective.allocate(samples)
    return objective.double()


def step(objective: WAD, scores: Tensor, features: Tensor, label: list[int], clock: Clock = loops.CLOCK) -> dict:
    batch = Batch([], torch.arange(len(label)), torch.tensor(label))
    outputs = loops.outputs(scores, head="classifier"), loops.outputs(features, head="pooled")
    return objective(*outputs, batch, clock)


def test_golden_weights() -> None:
    z = core_view(1)
    axes = torch.stack([z[c : c + 2].mean(dim=0) for c in (0, 2, 4)])
    weight, _ = weights(core_view(0), axes / axes.norm(dim=1, keepdim=True))
    name = "wad: weights, features Z0, class axes from Z1 rows (0,1),(2,3),(4,5)"
    assert weight.tolist() == pytest.approx(golden(name), abs=1e-7)


def test_two_steps_equal_the_loop() -> None:
    objective, label = wad(), [0, 2, -1, 2, -1, -1]
    objective.bank.get_buffer("chosen")[[2, 5]] = 1.0
    scores, axes = 3 * core_view(3)[:, :3], [torch.zeros(4, dtype=torch.float64) for _ in range(3)]
    for number in range(2):
        features, told, found = core_view(number), [], []
        for i in range(6):
            known = [c for c in range(3) if axes[c].norm() > 0]
            cosine = sorted(((loops.dot(features[i], axes[c] / axes[c].norm()), c) for c in known), reverse=True)
            weight, answer = (cosine[0][0] - cosine[1][0], cosine[0][1]) if len(cosine) > 1 else (0.0, 0)
            minus_log_p = [loops.log_sum_exp(scores[i].tolist()) - float(s) for s in scores[i]]
            if label[i] >= 0:
                told.append(minus_log_p[label[i]])
            elif i in (2, 5):
                found.append(weight * minus_log_p[answer])
        out = step(objective, scores, features, label)
        assert out["loss"].item() == pytest.approx(sum(told) / 3 + sum(found) / 2, abs=1e-6)
        for i, c in enumerate(label):
            if c >= 0:
                axes[c] = axes[c] + features[i]
    assert sum(found) > 0.1
    assert (objective.bank.get_buffer("loss") == -1).tolist() == [c >= 0 for c in label]


def test_each_round_chooses_the_easiest_of_those_left() -> None:
    objective = wad(rounds=2, share=0.5, samples=10)
    objective.bank.get_buffer("loss").copy_(torch.tensor([9.0, 1, 2, 3, 4, 5, 6, 7, -1, -1]))
    chosen = objective.bank.get_buffer("chosen")
    objective.choose(Clock(32, 0, 100))
    assert chosen.sum() == 0
    objective.choose(Clock(34, 0, 100))  # half of the eight unlabelled
    assert chosen.nonzero().flatten().tolist() == [1, 2, 3, 4]
    objective.choose(Clock(35, 0, 100))
    assert chosen.sum() == 4
    objective.choose(Clock(67, 0, 100))  # 0.5 (1 - 1/2)^2 of the eight
    assert chosen.nonzero().flatten().tolist() == [1, 2, 3, 4, 5]
    objective.choose(Clock(99, 0, 100))
    assert chosen.sum() == 5 and int(objective.done) == 2


def test_no_axes_no_weight() -> None:
    weight, _ = weights(core_view(0), torch.zeros(3, 4, dtype=torch.float64))
    assert weight.tolist() == [0.0] * 6


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="share is 0: it must be above 0 and at most 1"):
        WAD(3, 5, 0)
    with pytest.raises(ValueError, match="WAD needs more than views: give it teacher="):
        wad().loss_of(core_view(0), label=torch.zeros(6, dtype=torch.int64))
