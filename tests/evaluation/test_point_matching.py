"""Points of two contours that choose each other: equal to a loop, right where they are planted, refused elsewhere."""

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Split
from ssl_framework.evaluation.after_training.point_matching import PointsFound, mutual
from ssl_framework.evaluation.features import Splits
from tests.small_runs import small


def test_points_that_choose_each_other() -> None:
    similarity = torch.tensor([[[0.9, 0.1, 0.2], [0.8, 0.3, 0.4], [0.1, 0.2, 0.7]]])  # row 1 wants what row 0 has
    assert mutual(similarity).tolist() == [[0, -1, 2]]


def test_a_partner_may_be_missed_by_a_point_across_the_beginning() -> None:
    found, partner = torch.tensor([[0, 7, 3, -1, 5, 2, -1, -1]]), torch.tensor([[7, 0, 5, 4, -1, 2, -1, 6]])
    assert [PointsFound("matching/1", None, within).right(found, partner) for within in (0, 1, 2)] == [1, 3, 4]


def test_a_run_equals_the_loop_and_chance_is_counted() -> None:
    cfg = small("pairing_net", "evaluation=matching", "evaluation.after.num_samples=5")
    torch.manual_seed(0)
    data = build_data(cfg)
    module = build_module(cfg, True, 48).eval()
    evaluation, splits = build(cfg.evaluation).after, Splits(data.train, data.test)
    assert data.test.beside is not None
    partner = data.test.beside["partner"][:5].tolist()
    hits = said = true = 0
    for pair, own in zip(data.test.rows[torch.arange(5)], partner, strict=True):
        with torch.no_grad():
            a, b = (module.student.features(module.views.clean(x[None]))["tokens"][0].double() for x in pair)
        cosine = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
        for i, j in enumerate(own):
            true += j >= 0
            best = int(cosine[i].argmax())
            if int(cosine[:, best].argmax()) == i:
                said += 1
                hits += j >= 0 and min((best - j) % 128, (j - best) % 128) <= 1
    name = "matching[n=5,within=1]/"
    found = evaluation.score_module(module, splits)
    assert found == {
        name + "recall": pytest.approx(100 * hits / true),
        name + "precision": pytest.approx(100 * hits / said),
    }
    chance = evaluation.chance(module, splits)
    assert chance == {name + "recall": 100 * 3 / 255, name + "precision": pytest.approx(100 * 3 * true / 640 / 128)}
    with pytest.raises(ValueError, match="asks which points of two contours lie on each other, which the data do not"):
        evaluation.check_split(Split(splits.test.rows))
