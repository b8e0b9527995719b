from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_framework.models.fusion import AttentionPool, Fusion
from ssl_framework.models.text import TextTransformer
from ssl_framework.objectives.coca import CoCa, next_word
from ssl_framework.types import Batch
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops
from tests.small_runs import config
from tests.test_wiring import refused

WIDTH = 8
NAME = "coca: contrastive term; caption term before its weight; total with weights 1 and 2"


def made(contrast: float, caption: float, gated: bool = False) -> CoCa:
    torch.manual_seed(0)
    decoder = Fusion(WIDTH, 2, 2, True, gated, 9)
    return CoCa(0.1, 100, contrast, caption, AttentionPool(WIDTH, 3, 2), decoder).double()


def test_golden() -> None:
    logits, words = 2 * mix_raw(0, 12, 7).view(2, 6, 7), torch.tensor([[1, 2, 3, 4, 0, 0], [5, 6, 1, 2, 3, 0]])
    said = next_word(logits, words)[0].item()
    contrast, caption, total = golden(NAME)
    assert said == pytest.approx(caption)
    objective, tokens = made(1.0, 2.0), torch.randn(6, 4, WIDTH).double()
    outputs = [{"projector": mix_rows(v), "token_projector": tokens} for v in range(2)]
    ids = torch.tensor([[1, 5, 2, 0]] * 6)
    out = objective(outputs, None, Batch([tokens, ids], torch.arange(6)), loops.CLOCK)
    assert out["clip_loss"].item() == pytest.approx(contrast, abs=1e-5)
    assert out["loss"].item() == pytest.approx((out["clip_loss"] + 2 * out["caption_loss"]).item())
    assert contrast + 2 * said == pytest.approx(total, abs=1e-7)


def test_cosmo_begins_at_the_scale_e() -> None:
    temperature = config("method=cosmo").objective.temperature
    objective = CoCa(temperature, 100, 1.0, 0.0, AttentionPool(WIDTH, 3, 2), Fusion(WIDTH, 1, 2, True, True, 9))
    found = objective.clip.both_ways(mix_rows(0), mix_rows(1)).mean().item()
    assert found == pytest.approx(golden("cosmo: contrastive term at its initial temperature"), abs=1e-6)


def test_the_next_word_equals_the_loop_and_padding_does_not_count() -> None:
    logits, words = torch.randn(3, 4, 5).double(), torch.tensor([[1, 2, 0, 0], [3, 4, 1, 2], [1, 0, 0, 0]])
    each, right = [], []
    for i in range(3):
        for j in range(4):
            if words[i, j]:
                scores = logits[i, j].tolist()
                each.append(loops.log_sum_exp(scores) - scores[words[i, j]])
                right.append(float(max(scores) == scores[words[i, j]]))
    assert len(each) == 7
    assert [x.item() for x in next_word(logits, words)] == pytest.approx([sum(each) / 7, sum(right) / 7])


def tower() -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(9, 6, WIDTH, 2, 2, "last", causal=True)


def test_no_word_sees_a_later_one_and_the_last_one_stands_for_the_text() -> None:
    """Neither in the tower nor in the decoder, and padding changes nothing."""
    objective, net = made(1.0, 1.0).float(), tower()
    picture = torch.randn(1, 5, WIDTH)

    def said(ids: list[int]) -> tuple[Tensor, Tensor]:
        x = torch.tensor([ids])
        out = net(x)
        return out["pooled"], objective.decoder.logits(out["tokens"], x != 0, objective.pool(picture))

    (whole, first), (other, second) = said([1, 5, 6, 2, 0, 0]), said([1, 5, 8, 7, 2, 0])
    torch.testing.assert_close(first[:, :2], second[:, :2])
    assert (first[:, 2] - second[:, 2]).abs().max() > 1e-3
    short, shorter = said([1, 5, 6, 2])
    torch.testing.assert_close(short, whole)
    torch.testing.assert_close(shorter, first[:, :4])
    assert (whole - other).abs().max() > 1e-3
    torch.testing.assert_close(short[0], net(torch.tensor([[1, 5, 6, 2]]))["tokens"][0, 3])
    assert "causal=True" in net.load_line(Path("x"))


def test_a_closed_gate_lets_nothing_of_the_picture_in() -> None:
    words, there = torch.randn(2, 3, WIDTH).double(), torch.ones(2, 3, dtype=torch.bool)
    pictures = [torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(v)).double() for v in range(2)]
    closed, opened = ([made(1.0, 1.0, gated).decoder(words, there, p) for p in pictures] for gated in (True, False))
    torch.testing.assert_close(closed[0], closed[1])
    assert (opened[0] - opened[1]).abs().max() > 1e-3


def test_of_two_texts_the_first_is_said_and_the_last_compared() -> None:
    objective = made(1.0, 1.0)
    tokens = [torch.randn(2, 4, WIDTH).double() for _ in range(3)]
    z = [loops.random_unit(2, 4, v) for v in range(3)]
    outputs = [{"projector": a, "token_projector": b} for a, b in zip(z, tokens, strict=True)]
    long, short = torch.tensor([[1, 6, 7, 2]] * 2), torch.tensor([[1, 6, 2, 0]] * 2)
    three = objective(outputs, None, Batch([z[0], long, short], torch.arange(2)), loops.CLOCK)
    two = objective(outputs[:2], None, Batch([z[0], long], torch.arange(2)), loops.CLOCK)
    assert three["caption_loss"].item() == pytest.approx(two["caption_loss"].item())
    total = 0.0
    for a, b in ((z[0], z[2]), (z[2], z[0])):
        for i in range(2):
            scores = [10 * loops.dot(a[i], row) for row in b]
            total += (loops.log_sum_exp(scores) - scores[i]) / 4
    assert three["clip_loss"].item() == pytest.approx(total, abs=1e-6)
    assert abs(two["clip_loss"].item() - total) > 1e-3


def test_a_decoder_that_sees_later_words_is_refused() -> None:
    assert refused("method=coca", "objective.decoder.causal=false").startswith("objective.decoder.causal is false")
    assert "CoCa reads tokens, of which micro-batches keep nothing" in refused("method=coca", "data.micro_batch_size=4")
    said = refused("method=coca", "text_backbone=tiny")
    assert said.startswith("CoCa says the next word, but every word of the student's tower for text sees it already")
