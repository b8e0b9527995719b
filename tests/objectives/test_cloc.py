import pytest
import torch

from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.cloc import CLOC, Prompter
from tests.golden import golden, mix_rows
from tests.objectives import loops

NAME = "cloc: region-text loss, regions 0 and 3 with the same text are no negatives of each other"


def test_golden() -> None:
    label = torch.tensor([0, 1, 2, 0, 4, 5])
    found = CLOC(0.07, 100).double().loss_of(mix_rows(0), mix_rows(1), label=label).item()
    assert found == pytest.approx(golden(NAME), abs=1e-5)


def test_equals_the_loop() -> None:
    z, label = [loops.random_unit(5, 3, v) for v in range(2)], [0, 1, 0, 0, 2]
    total = 0.0
    for a, b in ((z[0], z[1]), (z[1], z[0])):
        for i in range(5):
            scores = {j: loops.dot(a[i], b[j]) / 0.5 for j in range(5) if j == i or label[j] != label[i]}
            total += (loops.log_sum_exp([*scores.values()]) - scores[i]) / 10
    assert CLOC(0.5, 100).double().loss_of(*z, label=torch.tensor(label)).item() == pytest.approx(total, abs=1e-7)


def test_regions_of_equal_texts_are_learnt_which_plain_clip_pushes_apart() -> None:
    torch.manual_seed(0)
    label, net = torch.arange(32) % 4, torch.nn.Linear(4, 4)
    regions, texts = torch.eye(4)[label] + 0.1 * torch.randn(32, 4), torch.eye(4)[label]
    objective = CLOC(0.1, 100)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(30):
        loss = objective.loss_of(net(regions), texts, label=label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert CLIP(0.1, 100).loss_of(net(regions), texts).item() > 2.0  # eight of each: log 8 is its least


def test_a_prompt_asks_for_its_own_region_whatever_the_order() -> None:
    torch.manual_seed(0)
    prompter, tokens, boxes = Prompter(8, 2), torch.randn(2, 9, 8), torch.rand(2, 3, 4)
    found, order = prompter(tokens, boxes), torch.tensor([2, 0, 1])
    torch.testing.assert_close(prompter(tokens, boxes[:, order]), found[:, order])
    torch.testing.assert_close(prompter(tokens.flip(1), boxes), found)
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3
    where = prompter.ground(tokens, torch.randn(2, 3, 8))
    assert where.shape == (2, 3, 4) and 0 < where.min() < where.max() < 1


def test_equal_numbers_are_wanted() -> None:
    with pytest.raises(ValueError, match="CLOC needs more than views: give it label="):
        CLOC(0.1, 100).loss_of(*[loops.random_unit(3, 4, v) for v in range(2)])
