import pytest
import torch
from torch import Tensor

from ssl_framework.feature_mixers.base import in_batch
from ssl_framework.feature_mixers.m_mix import MMix
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.simclr import SimCLR
from tests.golden import core_view
from tests.objectives import loops
from tests.test_wiring import refused


def by_loop(z: Tensor, threshold: float) -> Tensor:
    """Row by row: the softmax-weighted mean of all rows more similar than the threshold, and of itself, length one."""
    out = []
    for i in range(len(z)):
        near = [j for j in range(len(z)) if j == i or loops.dot(z[i], z[j]) > threshold]
        whole = loops.log_sum_exp([loops.dot(z[i], z[j]) for j in near])
        row = sum(float(torch.tensor(loops.dot(z[i], z[j]) - whole).exp()) * z[j] for j in near)
        out.append(row / row.norm())
    return torch.stack(out)


def loss(z0: Tensor, z1: Tensor, threshold: float, host: SimCLR | DCL) -> Tensor:
    host.feature_mixer = MMix(threshold)
    return host(loops.outputs(z0, z1), None, loops.batch(len(z0)), loops.CLOCK)["loss"]


@pytest.mark.parametrize("threshold", [-0.9, 0.2, 0.95])
def test_equals_the_loop(threshold: float) -> None:
    """The mixtures stand for the first view as anchors, positives and negatives."""
    z0, z1 = core_view(0), core_view(1)
    mixed = by_loop(z0, threshold)
    assert (mixed - z0).abs().max() > 0.01 or threshold == 0.95
    got = loss(z0, z1, threshold, SimCLR(0.4)).item()
    assert got == pytest.approx(loops.nt_xent(mixed, z1, 0.4), abs=1e-6)
    got = loss(z0, z1, threshold, DCL(0.4, None)).item()
    assert got == pytest.approx(loops.dcl(mixed, z1, 0.4, None), abs=1e-6)


def test_above_every_similarity_nothing_is_mixed() -> None:
    z0, z1 = loops.random_unit(6, 5, 0), loops.random_unit(6, 5, 1)
    features = in_batch(z0, z1)
    got = MMix(0.999)(features, loops.CLOCK)
    for a, b in zip((got.q, got.k, got.negatives), (features.q, features.k, features.negatives), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(got.left_out[0], features.left_out[0])


def test_equal_embeddings_stay() -> None:
    z0 = loops.random_unit(1, 5, 0).repeat(6, 1)
    torch.testing.assert_close(MMix(0.95)(in_batch(z0, z0), loops.CLOCK).q, z0.repeat(2, 1))


def test_gradient_reaches_what_is_mixed_but_not_the_weights() -> None:
    z, mixer = loops.random_unit(6, 5, 0).requires_grad_(), MMix(0.0)
    itself = torch.arange(6)
    cotangent = loops.random_unit(6, 5, 1)
    (mixed,) = mixer.mixtures(z, z.detach(), itself)
    (mixed * cotangent).sum().backward()
    eye = torch.eye(6, dtype=torch.float64)
    cosine = (z @ z.T).detach()
    weight = torch.where((cosine > 0) | (eye > 0), cosine.exp(), torch.zeros(()).double())
    weight = weight / weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(z.grad, weight.T @ cotangent)


def test_what_does_not_fit_is_refused() -> None:
    message = refused("method=mocov2", "feature_mixer=m_mix", "objective.queue.size=24")
    assert message == (
        "MMix needs queries of both views, but MoCo has none: choose method=dcl, dclw, g_simclr, "
        "grace, m_mix, reweight_head, "
        "simclr, symmetric_relu_head or feature_mixer=none"
    )
    assert "MMix changes positive pairs" in refused("method=simclr", "feature_mixer=m_mix", "mixer=mixup")
    for threshold in (1.0, -1.0):
        with pytest.raises(ValueError, match=f"threshold is {threshold}: it must be above -1 and below 1"):
            MMix(threshold)
