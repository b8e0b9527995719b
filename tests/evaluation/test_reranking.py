"""The first by cosine in a new order: equal to a loop over pairs, and never better than what is among them."""

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.evaluation.after_training.reranking import Reranking
from ssl_framework.evaluation.features import Splits, in_eval_mode
from tests.small_runs import small


def made(method: str):  # type: ignore[no-untyped-def]
    rest = ("evaluation.after.num_samples=20", "evaluation.after.first=4")
    cfg = small(method, "evaluation=reranking", *rest)
    torch.manual_seed(0)
    data = build_data(cfg)
    return build(cfg.evaluation).after, Splits(data.train, data.test), build_module(cfg, True, 48)


@pytest.mark.parametrize("method", ["albef", "rerank_contrastive"])
def test_both_directions_equal_the_loop(method: str) -> None:
    evaluation, splits, module = made(method)
    split, objective = splits.test, module.objective
    split = split._replace(numbers={**split.numbers, "group": torch.arange(32) // 2})  # pairs are right for each other
    found = evaluation.score_module(module, Splits(splits.train, split))
    with torch.no_grad(), in_eval_mode(module):
        ids = split.beside["text"][:20, 0].long()
        pictures = module.student.tower("image").encode(module.views.clean(split.rows[:20]))
        texts = module.student.tower("text").encode(ids)
        match = objective.match if method == "albef" else objective.answer

        def score(i: int, j: int) -> float:
            words, seen = texts["token_projector"][j : j + 1], pictures["token_projector"][i : i + 1]
            no, yes = match(objective.fusion(words, ids[j : j + 1] != 0, seen)[0, 0]).tolist()
            return yes - no

        z = [torch.nn.functional.normalize(out["projector"], dim=1) for out in (pictures, texts)]
        for name, turn in (("image-to-text", 0), ("text-to-image", 1)):
            before = after = within = 0
            for q in range(20):
                cosine = [float(z[turn][q] @ row) for row in z[1 - turn]]
                first = sorted(range(20), key=lambda j: -cosine[j])[:4]
                scores = {j: score(j, q) if turn else score(q, j) for j in first}
                before += first[0] // 2 == q // 2
                after += max(first, key=lambda j: scores[j]) // 2 == q // 2
                within += any(j // 2 == q // 2 for j in first)
            metric = f"reranking[{name},n=20,first=4]/"
            assert [found[metric + what].right for what in ("before", "recall@1", "within")] == [before, after, within]
            assert within < 20
    chance = evaluation.chance(module, Splits(splits.train, split))
    assert set(chance.values()) == {10.0} and set(found) - set(chance) == {
        metric for metric in found if "within" in metric
    }


def test_planted_scores_put_the_right_one_first_if_it_is_there() -> None:
    probe, group = Reranking("reranking/1", "text", "projector", 2, None), torch.arange(4)
    alike = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.1, 0.0], [0.9, 0.8, 0.1, 0.0], [0.0, 0.1, 0.2, 0.9]])
    found = alike.topk(2, dim=1).indices
    own = (found == torch.arange(4)[:, None]).float()
    counts = probe.counted("a-to-b", alike, found, own, group)
    name = "reranking[a-to-b,n=4,first=2]/"
    assert counts == {name + "recall@1": 75.0, name + "before": 50.0, name + "within": 75.0}
    assert probe.counted("a-to-b", alike, found, torch.zeros(4, 2), group)[name + "recall@1"] == 0  # all are tied
    assert probe.counted("a-to-b", alike, found, -own, group)[name + "recall@1"] == 0


def test_what_scores_no_pairs_is_refused() -> None:
    evaluation, splits, _ = made("albef")
    with pytest.raises(ValueError, match="pairs, which CoCa does not: choose method=albef, rerank_contrastive or"):
        evaluation.check(build_module(small("coca"), True, 48))
    with pytest.raises(ValueError, match="evaluation=reranking reads text, which the data lack"):
        evaluation.check_split(splits.test._replace(beside=None))
