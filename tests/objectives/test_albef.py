import math

import pytest
import torch
from torch import Tensor

from ssl_framework.functional import drawn, nce
from ssl_framework.memory import Queue
from ssl_framework.models.fusion import Fusion
from ssl_framework.objectives.albef import ALBEF, wrong
from ssl_framework.objectives.msd import distilled, softened
from ssl_framework.types import Batch
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused

A, B, C, D = (mix_rows(s) for s in range(4))
TAU = torch.tensor(0.07, dtype=torch.float64)
WIDTH, VOCABULARY = 8, 9


def made(matching: float, masked: float, momentum: float = 1.0) -> ALBEF:
    torch.manual_seed(0)
    fusion = Fusion(WIDTH, 2, 2, False, False, VOCABULARY)
    objective = ALBEF(0.07, 100, lambda: Queue(8, 8), 0.4, 0.0, matching, masked, momentum, fusion).double()
    objective.pictures.rows, objective.texts.rows = mix_rows(4, 8), mix_rows(5, 8)
    return objective


def words() -> tuple[Tensor, Tensor]:
    """Six texts of begin, two words, end and padding, and the same with some words hidden."""
    ids = torch.tensor([[1, 5 + i % 3, 5 + i // 3, 2, 0] for i in range(6)])
    hidden = torch.zeros(6, 5, dtype=torch.bool)
    hidden[torch.arange(6), 1 + torch.arange(6) % 2] = torch.arange(6) < 4
    return ids, ids.masked_fill(hidden, 4)


def step(objective: ALBEF) -> dict[str, Tensor]:
    """Of the fixture: the hidden view's embedding is not read, its tokens are."""
    ids, shown = words()
    tokens = [torch.randn(6, n, WIDTH, generator=torch.Generator().manual_seed(n)).double() for n in (3, 5, 5)]
    student = [{"projector": z, "token_projector": x} for z, x in zip((A, B, B), tokens, strict=True)]
    teacher = [{"projector": z, "token_projector": 2 * x} for z, x in zip((C, D, D), tokens, strict=True)]
    return objective(student, teacher, Batch([A, ids, shown], torch.arange(6)), loops.CLOCK)


def test_golden() -> None:
    one_way = nce(A, B, softened(D, C, torch.arange(6), TAU, 0.4), 0.07).mean().item()
    assert one_way == pytest.approx(golden("albef: image-to-text ITC, student A B^T, teacher C D^T"))
    queues = [mix_rows(4, 4), mix_rows(5, 4)]
    both = [
        distilled(z, torch.cat([k, rows]), own, torch.arange(6), TAU, 0.4)
        for z, k, rows, own in ((A, D, queues[1], C), (B, C, queues[0], D))
    ]
    assert torch.cat(both).mean().item() == pytest.approx(golden("albef: ITC with queues, both directions"))
    shares = wrong(A @ D.T / 0.07, torch.eye(6, dtype=torch.bool))[0]
    wanted = golden("albef: distribution from which the negative text of image 0 is drawn")
    assert shares.tolist() == pytest.approx(wanted, abs=1e-8)


def test_the_whole_equals_its_parts_and_the_queues_are_read_before_they_take_the_keys() -> None:
    objective = made(2.0, 3.0)
    before = [objective.pictures.read(), objective.texts.read()]
    out = step(objective)
    keys = [torch.cat([k, rows]) for k, rows in zip((C, D), before, strict=True)]
    total = 0.0
    for z, own, key in ((A, C, keys[1]), (B, D, keys[0])):
        for i in range(6):
            student, teacher = ([loops.dot(x[i], row) / 0.07 for row in key] for x in (z, own))
            for j in range(14):
                target = 0.4 * math.exp(teacher[j] - loops.log_sum_exp(teacher)) + 0.6 * (i == j)
                total += target * (loops.log_sum_exp(student) - student[j]) / 12
    assert out["itc_loss"].item() == pytest.approx(total, abs=1e-5)
    parts = out["itc_loss"] + 2 * out["itm_loss"] + 3 * out["mlm_loss"]
    assert out["loss"].item() == pytest.approx(parts.item())
    torch.testing.assert_close(objective.pictures.rows[:6], C)
    torch.testing.assert_close(objective.texts.rows[:6], D)


def test_hidden_words_equal_the_loop() -> None:
    objective = made(0.0, 1.0)
    out = step(objective)
    ids, shown = words()
    picture, _, text = (
        torch.randn(6, n, WIDTH, generator=torch.Generator().manual_seed(n)).double() for n in (3, 5, 5)
    )
    with torch.no_grad():
        logs, soft = (
            fusion.logits(turn * text, shown != 0, turn * picture).log_softmax(dim=2)
            for fusion, turn in ((objective.fusion, 1), (objective.average, 2))
        )
    each = []
    for i in range(6):
        for j in range(5):
            if ids[i, j] != shown[i, j]:
                hard = -float(logs[i, j, ids[i, j]])
                guessed = -sum(math.exp(float(a)) * float(b) for a, b in zip(soft[i, j], logs[i, j], strict=True))
                each.append(0.6 * hard + 0.4 * guessed)
    assert len(each) == 4
    assert out["mlm_loss"].item() == pytest.approx(sum(each) / 4, abs=1e-9)


def test_wrong_pairs_are_drawn_by_their_shares_and_never_of_an_equal_text() -> None:
    shares = torch.tensor([[0.0, 0.25, 0.0, 0.75]]).repeat(400, 1)
    found = drawn(shares, torch.arange(400) / 400).bincount(minlength=4)
    assert found.tolist() == [0, 100, 0, 300]
    objective, same = made(1.0, 0.0), torch.tensor([[1, 5, 6, 2]] * 4)
    tokens = torch.randn(4, 4, WIDTH).double()
    logits = [torch.randn(4, 4).double()] * 2
    alone, share = objective.matches(
        logits, tokens, tokens, same, loops.CLOCK
    )  # none is wrong: right pairs alone count
    right = objective.match(objective.fusion(tokens, same != 0, tokens)[:, 0]).log_softmax(dim=1)[:, 1]
    assert alone.item() == pytest.approx(-right.mean().item())
    assert share.item() == (right > math.log(0.5)).double().mean().item()


def test_the_average_follows_the_fused_encoder_and_padding_changes_nothing() -> None:
    objective = made(1.0, 1.0, 0.75)
    with torch.no_grad():
        before = objective.average.words.bias.clone()
        objective.fusion.words.bias += 1.0
    step(objective)
    torch.testing.assert_close(objective.average.words.bias, before + 0.25)
    x, there = torch.randn(2, 4, WIDTH).double(), torch.tensor([[True, True, True, False]] * 2)
    longer = objective.fusion(x, there, x)[:, :3]
    torch.testing.assert_close(longer, objective.fusion(x[:, :3], there[:, :3], x))


def test_it_wants_a_text_with_hidden_words_and_tokens_of_both_towers() -> None:
    assert refused("method=albef", "views=image_text").startswith("ALBEF takes 3 views of a sample")
    said = refused("method=albef", "data.micro_batch_size=4")
    assert "ALBEF reads tokens, of which micro-batches keep nothing" in said
    said = "a head has source=places, but the encoder offers ['pooled', 'projector'] at this point"
    assert refused("method=albef", "backbone=mlp").startswith(said)
