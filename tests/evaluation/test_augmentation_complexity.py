"""The kernel of an augmentation: golden values, loops, the closed form on the cube, and what encoders span of it."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from ssl_framework.data.base import Split
from ssl_framework.evaluation.after_training.augmentation_complexity import (
    AugmentationComplexity,
    kernel,
    spanned,
    views,
)
from ssl_framework.evaluation.features import Bare, Splits
from tests.golden import golden


def cube(d: int) -> Tensor:
    return torch.tensor([*itertools.product((0, 1), repeat=d)])  # [2^d, d]


def complexity(**changes: object) -> AugmentationComplexity:
    settings = {"num_samples": 1000, "cells": 3, "levels": 2, "hidden": 0.4, "seed": 0, **changes}
    return AugmentationComplexity("rkhs_complexity/1", **settings)  # type: ignore[arg-type]


class Given(Bare):
    """An encoder whose features are a function of the images."""

    def __init__(self, features: object) -> None:
        torch.nn.Module.__init__(self)
        self.views = torch.nn.Module()
        self.views.clean = lambda images: images  # type: ignore[assignment]
        self.student = torch.nn.Linear(1, 1)
        self.student.embed = features  # type: ignore[assignment]


def test_golden_values_of_the_cube() -> None:
    whole = kernel(list(views(cube(3), 0.4)))
    of = "kappa^2 of the 3-cube with every coordinate hidden with probability .4; closed form (2 - .4)^3"
    assert whole.diagonal().max().item() == pytest.approx(golden(f"rkhs_complexity: {of}"))
    found = torch.linalg.eigvalsh(whole / 8).flip(0)
    expected = golden("rkhs_complexity: eigenvalues; closed form (1 - alpha)^k, binomial(3, k) times")
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_the_kernel_against_loops_over_images_and_views() -> None:
    content, hidden = torch.tensor([[0, 1], [0, 2], [0, 1], [1, 2], [1, 0]]), 0.3
    masks = [*itertools.product((False, True), repeat=2)]

    def view(x: int, mask: tuple[bool, ...]) -> tuple[object, ...]:
        return (mask, *(int(content[x, i]) for i in range(2) if mask[i]))

    def chance(mask: tuple[bool, ...]) -> float:
        return math.prod(1 - hidden if shown else hidden for shown in mask)

    expected = torch.zeros(5, 5, dtype=torch.float64)
    for mask in masks:
        for x, y in itertools.product(range(5), range(5)):
            if view(x, mask) == view(y, mask):
                marginal = sum(chance(mask) for z in range(5) if view(z, mask) == view(x, mask)) / 5
                expected[x, y] += chance(mask) ** 2 / marginal
    got = kernel(list(views(content, hidden)))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.mean(dim=1), torch.ones(5, dtype=torch.float64))  # a constant has eigenvalue 1


def test_the_evaluator_on_all_images_of_nine_cells_is_the_closed_form() -> None:
    """512 pictures of 3 x 3 pixels; an encoder of the pixels spans the first ten directions, which is the best."""
    pixels = (255 * cube(9)).to(torch.uint8).view(512, 1, 3, 3)
    data = Splits(Split(pixels, None, ()), Split(pixels, None, ()))
    found = complexity().score(Given(lambda x: x.flatten(1).float()), data)
    values = {name.split("/")[1]: value for name, value in found.items()}
    assert all(name.startswith("rkhs_complexity[cells=3x3,levels=2,hidden=0.4,n=512]/") for name in found)
    assert values["kappa2"] == pytest.approx(1.6**9) == values["kappa2_cube"] == pytest.approx(values["kappa2_mean"])
    assert values["rank"] == 10 and values["captured"] == pytest.approx(1.0)
    # r / N of the trace 1.6^9, over 1 + 9 (1 - alpha)
    assert values["captured_by_chance"] == pytest.approx(10 / 512 * 1.6**9 / (1 + 9 * 0.6))
    parity = complexity().score(Given(lambda x: (x.flatten(1) // 255 * 2.0 - 1).prod(dim=1, keepdim=True)), data)
    last = {name.split("/")[1]: value for name, value in parity.items()}
    assert last["rank"] == 2 and last["captured"] == pytest.approx((1 + 0.6**9) / 1.6)


def test_samples_are_drawn_once_and_levels_are_equal_steps() -> None:
    images = torch.tensor([0, 60, 70, 130, 255], dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 2, 2, 2)
    assert complexity(cells=1, levels=4).contents(images)[:, 0].tolist() == [0, 0, 1, 2, 3]
    assert complexity(cells=2).contents(torch.zeros(3, 1, 4, 4)).tolist() == [[0] * 4] * 3
    basis = spanned(torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 1.0], [1.0, 1.0, 2.0], [1.0, 5.0, 6.0]]))
    assert basis.shape == (4, 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))


def test_what_is_no_picture_is_refused() -> None:
    series = Split(torch.zeros(4, 1, 16), None, ())
    with pytest.raises(ValueError, match="divides decoded pictures into 3 x 3 cells, but a sample of these data is"):
        complexity().score(Given(lambda x: x), Splits(series, series))
    with pytest.raises(ValueError, match="cells is 4: it must be between 1 and 3"):
        complexity(cells=4)
