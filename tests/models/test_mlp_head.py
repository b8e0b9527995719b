"""The normalisation at the end of a projector, as the authors of several methods have it."""

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.models.heads import MLPHead, built


def ends(last_norm: bool | str) -> nn.Sequential:
    return built(MLPHead("pooled", [4], 3, True, last_norm), {"pooled": 5}).layers  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last_norm", "learned"),
    [(False, {"3.bias"}), (True, set()), ("scale", {"4.weight"}), ("scale_and_shift", {"4.weight", "4.bias"})],
)
def test_what_is_learned_at_the_end(last_norm: bool | str, learned: set[str]) -> None:
    layers = ends(last_norm)
    assert len(layers) == (5 if last_norm else 4)
    names = {name for name, _ in layers.named_parameters()} - {"0.weight", "1.weight", "1.bias", "3.weight"}
    assert names == learned


def test_the_last_normalisation_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    for last_norm in (True, "scale", "scale_and_shift"):
        layers = ends(last_norm).double()
        scale, shift = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        with torch.no_grad():
            if last_norm is not True:
                layers[4].weight.copy_(scale := torch.tensor([2.0, 0.5, -1.0], dtype=torch.float64))
            if last_norm == "scale_and_shift":
                layers[4].bias.copy_(shift := torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64))
        before: Tensor = layers[:4](x)  # [6, 3]
        for column in range(3):
            values = before[:, column].tolist()
            mean = sum(values) / 6
            deviation = (sum((value - mean) ** 2 for value in values) / 6 + 1e-5) ** 0.5
            expected = [(value - mean) / deviation * float(scale[column]) + float(shift[column]) for value in values]
            assert layers(x)[:, column].tolist() == pytest.approx(expected, abs=1e-12)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="last_norm is 'shift': it must be true or false, or one of scale, scale_and"):
        ends("shift")
