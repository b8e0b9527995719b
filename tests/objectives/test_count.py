import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.count import Counting
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused

LABEL = torch.tensor([3, 1, 9, 2, 5, 4])


def losses(views: list[Tensor], label: Tensor, scaled: bool = True, scale: float = 10.0) -> dict[str, Tensor]:
    objective = Counting(1 / scale, 100, 0.5, scaled).double()
    return objective(loops.outputs(*views), None, loops.batch(len(label), label), loops.CLOCK)


def test_golden() -> None:
    views = [mix_rows(v) for v in range(3)]
    plain = golden("count_loss: mean over counting images, cosine without temperature")
    assert losses(views, LABEL, scaled=False)["count_loss"].item() == pytest.approx(plain, abs=1e-7)
    scaled = golden("count_loss: with the CLIP scale of 10 on both similarities")
    assert losses(views, LABEL)["count_loss"].item() == pytest.approx(scaled, abs=1e-5)
    clip = golden("clip: loss of raw0, raw1 (normalised inside)")
    found = losses(views, LABEL)
    assert found["loss"].item() == pytest.approx(clip + 0.5 * scaled, abs=1e-5)


def test_equals_the_loop_over_what_shows_more_than_one() -> None:
    views, label = [loops.random_unit(5, 7, v) for v in range(3)], torch.tensor([0, 2, 0, 1, 9])
    each = []
    for i in (1, 3, 4):
        right, wrong = (math.exp(loops.dot(views[0][i], views[v][i])) for v in (1, 2))
        each.append(-math.log(right / (right + wrong)))
    assert losses(views, label, scaled=False)["count_loss"].item() == pytest.approx(sum(each) / 3, abs=1e-10)
    assert losses(views, torch.zeros(5, dtype=torch.long))["count_loss"].item() == 0


def test_it_wants_the_caption_and_its_counterfactual() -> None:
    assert refused("method=count", "views=image_text").startswith("Counting takes 3 views of a sample")
