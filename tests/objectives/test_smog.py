import pytest
import torch
from torch import Tensor

from ssl_framework.memory import Queue
from ssl_framework.objectives.smog import SMoG
from ssl_framework.types import Clock
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops

LOSS = "smog: loss of queries A with groups updated by B"


def objective(groups: Tensor, momentum: float = 0.99, restart: int = 300) -> SMoG:
    torch.manual_seed(0)
    smog = SMoG(0.1, len(groups), momentum, restart, 5, Queue(12, groups.shape[1]), groups.shape[1]).double()
    smog.groups.copy_(groups)
    return smog


def loss(smog: SMoG, q: Tensor, k: Tensor, clock: Clock = loops.CLOCK) -> Tensor:
    return smog([{"predictor": q}, None], [None, {"projector": k}], loops.batch(len(q)), clock)["loss"]


def test_golden() -> None:
    smog = objective(mix_raw(3, 3, 8))
    before = smog.groups.clone()
    assert loss(smog, mix_rows(0), mix_rows(1)).item() == pytest.approx(golden(LOSS), abs=1e-7)
    joined = torch.tensor(golden("smog: groups of the keys B"))
    for k in range(3):
        keys = mix_rows(1)[joined == k]
        moved = 0.99 * before[k] + 0.01 * keys.mean(dim=0) if len(keys) else before[k]
        torch.testing.assert_close(smog.groups[k], moved)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_equals_the_loop_in_two_steps(momentum: float) -> None:
    groups = loops.random_unit(4, 5, 9)
    smog, own = objective(groups, momentum), [g.clone() for g in groups]
    for seed in (0, 2):
        q, k = loops.random_unit(6, 5, seed), loops.random_unit(6, 5, seed + 1)
        cosines = [[loops.dot(x, g) / g.norm().item() for g in own] for x in k]
        joined = [max(range(4), key=row.__getitem__) for row in cosines]
        for j in set(joined):
            mean = sum(k[i] for i in range(6) if joined[i] == j) / joined.count(j)
            own[j] = momentum * own[j] + (1 - momentum) * mean
        total = 0.0
        for i in range(6):
            logits = [loops.dot(q[i], g) / g.norm().item() / 0.1 for g in own]
            total += (loops.log_sum_exp(logits) - logits[joined[i]]) / 6
        assert loss(smog, 2 * q, 3 * k).item() == pytest.approx(total, abs=1e-10)


def test_gradient_reaches_queries_only_and_the_groups_of_later_steps_do_not_change_it() -> None:
    smog = objective(loops.random_unit(4, 5, 9))
    q, k = loops.random_unit(6, 5, 0).requires_grad_(), loops.random_unit(6, 5, 1)
    first, second = loss(smog, q, k), loss(smog, q, k)
    (first + second).backward()
    assert q.grad is not None and q.grad.abs().sum() > 0.1 and not list(smog.parameters())


def test_groups_begin_anew_once_the_queue_is_full_and_then_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of three directions; four steps fill the queue's twelve rows."""
    smog, steps = objective(loops.random_unit(3, 5, 9), restart=5), []
    keys = torch.eye(5).double()[:3] + 0.01 * loops.random_unit(3, 5, 4)
    grouped = smog.grouped

    def noted(clock: Clock) -> Tensor:
        steps.append(clock.step)
        return grouped(clock)

    monkeypatch.setattr(smog, "grouped", noted)
    for step in range(12):
        loss(smog, keys, keys, Clock(step, 0, 12))
        if step == 3:
            centres = grouped(Clock(4, 0, 12))
    assert steps == [4, 5, 10]
    assert sorted((centres @ keys.T).argmax(dim=1).tolist()) == [0, 1, 2]
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(3).double())
