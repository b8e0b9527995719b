import pytest
import torch
from torch import Tensor

from ssl_framework.functional import positions
from ssl_framework.memory import Queue
from ssl_framework.objectives.densecl import DenseCL, matches
from ssl_framework.types import Clock
from tests.golden import core_queue, core_view, golden, mix_raw
from tests.objectives import loops, maps

MAPS = maps.sin_map(2, 3, 2, 2), maps.cos_map(2, 3, 2, 2)
DENSE = tuple(maps.unit_channels(mix_raw(s, 8, 4).view(2, 4, 2, 2)) for s in (0, 1))


def objective(weight: float = 0.5, start: float = 0.0) -> DenseCL:
    made = DenseCL(0.2, weight, start, Queue(12, 4), Queue(12, 4)).double()
    for queue in (made.queue, made.dense_queue):
        queue.rows.copy_(core_queue())
    return made


def outputs(view: int, rows: Tensor | None = None) -> list:
    z = core_view(view)[:2] if rows is None else rows
    return [{"projector": z, "dense_projector": DENSE[view], "map": MAPS[view]}]


def loss(made: DenseCL, clock: Clock = loops.CLOCK) -> dict[str, Tensor]:
    student = [*outputs(0), None]
    return made(student, [None, *outputs(1)], maps.batch(maps.cut((0, 0, 1, 1), (0, 0, 1, 1))), clock)


def test_golden() -> None:
    found = matches(*map(positions, MAPS))
    assert found.flatten().tolist() == golden("densecl: matches (argmax of backbone similarity), images 0 and 1")
    assert loss(objective(1.0))["loss"].item() == pytest.approx(golden("densecl: dense term"), abs=1e-7)
    expected = golden("densecl: loss, global part q=Z0[:2] k=Z1[:2] queue Qu, lambda .5")
    assert loss(objective())["loss"].item() == pytest.approx(expected, abs=1e-7)


def test_equals_the_loop() -> None:
    q_map, k_map = (maps.random_map(seed, 3, 5, 2, 3) for seed in (0, 1))
    q, k = (maps.random_map(seed, 3, 4, 2, 3) for seed in (2, 3))
    z = [loops.random_unit(3, 4, seed) for seed in (4, 5)]
    rows, keys = [], []
    for b in range(3):
        for i in range(6):
            alike = [
                loops.dot(q_map[b].flatten(1)[:, i], k_map[b].flatten(1)[:, j])
                / float(k_map[b].flatten(1)[:, j].norm())
                for j in range(6)
            ]
            best = alike.index(max(alike))
            for kept, x in ((rows, q[b].flatten(1)[:, i]), (keys, k[b].flatten(1)[:, best])):
                kept.append(x / x.norm())
    dense = loops.moco(torch.stack(rows), torch.stack(keys), core_queue(), 0.2)
    expected = 0.3 * dense + 0.7 * loops.moco(*z, core_queue(), 0.2)
    made = objective(0.3)
    student, teacher = ([{"projector": z[v], "dense_projector": (q, k)[v], "map": (q_map, k_map)[v]}] for v in range(2))
    assert made(student, teacher, loops.batch(3), loops.CLOCK)["loss"].item() == pytest.approx(expected, abs=1e-9)
    pooled = torch.stack([x.flatten(1).mean(dim=1) for x in k])
    pooled /= pooled.norm(dim=1, keepdim=True)
    torch.testing.assert_close(made.dense_queue.rows[:3], pooled)  # after the loss has read it
    torch.testing.assert_close(made.queue.rows[:3], z[1])


def test_positions_count_from_their_start_on() -> None:
    whole = loss(objective(0.0))["loss"]
    assert loss(objective(0.5, start=0.71))["loss"] == whole
    assert loss(objective(0.5, start=0.7))["loss"] == loss(objective())["loss"] != whole


def test_the_share_of_matched_positions() -> None:
    """Of image 0 the keys 2 and 3, of image 1 the keys 3 and 0."""
    assert loss(objective())["matched_positions"].item() == 0.5
