"""Words mapped to places: equal to a loop over places and words, and refused where nothing maps them."""

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.evaluation.features import Splits, in_eval_mode
from tests.small_runs import small

REGIONS = (
    "data=region_shapes",
    "evaluation=mapping",
    "evaluation.after.num_samples=10",
    "evaluation.after.epsilon=0.1",
)


def test_precision_and_recall_equal_the_loop() -> None:
    cfg = small("villa", *REGIONS)
    torch.manual_seed(0)
    data = build_data(cfg)
    module = build_module(cfg, True, 48)
    evaluation, splits = build(cfg.evaluation).after, Splits(data.train, data.test)
    found = evaluation.score_module(module, splits)
    split, image = splits.test, module.student.tower("image")
    image.show(["places"])
    mapped = right = asked = reached = even = drawn = 0
    fixed = {1, 2, 0} | {module.views.parts[1].words.number[word] for word in ("a", "and")}
    with torch.no_grad(), in_eval_mode(module):
        attributes = torch.nn.functional.normalize(module.objective.attributes, dim=1)
        for n in range(10):
            places = image.encode(module.views.clean(split.rows[n : n + 1]))["places"][0]
            rows = torch.nn.functional.normalize(image.through_heads(places)["projector"], dim=1)
            words = set(split.beside["text"][n, 0].tolist()) - fixed
            boxes = [
                (b.tolist(), set(t.tolist()) - fixed)
                for b, t in zip(split.regions.boxes[n], split.beside["region_text"][n], strict=True)
                if b[2] > 0
            ]
            cells = [(p % 4 / 4, p // 4 / 4, p % 4 / 4 + 0.25, p // 4 / 4 + 0.25) for p in range(16)]

            def touches(cell: tuple[float, ...], box: list[float]) -> bool:
                return cell[0] < box[2] and cell[2] > box[0] and cell[1] < box[3] and cell[3] > box[1]

            said = {}
            for word in words:
                scores = [float(row @ attributes[word]) / 0.1 for row in rows]
                said[word] = [p for p, s in enumerate(scores) if s >= max(scores) - 0.1]
                good = [any(word in text and touches(cell, box) for box, text in boxes) for cell in cells]
                mapped += len(said[word])
                right += sum(good[p] for p in said[word])
                even, drawn = even + sum(good), drawn + len(good)
            for box, text in boxes:
                asked += len(text)
                reached += sum(any(touches(cells[p], box) for p in said[word]) for word in text)
    name = "mapping[epsilon=0.1,n=10]/"
    assert found == {
        name + "precision": pytest.approx(100 * right / mapped),
        name + "recall": pytest.approx(100 * reached / asked),
    }
    assert evaluation.chance(module, splits) == {name + "precision": pytest.approx(100 * even / drawn)}
    assert 0 < right < mapped and 0 < reached < asked


def test_what_maps_no_words_is_refused() -> None:
    cfg = small("clip", "views=image_caption", *REGIONS)
    with pytest.raises(ValueError, match="maps words to places, which CLIP does not: choose method=villa or"):
        build(cfg.evaluation).after.check(build_module(cfg, True, 48))
