import math

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.functional import positions
from ssl_framework.memory import Queue
from ssl_framework.objectives.obow import OBoW, bags_of_words, squared_distances, trimmed
from ssl_framework.types import Clock
from tests.golden import golden
from tests.objectives import loops, maps
from tests.small_runs import small

WORDS = maps.cos_map(8, 3).clamp(min=0)


def objective(levels: tuple[str, ...] = ("map",), **changes: object) -> OBoW:
    settings = {"inverse_delta": 15.0, "decay": 0.99, "kappa": 5.0, "border": 1, "crops": [2, 1], "dim": 4} | changes
    made = OBoW(list(levels), lambda dim: Queue(8, dim), **settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    made.meet(dict.fromkeys(levels, 3))
    return made.double()


def bag_by_loop(x: Tensor, words: Tensor, sharpness: float) -> list[float]:
    """Of one map [C, h, w]."""
    best = [0.0] * len(words)
    for place in x.flatten(1).T:
        logits = [-sharpness * float((place - word).square().sum()) for word in words]
        total = loops.log_sum_exp(logits)
        best = [max(b, math.exp(e - total)) for b, e in zip(best, logits, strict=True)]
    return [b / sum(best) for b in best]


def test_golden() -> None:
    x = trimmed(maps.sin_map(2, 3, 5, 5), 1)
    assert x.shape == (2, 3, 3, 3)
    found = bags_of_words(squared_distances(positions(x), WORDS), 15 / 0.5)
    assert found[0].tolist() == pytest.approx(golden("obow: bag of words of image 0"), abs=1e-7)
    assert found[1].tolist() == pytest.approx(bag_by_loop(x[1], WORDS, 30.0), abs=1e-9)


@pytest.mark.parametrize("levels", [("map",), ("first", "map")])
def test_equals_the_loop_and_changes_its_memory_afterwards(levels: tuple[str, ...]) -> None:
    made = objective(levels)
    z = [loops.random_unit(2, 4, v) for v in range(3)]
    shown = {level: maps.random_map(7 + n, 2, 3, 5, 5) for n, level in enumerate(levels)}
    before = [queue.read() for queue in made.words]  # type: ignore[operator]
    assert all((words >= 0).all() and (words == 0).any() for words in before)
    kinds: list[list[float]] = [[], []]
    for number, level in enumerate(levels):
        inner, words = shown[level][:, :, 1:4, 1:4], before[number]
        nearest = [min(float((place - w).square().sum()) for w in words) for x in inner for place in x.flatten(1).T]
        apart = 0.99 * 0.5 + 0.01 * sum(nearest) / len(nearest)
        rows = words / words.norm(dim=1, keepdim=True).clamp(min=1e-12)
        weights = made.generators[number].layers(rows).detach()
        weights = weights / weights.norm(dim=1, keepdim=True)
        for v in range(3):
            total = 0.0
            for b in range(2):
                target = bag_by_loop(inner[b], words, 15 / apart)
                logits = [5.0 * loops.dot(z[v][b], w) for w in weights]
                lse = loops.log_sum_exp(logits)
                total += sum(p * (math.log(p) - (x - lse)) for p, x in zip(target, logits, strict=True) if p > 0)
            kinds[v == 2].append(total / 2)
    seen = [None, *({"projector": x} for x in z)]
    out = made(seen, [shown, None, None, None], loops.batch(2), loops.CLOCK)
    expected = sum(kinds[0]) / len(kinds[0]) + sum(kinds[1]) / len(kinds[1])
    assert out["loss"].item() == pytest.approx(expected, abs=1e-7)
    for number, level in enumerate(levels):
        around = shown[level][:, :, 1:4, 1:4].mean(dim=(2, 3))  # 3 x 3: one place
        torch.testing.assert_close(made.words[number].rows[:2], around)  # type: ignore[index]
        torch.testing.assert_close(made.words[number].rows[2:], before[number][2:])  # type: ignore[index]


def test_the_same_step_draws_the_same_words_and_another_one_others() -> None:
    x = maps.random_map(0, 6, 3, 8, 8)

    def pushed(step: int) -> Tensor:
        made = objective()
        made.described(0, x, made.words[0].read(), Clock(step, 0, 10))  # type: ignore[operator]
        return made.words[0].rows[:6]  # type: ignore[index, return-value]

    assert torch.equal(pushed(3), pushed(3)) and not torch.equal(pushed(3), pushed(4))


def test_small_maps_stay_whole_and_another_number_of_crops_is_refused() -> None:
    assert trimmed(torch.zeros(2, 3, 2, 4), 1).shape == (2, 3, 2, 4)
    assert trimmed(torch.zeros(2, 3, 4, 5), 1).shape == (2, 3, 2, 3)
    assert trimmed(torch.zeros(2, 3, 4, 4), 0).shape == (2, 3, 4, 4)
    seen = [None, *({"projector": loops.random_unit(2, 4, v)} for v in range(2))]
    with pytest.raises(ValueError, match=r"objective\.crops is \[2, 1\], but the student encodes 2 views"):
        objective()(seen, [{"map": torch.zeros(2, 3, 5, 5)}, None, None], loops.batch(2), loops.CLOCK)
    with pytest.raises(ValueError, match="the teacher describes one image, but encodes 2 views: set teacher_views="):
        objective(crops=[2])(seen, [{"map": torch.zeros(2, 3, 5, 5)}] * 2, loops.batch(2), loops.CLOCK)


def test_the_teacher_has_no_heads_and_sees_the_whole_image() -> None:
    module = build_module(small("obow"), True)
    assert module.teacher is not None and not module.teacher.encoder.heads
    assert [queue.rows.shape for queue in module.objective.words] == [(32, 128), (32, 192)]  # type: ignore[union-attr]
    net = module.teacher.encoder.backbone.net  # type: ignore[attr-defined]
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outputs = module.teacher.eval()([x], [0], loops.CLOCK)[0]
    assert outputs is not None and torch.equal(outputs["block_-2"], net.eval().features[:9](x))
    assert "block_-2" not in module.student([x])[0]  # type: ignore[operator]
    assert [module.views.example(v)[-1] for v in range(8)] == [32, 24, 24, 16, 16, 16, 16, 16]
