import pytest
import torch

from ssl_framework.objectives.clip import CLIP
from ssl_framework.objectives.dito import DITO, region_means
from ssl_framework.types import Clock
from tests.objectives import loops
from tests.test_wiring import refused


def test_a_region_is_the_mean_of_its_patches_by_the_share_that_lies_within() -> None:
    patches = torch.arange(16.0).view(1, 16, 1)
    boxes = torch.tensor(
        [[[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75], [0.0, 0.0, 0.5, 0.25], [0.0, 0.0, 0.375, 0.25]]]
    )
    found = region_means(patches, boxes)[0, :, 0]
    assert found.tolist() == pytest.approx([7.5, 9.0, 0.5, (0 + 0.5 * 1) / 1.5])
    generator = torch.Generator().manual_seed(0)
    fine, box = torch.rand(1, 9, 2, generator=generator), torch.tensor([[[0.1, 0.2, 0.7, 0.9]]])
    total, weight = torch.zeros(2), 0.0
    for row in range(3):
        for column in range(3):
            x = max(0.0, min(0.7, (column + 1) / 3) - max(0.1, column / 3))
            y = max(0.0, min(0.9, (row + 1) / 3) - max(0.2, row / 3))
            total, weight = total + x * y * fine[0, 3 * row + column], weight + x * y
    torch.testing.assert_close(region_means(fine, box)[0, 0], total / weight)


def test_boxes_are_of_the_sizes_asked_for_and_the_loss_is_clips_of_the_largest_values() -> None:
    objective = DITO(0.1, 100, 5, [0.25, 0.5]).double()
    boxes = objective.boxes(3, loops.CLOCK)
    size = boxes[..., 2:] - boxes[..., :2]
    assert 0.25 <= size.min() < size.max() <= 0.5 and boxes.min() >= 0 and boxes.max() <= 1
    places, text = torch.randn(3, 16, 4).double(), loops.random_unit(3, 4, 1)
    objective.through_heads = lambda x: {"projector": 2 * x + 1}
    outputs = [{"projector": text, "places": places}, {"projector": text, "places": places}]
    found = objective(outputs, None, loops.batch(3), loops.CLOCK)["loss"].item()
    regions = region_means(places, boxes.double())
    picture = torch.stack([torch.stack([2 * r + 1 for r in each]).max(dim=0).values for each in regions])
    picture = picture / picture.norm(dim=1, keepdim=True)
    assert found == pytest.approx(CLIP(0.1, 100).both_ways(picture, text).mean().item(), abs=1e-6)


def test_regions_that_show_what_the_text_says_are_found() -> None:
    """One patch in sixteen tells the texts apart; the head learns to let it through."""
    torch.manual_seed(0)
    text, kinds = torch.eye(4), torch.arange(32) % 4
    tokens = 0.3 * torch.randn(32, 16, 4)
    tokens[torch.arange(32), torch.randint(16, (32,))] += 3 * text[kinds]
    objective, net = DITO(0.1, 100, 6, [0.25, 0.5]), torch.nn.Linear(4, 4)
    objective.through_heads = lambda x: {"projector": net(x)}
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    losses = []
    for step in range(30):
        rows = torch.randperm(8) * 4
        outputs = [{"projector": text, "places": tokens[rows[0] + torch.arange(4)]}] * 2
        loss = objective(outputs, None, loops.batch(4), Clock(step, 0, 30))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_it_wants_places() -> None:
    assert "DITO reads places of the student's tower for image" in refused("method=dito", "backbone=mlp")
    assert refused("method=dito", "objective.side=[0.5,0.25]").startswith("objective.side is [0.5, 0.25]")
