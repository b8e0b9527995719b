import pytest
import torch

from ssl_framework.models.heads import MLPHead, ReweightHead, built
from ssl_framework.objectives.simclr import SimCLR
from tests.golden import core_view, golden
from tests.objectives import loops


@pytest.mark.parametrize(
    ("kappa", "name"),
    [(1.05, "reweight_head: NT-Xent after re-weighting and re-normalisation"), (1.0, "ntxent: loss [tau=0.5]")],
)
def test_golden(kappa: float, name: str) -> None:
    head = built(ReweightHead("pooled", kappa), {"pooled": 4})
    z = [head({"pooled": core_view(v)}) for v in range(2)]
    value = SimCLR(0.5)(loops.outputs(*z), None, loops.batch(6), loops.CLOCK)["loss"].item()
    assert value == pytest.approx(golden(name), abs=1e-7)


def test_equals_the_loop() -> None:
    z = loops.random_unit(3, 7, 0)
    weighted = built(ReweightHead("pooled", 1.2), {"pooled": 7})({"pooled": z})
    expected = [[float(row[j]) / 1.2**j for j in range(7)] for row in z]
    torch.testing.assert_close(weighted, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_leave_float32_stay_finite(dtype: torch.dtype) -> None:
    """1.05 to the power of 3000 is 1e63: what is beyond float32 vanishes, with its gradient; half precision widens."""
    head = built(ReweightHead("pooled", 1.05), {"pooled": 3001})
    x = torch.ones(2, 3001, dtype=dtype, requires_grad=True)
    z = head({"pooled": x})
    assert z.dtype == torch.float32
    torch.testing.assert_close(z[0, 1700], torch.tensor(1.05**-1700.0), rtol=1e-5, atol=0)
    assert z[0, -1] == 0
    torch.nn.functional.normalize(z).square().sum(dim=0)[:3].sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad[0, 0] != 0


def test_it_stands_on_another_head_and_has_nothing_to_train_or_to_store() -> None:
    dims = {"pooled": 5}
    mlp = built(MLPHead("pooled", [6], 4), dims)
    head = built(ReweightHead("mlp", 1.5), {**dims, "mlp": mlp.out})
    outputs = {"pooled": torch.randn(3, 5)}
    outputs["mlp"] = mlp(outputs)
    torch.testing.assert_close(head(outputs), outputs["mlp"] / torch.tensor([1.0, 1.5, 2.25, 3.375]))
    assert head.out == 4 and not list(head.parameters()) and not head.state_dict()
    assert [layer.shape for layer in head.each_layer(outputs)] == [(3, 4)]


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match=r"kappa is 0\.9: it must be at least 1"):
        ReweightHead("pooled", 0.9)
    with pytest.raises(ValueError, match=r"source=projector, but the encoder offers \['pooled'\]"):
        built(ReweightHead("projector", 1.05), {"pooled": 4})
