import pytest
import torch
import torch.nn.functional as F

from ssl_framework.objectives.gopro import GOPro, StylePrompt
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops

LABEL = torch.tensor([0, 1, 2, 3, 0, 1])


def test_golden() -> None:
    texts = [mix_rows(s, 24).view(6, 4, 8) for s in (1, 2, 3)]
    out = GOPro(0.1, 0.1)(3 * mix_raw(0, 6, 4), LABEL, texts, [mix_raw(0), mix_raw(1)])
    found = [out["loss"].item(), out["contrast_loss"].item()]
    assert found == pytest.approx(golden("gopro: classification + prompt consistency + 0.1 visual contrast"))


def test_equals_the_loop() -> None:
    logits, texts = loops.random_unit(3, 4, 0), [torch.randn(3, 4, 5).double() for _ in range(3)]
    z, label = [loops.random_unit(3, 6, v) for v in range(2)], [2, 0, 3]
    named = sum(loops.log_sum_exp(row.tolist()) - float(row[y]) for row, y in zip(logits, label, strict=True)) / 3
    steady = sum(
        sum((float(a) - float(b)) ** 2 for a, b in zip(texts[0].flatten(), each.flatten(), strict=True)) / 60
        for each in texts[1:]
    )
    out = GOPro(0.5, 0.3)(logits, torch.tensor(label), texts, z)
    assert out["loss"].item() == pytest.approx(named + steady + 0.3 * loops.nt_xent(*z, 0.5))


def test_prompts_that_follow_from_the_pictures_style_learn_its_class() -> None:
    """The class is the deviation of the tokens, which no mean shows; the frozen texts alone cannot name it."""
    torch.manual_seed(0)
    label = torch.arange(32) % 2
    tokens = torch.randn(32, 2, 16, 4) * (1 + 2 * label)[:, None, None, None]
    prompt, texts, picture = StylePrompt(2, 4, 3), torch.randn(2, 3), torch.randn(3)
    optimizer = torch.optim.Adam(prompt.parameters(), 0.05)
    for _ in range(40):
        own = texts + prompt(tokens)[:, None] * torch.tensor([[1.0], [-1.0]])  # [32, 2, 3]
        loss = F.cross_entropy(own @ picture, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((own @ picture).argmax(dim=1) == label).float().mean() > 0.9
    first = prompt(tokens)
    torch.testing.assert_close(first, prompt(tokens.flip(2)))  # whatever the order of the tokens
