import pytest
import torch

from ssl_framework.objectives.gopro import GOPro
from ssl_framework.types import Batch, Clock
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops

LABEL = torch.tensor([0, 1, 2, 3, 0, 1])


def test_golden() -> None:
    student = [
        {
            "classifier": 3 * mix_raw(0, 6, 4),
            "texts": mix_rows(s, 24).view(6, 4, 8),
            "projector": mix_raw(min(s - 1, 1)),
        }
        for s in (1, 2, 3)
    ]
    out = GOPro(0.1, 0.1, 4, 1.0)([*student], None, Batch([], torch.arange(6), LABEL), Clock(0, 0, 1))
    found = [out["loss"].item(), out["contrast_loss"].item()]
    assert found == pytest.approx(golden("gopro: classification + prompt consistency + 0.1 visual contrast"))


@pytest.mark.parametrize(("known", "classes"), [(1.0, 4), (0.6, 3)])
def test_equals_the_loop(known: float, classes: int) -> None:
    logits, texts = loops.random_unit(3, 4, 0), [torch.randn(3, 4, 5).double() for _ in range(3)]
    z, label = [loops.random_unit(3, 6, v) for v in range(2)], [2, 0, 1]
    named = sum(loops.log_sum_exp(row[:classes].tolist()) - float(row[y]) for row, y in zip(logits, label, strict=True))
    steady = sum(
        sum((float(a) - float(b)) ** 2 for a, b in zip(texts[0].flatten(), each.flatten(), strict=True)) / 60
        for each in texts[1:]
    )
    student = [{"classifier": logits + v, "texts": texts[v], "projector": z[min(v, 1)]} for v in range(3)]
    batch = Batch([], torch.arange(3), torch.tensor(label))
    out = GOPro(0.5, 0.3, 4, known)([*student], None, batch, Clock(0, 0, 1))
    assert out["loss"].item() == pytest.approx(named / 3 + steady + 0.3 * loops.nt_xent(*z, 0.5))
