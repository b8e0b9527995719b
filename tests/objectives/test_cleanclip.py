import pytest
from torch import Tensor

from ssl_framework.objectives.cleanclip import CleanCLIP
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused


def losses(views: list[Tensor], within: float = 1.0, scale: float = 10.0) -> dict[str, Tensor]:
    objective = CleanCLIP(1 / scale, 100, within).double()
    return objective(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)


def finds(a: Tensor, b: Tensor, scale: float) -> float:
    """Mean cross-entropy of each row of a finding its own of b."""
    total = 0.0
    for i in range(len(a)):
        logits = [scale * loops.dot(a[i], b[j]) for j in range(len(a))]
        total += (loops.log_sum_exp(logits) - logits[i]) / len(a)
    return total


def test_golden() -> None:
    picture, text, altered_picture, altered_text = (mix_rows(v) for v in range(4))
    found = losses([picture, altered_picture, text, altered_text])
    assert found["loss"].item() == pytest.approx(golden("cleanclip: loss"), abs=1e-5)


def test_equals_the_loop() -> None:
    z = [loops.random_unit(5, 7, v) for v in range(4)]
    across = (finds(z[0], z[2], 4.0) + finds(z[2], z[0], 4.0)) / 2
    within = (finds(z[0], z[1], 4.0) + finds(z[2], z[3], 4.0)) / 2
    assert losses(z, 0.3, 4.0)["loss"].item() == pytest.approx(across + 0.3 * within, abs=1e-6)


def test_it_wants_two_views_of_each() -> None:
    assert refused("method=cleanclip", "views=image_text").startswith("CleanCLIP takes 4 views of a sample")
