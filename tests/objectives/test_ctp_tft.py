import pytest
import torch

from ssl_framework.models.prompts import scores
from ssl_framework.objectives.ctp_tft import CTPTFT
from ssl_framework.types import Batch, Clock
from tests.golden import golden, mix_rows
from tests.objectives import loops

NAME = "ctp_tft: contrastive classification with prompts of their own for each image"


def loss(logits: torch.Tensor, label: list[int], known: float) -> dict[str, torch.Tensor]:
    batch = Batch([], torch.arange(len(label)), torch.tensor(label))
    return CTPTFT(logits.shape[1], known)([{"classifier": logits}], None, batch, Clock(0, 0, 1))


def test_golden() -> None:
    logits = scores(mix_rows(0), mix_rows(1, 24).view(6, 4, 8), 0.07)
    assert loss(logits, [0, 1, 2, 3, 0, 1], 1.0)["loss"].item() == pytest.approx(golden(NAME))


@pytest.mark.parametrize(("known", "classes"), [(1.0, 4), (0.5, 2)])
def test_equals_the_loop_among_the_classes_that_samples_come_from(known: float, classes: int) -> None:
    logits, label = torch.randn(3, 4).double(), [1, 0, 1]
    rows = [row[:classes] for row in logits.tolist()]
    out = loss(logits, label, known)
    expected = sum(loops.log_sum_exp(row) - row[y] for row, y in zip(rows, label, strict=True)) / 3
    assert out["loss"].item() == pytest.approx(expected)
    assert out["accuracy"].item() == pytest.approx(
        sum(row.index(max(row)) == y for row, y in zip(rows, label, strict=True)) / 3
    )
