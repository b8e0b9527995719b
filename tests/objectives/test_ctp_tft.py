import math

import pytest
import torch
import torch.nn.functional as F

from ssl_framework.objectives.ctp_tft import PromptTuning, scores
from tests.golden import golden, mix_rows
from tests.objectives import loops

NAME = "ctp_tft: contrastive classification with prompts of their own for each image"


def test_golden() -> None:
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    found = F.cross_entropy(scores(mix_rows(0), mix_rows(1, 24).view(6, 4, 8), 0.07), label)
    assert found.item() == pytest.approx(golden(NAME))


def test_equals_the_loop() -> None:
    pictures, texts = torch.randn(3, 5).double(), torch.randn(3, 4, 5).double()
    found = scores(pictures, texts, 0.5)
    for i in range(3):
        for c in range(4):
            cosine = loops.dot(pictures[i], texts[i, c]) / math.sqrt(
                loops.dot(pictures[i], pictures[i]) * loops.dot(texts[i, c], texts[i, c])
            )
            assert found[i, c].item() == pytest.approx(cosine / 0.5)


def test_it_begins_as_the_frozen_model_and_learns_what_that_cannot_tell() -> None:
    """The frozen texts of two classes are alike; the patches tell them apart."""
    torch.manual_seed(0)
    tuning, texts, label = PromptTuning(8, 2, 0.1), torch.randn(2, 8), torch.arange(32) % 2
    texts[1] = texts[0] + 0.01 * torch.randn(8)
    tokens = torch.randn(32, 4, 8) + 2 * torch.eye(8)[label][:, None]
    frozen = scores(tokens.mean(dim=1), texts.expand(32, -1, -1), 0.1)
    torch.testing.assert_close(tuning(tokens, texts), frozen)
    optimizer = torch.optim.Adam(tuning.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        tuning.loss(tokens, texts, label).backward()
        optimizer.step()
    assert (frozen.argmax(dim=1) == label).float().mean() < 0.8
    assert (tuning(tokens, texts).argmax(dim=1) == label).float().mean() > 0.9
