import math

import pytest
import torch

from ssl_framework.objectives.villa import attribute_loss, mapping, region_scores, words_of
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused

RELEASED = "villa: stage 1, one projection, as released (positives add exp(0) to the denominator)"
INTENDED = "villa: stage 1, intended (only images without the attribute in the denominator)"
HAS = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 0, 1]]).bool()


def test_golden() -> None:
    """Of the two, that which the authors mean: pictures with the attribute count nothing."""
    rows = mix_raw(1, 7, 8)
    pictures = torch.stack([rows[[0, 1, 1]], rows[[2, 3, 3]], rows[4:]])  # [3, 3, 8]: a region twice changes no maximum
    scores = region_scores(pictures, mix_rows(2, 4), 0.5).amax(dim=1)
    found = attribute_loss(scores, HAS).item()
    assert found == pytest.approx(golden(INTENDED)) and abs(found - golden(RELEASED)) > 0.5


def test_equals_the_loop_and_an_attribute_that_all_have_costs_nothing() -> None:
    scores = loops.random_unit(4, 3, 0)
    has = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 1, 0]]).bool()
    each = []
    for i in range(4):
        for a in range(3):
            if has[i, a]:
                own = math.exp(scores[i, a])
                each.append(-math.log(own / (own + sum(math.exp(scores[j, a]) for j in range(4) if not has[j, a]))))
    assert attribute_loss(scores, has).item() == pytest.approx(sum(each) / len(each))
    alone = scores[:, 1:2].requires_grad_()
    loss = attribute_loss(alone, has[:, 1:2])
    loss.backward()
    assert loss.item() == 0 and not alone.grad.any()  # type: ignore[union-attr]


def test_words_are_attributes_but_not_the_marks_of_a_text() -> None:
    assert words_of(torch.tensor([[1, 6, 5, 6, 2, 0], [1, 3, 7, 4, 2, 0]]), 8).nonzero().tolist() == [
        [0, 5],
        [0, 6],
        [1, 7],
    ]


def test_the_region_that_shows_an_attribute_is_found_from_what_pictures_have_as_a_whole() -> None:
    """One region in nine shows the word of the text; a head that is right of most of them becomes right of all."""
    torch.manual_seed(2)
    kinds, places = torch.arange(32) % 4, torch.randint(9, (32,))
    regions = 0.3 * torch.randn(32, 9, 6) + torch.eye(6)[5]
    regions[torch.arange(32), places] = 0.3 * torch.randn(32, 6) + torch.eye(6)[kinds]
    attributes, net = torch.eye(6)[:4], torch.nn.Linear(6, 6)
    with torch.no_grad():
        net.weight.copy_(torch.eye(6) + 0.3 * torch.randn(6, 6))
    has, found = torch.eye(4).bool()[kinds], []  # [32, 4]
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(30):
        scores = region_scores(net(regions), attributes, 0.1)  # [32, 9, 4]
        found.append(mapping(scores, has, 0.0)[torch.arange(32), places, kinds].float().mean())
        optimizer.zero_grad()
        attribute_loss(scores.amax(dim=1), has).backward()
        optimizer.step()
    assert found[0] < 0.9 < 0.95 < found[-1]
    assert mapping(scores, has, 0.0).sum() == 32 and mapping(scores, has, 100.0).sum() == 9 * 32


def test_micro_batches_are_refused() -> None:
    assert "ViLLA reads tokens" in refused("method=villa", "data.micro_batch_size=4")
