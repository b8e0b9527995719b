"""A host's loss and the cross-entropy of the pretext task beside it."""

import math

import pytest
import torch

from ssl_framework.memory import Queue
from ssl_framework.objectives.moco import MoCo
from ssl_framework.objectives.pretext import Pretext
from ssl_framework.objectives.simclr import SimCLR
from tests.golden import core_view, golden
from tests.objectives import loops


def test_equals_the_loop_and_the_golden_value_of_the_host() -> None:
    z0, z1, scores = core_view(0), core_view(1), torch.randn(6, 4, dtype=torch.float64)
    answer = torch.tensor([0, 3, 1, 1, 2, 0])
    student = [*loops.outputs(z0, z1), {"projector": core_view(2), "pretext": scores}]
    batch = loops.batch(6)._replace(targets=[answer])
    out = Pretext(SimCLR(0.5), 0.3)(student, None, batch, loops.CLOCK)
    terms = [loops.log_sum_exp(row.tolist()) - float(row[a]) for row, a in zip(scores, answer, strict=True)]
    right = sum(max(range(4), key=lambda c: float(row[c])) == a for row, a in zip(scores, answer.tolist(), strict=True))
    assert out["host_loss"].item() == pytest.approx(golden("ntxent: loss [tau=0.5]"), abs=1e-7)
    assert out["loss"].item() == pytest.approx(out["host_loss"].item() + 0.3 * math.fsum(terms) / 6, abs=1e-12)
    assert out["pretext_loss"].item() == pytest.approx(sum(terms) / 6) and out["pretext_accuracy"] == right / 6


def test_what_does_not_fit_is_refused() -> None:
    student = [*loops.outputs(core_view(0), core_view(1)), {"pretext": torch.zeros(6, 4)}]
    with pytest.raises(ValueError, match="nothing has changed it: choose views=scatsimclr"):
        Pretext(SimCLR(0.5), 0.3)(student, None, loops.batch(6), loops.CLOCK)
    with pytest.raises(ValueError, match=r"objective\.host is MoCo, which needs more than two views of a batch"):
        Pretext(MoCo(0.2, Queue(4, 4)), 0.3)
    assert Pretext(SimCLR(0.5), 0.3).num_views == (3, 3)
