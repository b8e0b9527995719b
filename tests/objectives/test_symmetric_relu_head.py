import pytest
import torch

from ssl_framework.models.heads import SymmetricReLU, SymmetricReLUHead, built
from ssl_framework.objectives.simclr import SimCLR
from tests.golden import core_view, golden
from tests.objectives import loops


def head(b: float = 0.0) -> SymmetricReLUHead:
    found = built(SymmetricReLUHead("pooled"), {"pooled": 4}).double()
    activation = found.layers[1]
    assert isinstance(activation, SymmetricReLU)
    activation.b.data.fill_(b)
    return found


def test_it_is_the_identity_at_first_so_the_loss_is_the_golden_one_of_nt_xent() -> None:
    z = [head()({"pooled": core_view(v)}) for v in range(2)]
    assert torch.equal(z[0], core_view(0))
    value = SimCLR(0.5)(loops.outputs(*z), None, loops.batch(6), loops.CLOCK)["loss"].item()
    assert value == pytest.approx(golden("ntxent: loss [tau=0.5]"), abs=1e-7)


@pytest.mark.parametrize("b", [0.3, -0.2])
def test_equals_the_loop(b: float) -> None:
    x = core_view(0)
    expected = [[max(float(v) - b, 0) - max(-float(v) - b, 0) for v in row] for row in x]
    torch.testing.assert_close(head(b)({"pooled": x}), torch.tensor(expected, dtype=torch.float64))


def test_every_weight_has_a_gradient_at_the_identity() -> None:
    built = head()
    weighted = (built({"pooled": core_view(0)}) * core_view(1)).sum()
    weighted.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0.01 for p in built.parameters())


def test_layers_are_the_activation_and_the_output() -> None:
    built = head(0.1)
    torch.nn.init.normal_(built.layers[2].weight)
    first, last = built.each_layer({"pooled": core_view(0)})
    torch.testing.assert_close(first, built.layers[1](core_view(0)))
    torch.testing.assert_close(last, built({"pooled": core_view(0)}))
