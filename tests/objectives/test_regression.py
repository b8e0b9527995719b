"""Regression of numbers: what each loss is, which number a mixed view shows; and the partners of C-Mixup."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.mixers.mixing import Context, Mixing
from ssl_framework.mixers.partners import LabelKernel
from ssl_framework.mixers.rules import Mixup
from ssl_framework.objectives.regression import Regression
from ssl_framework.types import Batch, Mix
from tests.golden import golden
from tests.objectives import loops
from tests.runs import small

LABELS = torch.tensor([0, 1, 3, 3.5, 6, 9], dtype=torch.float64)


def outputs(*predicted: Tensor | None) -> list:
    return [None if p is None else {"regressor": p[:, None]} for p in predicted]


def loss(name: str, *predicted: Tensor | None, mix: list[Mix | None] | None = None) -> float:
    batch = loops.batch(len(LABELS), LABELS)._replace(mix=mix)
    return Regression(name)(outputs(*predicted), None, batch, loops.CLOCK)["loss"].item()


@pytest.mark.parametrize("name", ["l1", "mse", "huber"])
def test_each_loss_over_all_views_that_were_encoded(name: str) -> None:
    def of(error: float) -> float:
        small = abs(error) <= 1
        return {"l1": abs(error), "mse": error**2, "huber": error**2 / 2 if small else abs(error) - 0.5}[name]

    first, second = LABELS + 0.25, LABELS.flip(0)
    expected = [of(float(p - y)) for view in (first, second) for p, y in zip(view, LABELS, strict=True)]
    assert loss(name, first, None, second) == pytest.approx(sum(expected) / 12, abs=1e-12)


def test_a_mixed_view_shows_the_mean_of_its_sources_numbers() -> None:
    source = torch.tensor([[0, 1], [1, 5], [2, 2], [3, 0], [4, 3], [5, 4]])
    share = torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    mix = Mix(torch.empty(0), source, share, None, 1)
    shown = torch.tensor([0.25, 5.0, 3.0, 0.875, 4.75, 9.0], dtype=torch.float64)
    assert loss("mse", LABELS, shown, mix=[None, mix]) == pytest.approx(0.0, abs=1e-12)
    assert loss("mse", shown, LABELS, mix=[None, mix]) > 0.1


def test_classes_are_read_as_numbers() -> None:
    out = Regression("l1")(outputs(torch.zeros(3)), None, loops.batch(3, torch.tensor([0, 3, 6])), loops.CLOCK)
    assert out["loss"].item() == out["absolute_error"].item() == 3.0


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.loss is rmse: choose one of l1, mse, huber"):
        Regression("rmse")
    with pytest.raises(ValueError, match=r"student\.heads\.regressor\.out is 2: a number is one output, set it to 1"):
        Regression("l1")([{"regressor": torch.zeros(6, 2)}], None, loops.batch(6, LABELS), loops.CLOCK)
    with pytest.raises(ValueError, match=r"mixer\.partners\.bandwidth is 0"):
        LabelKernel(0)


def partners(bandwidth: float, seed: int, label: Tensor | None = LABELS) -> Tensor:
    """[B, 1] of one draw."""
    batch = Batch([torch.zeros(6, 1, 2, 2)], torch.arange(6), label)
    return LabelKernel(bandwidth)(batch, Context(torch.Generator().manual_seed(seed), None, None, label))


def test_golden_partner_distribution() -> None:
    expected = golden("c_mixup: partner distribution of row 0")
    assert LabelKernel(1.75).probability(LABELS)[0].tolist() == pytest.approx(expected, abs=1e-7)


def test_partners_are_drawn_with_these_probabilities() -> None:
    draws = torch.cat([partners(1.75, seed) for seed in range(4000)], dim=1)  # [6, 4000]
    expected = LabelKernel(1.75).probability(LABELS)
    for i in range(6):
        seen = Counter(draws[i].tolist())
        for j in range(6):
            assert seen[j] / 4000 == pytest.approx(expected[i, j].item(), abs=0.03)


def test_a_narrow_kernel_leaves_samples_alone_and_a_wide_one_takes_all() -> None:
    assert (partners(1e-6, 0)[:, 0] == torch.arange(6)).all()
    torch.testing.assert_close(LabelKernel(1e6).probability(LABELS), torch.full((6, 6), 1 / 6, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"mixer\.partners goes by labels, but the training set has none"):
        partners(1.0, 0, None)


def test_c_mixup_is_regression_with_its_mixer() -> None:
    module = build_module(small("regression", "mixer=c_mixup", "mixer.partners.bandwidth=2.0"), has_labels=True)
    mixer = module.mixer
    assert isinstance(mixer, Mixing) and isinstance(mixer.partners, LabelKernel) and isinstance(mixer.rule, Mixup)
    x = torch.rand(6, 3, 8, 8)
    batch = mixer(Batch([x], torch.arange(6), LABELS.float()), loops.CLOCK, None)
    assert batch.mix is not None and batch.mix[0] is not None
    assert len(batch.mix[0].share[batch.mix[0].share[:, 0] < 1].unique(dim=0)) <= 1  # one ratio a batch, as the authors
