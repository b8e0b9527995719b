import math

import pytest
import torch
from torch import Tensor

from ssl_framework.models.fusion import Fusion
from ssl_framework.objectives.rerank_contrastive import Reranker, classification, contrastive
from ssl_framework.types import Batch
from tests.golden import golden, mix_raw
from tests.objectives import loops
from tests.test_wiring import refused

NAME = "rerank_contrastive: InfoNCE over the list; yes/no cross entropy, mean over all pairs"
WEIGHTS = (
    "rerank_contrastive: weight of the positive in the gradient, InfoNCE (1 - p) and classification (1 - sigma), "
    "per query"
)


def test_golden() -> None:
    scores = (3 * mix_raw(0, 4, 6)).requires_grad_()
    losses = [contrastive(scores), classification(scores)]
    assert [x.mean().item() for x in losses] == pytest.approx(golden(NAME))
    weights = [-torch.autograd.grad(x.sum(), scores)[0][:, 0] for x in losses]  # 2 x [4]
    assert torch.cat(weights).tolist() == pytest.approx(golden(WEIGHTS))


def test_equals_the_loop() -> None:
    scores = loops.random_unit(3, 4, 0)
    for i in range(3):
        own = scores[i].tolist()
        assert contrastive(scores)[i].item() == pytest.approx(loops.log_sum_exp(own) - own[0])
        yes = [1 / (1 + math.exp(-s)) for s in own]
        wanted = [-math.log(yes[0]), *(-math.log(1 - p) for p in yes[1:])]
        assert classification(scores)[i].tolist() == pytest.approx(wanted)


def test_lists_hold_the_own_text_first_and_then_others_never_equal_ones() -> None:
    torch.manual_seed(0)
    objective = Reranker(0.1, 100, 3, 2.0, 3.0, Fusion(8, 1, 2, False, False, None)).double()
    ids = torch.tensor([[1, 5, 2], [1, 5, 2], [1, 6, 2], [1, 7, 2]])
    pictures, texts = torch.randn(4, 5, 8).double(), torch.randn(4, 3, 8).double()
    alike = torch.full((4, 4), -50.0).index_fill(1, torch.tensor([2]), 50.0)  # everyone but it draws text 2
    found = objective.scores(alike, pictures, texts, ids, loops.CLOCK)

    def score(picture: Tensor, text: Tensor) -> Tensor:
        answer = objective.answer(objective.fusion(text[None], torch.ones(1, 3, dtype=torch.bool), picture[None])[0, 0])
        return answer[1] - answer[0]

    for i in (0, 1, 3):
        own, other = score(pictures[i], texts[i]), score(pictures[i], texts[2])
        torch.testing.assert_close(found[i], torch.stack([own, other, other, other]))
    z = [loops.random_unit(4, 6, v) for v in range(2)]
    outputs = [{"projector": a, "token_projector": b} for a, b in zip(z, (pictures, texts), strict=True)]
    out = objective(outputs, None, Batch([pictures, ids], torch.arange(4)), loops.CLOCK)
    parts = out["clip_loss"] + 2 * out["list_loss"] + 3 * out["answer_loss"]
    assert out["loss"].item() == pytest.approx(parts.item())


def test_micro_batches_are_refused() -> None:
    assert "Reranker reads tokens" in refused("method=rerank_contrastive", "data.micro_batch_size=4")
