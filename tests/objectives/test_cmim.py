"""cMIM: the golden value of the contrastive term, a loop over the whole loss, and the heads that it reads."""

import math

import pytest
import torch

from ssl_framework.models.generative_heads import GaussianSample, PixelDecoder
from ssl_framework.models.heads import built
from ssl_framework.objectives.cmim import CMIM, contrast
from ssl_framework.types import Batch
from tests.golden import core_view, golden, mix_raw
from tests.objectives import loops


def test_golden() -> None:
    value = contrast(core_view(0), core_view(1), 0.1).mean().item()
    assert value == pytest.approx(golden("cmim: contrastive term, negatives averaged"), abs=1e-7)


def test_equals_the_loop() -> None:
    posterior, z, decoded, pixels = mix_raw(0), 2 * mix_raw(1)[:, :4], mix_raw(2), mix_raw(3)
    posterior = posterior.clone()
    posterior[2, 5] = -20.0  # counts as -8
    total = 0.0
    for i in range(6):
        mean, log_variance = posterior[i, :4].tolist(), [max(v, -8.0) for v in posterior[i, 4:].tolist()]
        for x, y in zip(pixels[i].tolist(), decoded[i].tolist(), strict=True):
            total += (((x - y) / 0.5) ** 2 + math.log(2 * math.pi * 0.25)) / 2
        for c, m, v in zip(z[i].tolist(), mean, log_variance, strict=True):
            total += ((c - m) ** 2 / math.exp(v) + math.log(2 * math.pi) + v) / 4  # half of -log q
            total += (c**2 + math.log(2 * math.pi)) / 4  # half of -log P
        s = [torch.cosine_similarity(z[i], posterior[j, :4], dim=0).item() / 0.2 for j in range(6)]
        negatives = sum(math.exp(s[j]) for j in range(6) if j != i) / 5
        total -= 0.7 * math.log(math.exp(s[i]) / (math.exp(s[i]) + negatives))
    outputs = [{"posterior": posterior, "latent": z, "decoder": decoded}]
    batch = Batch([pixels.view(6, 1, 2, 4)], torch.arange(6))
    out = CMIM(0.2, 0.7, 0.5)(outputs, None, batch, loops.CLOCK)  # type: ignore[arg-type]
    assert out["loss"].item() == pytest.approx(total / 6, abs=1e-9)


def test_the_contrast_does_not_grow_with_the_batch_and_is_nothing_alone() -> None:
    z = core_view(0)
    twice = torch.cat([z[:1], z[1:], z[1:]])
    assert contrast(twice, twice, 0.1)[0].item() == pytest.approx(contrast(z, z, 0.1)[0].item(), abs=1e-12)
    assert contrast(z[:1], z[:1], 0.1).item() == 0.0


def test_the_heads_draw_a_code_in_training_and_decode_it() -> None:
    head = built(GaussianSample("posterior"), {"posterior": 6})
    mean = torch.arange(3.0).repeat(2000, 1)
    outputs = {"posterior": torch.cat([mean, torch.full_like(mean, math.log(4.0))], dim=1)}
    torch.manual_seed(0)
    drawn = head(outputs)
    assert head.out == 3 and drawn.shape == (2000, 3)
    torch.testing.assert_close(drawn.mean(dim=0), mean[0], atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), torch.full((3,), 2.0), atol=0.15, rtol=0)
    assert torch.equal(head.eval()(outputs), mean)
    decoder = built(PixelDecoder("latent", [5], 2, 4), {"latent": 3})
    layers = decoder.each_layer({"latent": drawn})
    assert [layer.shape[1] for layer in layers] == [5, 2 * 4 * 4] and decoder.out == 32
    with pytest.raises(ValueError, match=r"has 5 numbers: means and log variances are equally many, so set student"):
        built(GaussianSample("posterior"), {"posterior": 5})


def test_views_of_another_size_are_refused() -> None:
    outputs = [{"posterior": mix_raw(0), "latent": mix_raw(1)[:, :4], "decoder": mix_raw(2)}]
    batch = Batch([torch.zeros(6, 1, 3, 3)], torch.arange(6))
    with pytest.raises(ValueError, match="the decoder gives 8 numbers, but a view has 9: set student"):
        CMIM(0.2, 0.7, 0.5)(outputs, None, batch, loops.CLOCK)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="CMIM needs more than views: give it a Batch with the views"):
        CMIM(0.2, 0.7, 0.5).loss_of(core_view(0))
