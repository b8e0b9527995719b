"""Regions find their texts among those of all regions, and texts the boxes of their regions; what is not shown and what
is called alike does not count."""

import math

import pytest
import torch

from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.cloc import CLOC, Prompter, region_loss
from ssl_framework.types import Batch
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused

NAME = "cloc: region-text loss, regions 0 and 3 with the same text are no negatives of each other"
EVERY = torch.ones(6, dtype=torch.bool)


def test_golden() -> None:
    ids = torch.tensor([0, 1, 2, 0, 4, 5])[:, None]
    found = region_loss(mix_rows(0), mix_rows(1), ids, EVERY, torch.tensor(0.07).double()).item()
    assert found == pytest.approx(golden(NAME), abs=1e-5)


def test_equals_the_loop_over_what_is_shown() -> None:
    z, text, there = [loops.random_unit(6, 3, v) for v in range(2)], [0, 1, 0, 0, 2, 1], [True] * 5 + [False]
    total = 0.0
    for a, b in ((z[0], z[1]), (z[1], z[0])):
        for i in range(5):
            others = [j for j in range(5) if j == i or text[j] != text[i]]
            scores = {j: loops.dot(a[i], b[j]) / 0.5 for j in others}
            total += (loops.log_sum_exp([*scores.values()]) - scores[i]) / 10
    ids, shown = torch.tensor(text)[:, None], torch.tensor(there)
    assert region_loss(*z, ids, shown, torch.tensor(0.5).double()).item() == pytest.approx(total, abs=1e-7)


def case(weights: tuple[float, float] = (0.7, 2.0)) -> tuple[CLOC, list, Batch]:
    """Three pictures of four tokens with two boxes each: one is not shown, and in one picture both are called alike."""
    torch.manual_seed(0)
    objective = CLOC(0.5, 100, *weights, Prompter(4, 3, 2)).double()
    z = [loops.random_unit(3, 3, v) for v in range(4)]
    places = torch.randn(3, 4, 4, dtype=torch.float64)
    student = [{"projector": x, "places": places} for x in z]
    boxes = torch.tensor([[[0.0, 0.1, 0.5, 0.6], [0.3, 0.2, 0.9, 1.0]]] * 3)
    boxes[1, 1] = 0
    ids = torch.tensor([[5, 6], [7, 5], [8, 8]])
    return objective, student, Batch([places, ids, *ids[..., None].unbind(1)], torch.arange(3), boxes=boxes)


def test_the_whole_equals_the_loop() -> None:
    objective, student, batch = case()
    found = objective(student, None, batch, loops.CLOCK)
    z = [view["projector"] for view in student]
    pairs = CLIP(0.5, 100).double().both_ways(z[0], z[1]).mean().item()
    regions = objective.prompter(student[0]["places"], batch.boxes.double())
    shown = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    rows = torch.stack([regions[b, r] / regions[b, r].norm() for b, r in shown])
    texts = torch.stack([z[2 + r][b] for b, r in shown])
    ids = torch.stack([batch.views[2 + r][b] for b, r in shown])
    every = torch.ones(5, dtype=torch.bool)
    matched = region_loss(rows, texts, ids, every, torch.tensor(0.5).double()).item()
    errors = []
    for b, r in shown[:3]:  # the two of the last picture are called alike, so neither is asked for
        where = objective.prompter.ground(student[0]["places"][b : b + 1], z[2 + r][b][None, None])[0, 0].tolist()
        errors.append(sum(abs(x - y) for x, y in zip(where, batch.boxes[b, r].tolist(), strict=True)) / 4)
    assert found["clip_loss"].item() == pytest.approx(pairs, abs=1e-7)
    assert found["region_loss"].item() == pytest.approx(matched, abs=1e-7)
    assert found["grounding_loss"].item() == pytest.approx(sum(errors) / 3, abs=1e-7)
    assert found["loss"].item() == pytest.approx(pairs + 0.7 * matched + 2 * sum(errors) / 3, abs=1e-6)


def test_what_is_not_shown_changes_nothing() -> None:
    objective, student, batch = case()
    loss = objective(student, None, batch, loops.CLOCK)["loss"].item()
    student[3]["projector"][1] = torch.tensor([1.0, 0.0, 0.0])
    assert objective(student, None, batch, loops.CLOCK)["loss"].item() == pytest.approx(loss, abs=1e-12)
    none = batch._replace(boxes=torch.zeros_like(batch.boxes))
    found = objective(student, None, none, loops.CLOCK)
    assert found["region_loss"].item() == found["grounding_loss"].item() == 0


def test_regions_of_equal_texts_are_learnt_which_plain_clip_pushes_apart() -> None:
    torch.manual_seed(0)
    kind, net = torch.arange(32) % 4, torch.nn.Linear(4, 4)
    regions, texts = torch.eye(4)[kind] + 0.1 * torch.randn(32, 4), torch.eye(4)[kind]
    optimizer, there = torch.optim.Adam(net.parameters(), 0.1), torch.ones(32, dtype=torch.bool)
    for _ in range(30):
        unit = torch.nn.functional.normalize(net(regions), dim=1)
        loss = region_loss(unit, texts, kind[:, None], there, torch.tensor(0.1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert CLIP(0.1, 100).loss_of(net(regions), texts).item() > math.log(8) - 0.1  # eight of each


def test_a_prompt_asks_for_its_own_region_and_tokens_know_where_they_are() -> None:
    torch.manual_seed(0)
    prompter, tokens, boxes = Prompter(8, 5, 2), torch.randn(2, 9, 8), torch.rand(2, 3, 4)
    found, order = prompter(tokens, boxes), torch.tensor([2, 0, 1])
    assert found.shape == (2, 3, 5)
    torch.testing.assert_close(prompter(tokens, boxes[:, order]), found[:, order])
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3
    assert (prompter(tokens.flip(1), boxes) - found).abs().max() > 1e-3
    where = prompter.ground(tokens, torch.randn(2, 3, 5))
    assert where.shape == (2, 3, 4) and 0 < where.min() < where.max() < 1


def test_what_does_not_fit_is_refused() -> None:
    assert refused("method=cloc", "views=image_long_short") == (
        "CLOC has to know what is in which region of a picture, which these views of image and text do not tell: "
        "choose views=regions or another objective"
    )
    assert refused("method=cloc", "backbone=mlp").startswith("CLOC reads places of the student, which ssl_mlp has not")
    assert refused("method=clip", "data=region_shapes", "views=regions").startswith("CLIP takes 2 views of a sample")
