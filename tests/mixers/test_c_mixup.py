"""C-Mixup: partners drawn by how near their numbers are."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_module
from ssl_framework.mixers.base import Context
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.mixers.partners import LabelKernel
from ssl_framework.mixers.rules import Mixup
from ssl_framework.types import Batch
from tests.golden import golden
from tests.objectives import loops
from tests.small_runs import small

LABELS = torch.tensor([0, 1, 3, 3.5, 6, 9], dtype=torch.float64)


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


def test_the_bandwidth_is_refused() -> None:
    with pytest.raises(ValueError, match="bandwidth is 0: it must be above 0"):
        LabelKernel(0)
