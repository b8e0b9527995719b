"""Where a phrase belongs: maps, boxes and overlaps equal to loops, right on planted places, asked for once."""

import pytest
import torch

from ssl_framework.build import build, build_data, build_module
from ssl_framework.evaluation.after_training.grounding import as_large, overlap, pixels_in, touched
from ssl_framework.evaluation.features import Splits, in_eval_mode
from ssl_framework.objectives.biovil import phrase_contrast
from tests.small_runs import small


def test_pixels_in_a_box_equal_the_loop() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.51, 0.51]])
    found = pixels_in(boxes, 8).view(3, 8, 8)
    for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for y in range(8):
            for x in range(8):
                assert found[n, y, x] == (x0 <= (x + 0.5) / 8 < x1 and y0 <= (y + 0.5) / 8 < y1)


def test_cells_that_a_box_touches() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.45, 0.6, 0.55, 0.9], [0.0, 0.0, 0.5, 0.5]])
    assert touched(boxes, 4).tolist() == [[True, False, False, False], [False, False, True, True], [True, *[False] * 3]]


def test_overlap_of_boxes() -> None:
    box = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(4, 4)
    found = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.6, 0.6, 0.9, 0.9], [0.5, 0.5, 0.0, 0.0]])
    assert overlap(found, box).tolist() == pytest.approx([1.0, 1 / 3, 0.0, 0.0])


def test_a_planted_place_is_nearest_in_the_picture_too() -> None:
    maps = torch.zeros(1, 1, 16)
    maps[0, 0, 6] = 1.0  # row 1, column 2 of four
    large = as_large(maps, 32)
    inside = pixels_in(torch.tensor([[0.5, 0.25, 0.75, 0.5]]), 32)
    assert inside[0, large[0, 0].argmax()] and phrase_contrast(large[0], inside).item() > 1


@pytest.mark.parametrize("method", ["cloc", "clip"])
def test_a_run_equals_the_loop(method: str) -> None:
    views = () if method == "cloc" else ("data=region_shapes", "views=image_caption")
    cfg = small(method, *views, "evaluation=grounding", "evaluation.after.num_samples=12")
    torch.manual_seed(0)
    data = build_data(cfg)
    module = build_module(cfg, True, 48)
    evaluation, splits = build(cfg.evaluation).after, Splits(data.train, data.test)
    found = evaluation.score_module(module, splits)
    split, hits, overlaps, contrasts = splits.test, [], [], []
    image, text = module.student.tower("image"), module.student.tower("text")
    image.show(["places"])
    with torch.no_grad(), in_eval_mode(module):
        for n in range(12):
            out = image.encode(module.views.clean(split.rows[n : n + 1]))
            rows = torch.nn.functional.normalize(image.through_heads(out["places"][0])["projector"], dim=1)
            said = [tuple(each) for each in split.beside["region_text"][n].tolist()]
            for k, box in enumerate(split.regions.boxes[n]):
                if box[2] == 0 or said.count(said[k]) > 1:
                    continue
                z = text.encode(torch.tensor([said[k]]))["projector"]
                z = torch.nn.functional.normalize(z, dim=1)
                large = as_large((z @ rows.T)[None], 32)[0]
                inside = pixels_in(box[None], 32)
                p = int((z @ rows.T)[0].argmax())
                x, y, side = p % 4 / 4, p // 4 / 4, 1 / 4
                hits.append(bool(x < box[2] and x + side > box[0] and y < box[3] and y + side > box[1]))
                high, low = large[0][inside[0]], large[0][~inside[0]]
                spread = high.var(correction=0) + low.var(correction=0)
                contrasts.append(((high.mean() - low.mean()).abs() / spread.sqrt()).item())
                if method == "cloc":
                    where = module.objective.prompter.ground(out["places"], z[None])[0, 0]
                    overlaps.append(overlap(where[None], box[None]).item() >= 0.5)
    name = f"grounding[n={len(hits)}]/"
    assert found[name + "pointing"].right == sum(hits) and found[name + "pointing"].count == len(hits)
    assert found[name + "contrast"] == pytest.approx(sum(contrasts) / len(contrasts), rel=1e-3)
    assert found.get(name + "boxes_iou50", -1) == (100 * sum(overlaps) / len(hits) if method == "cloc" else -1)
    (chance,) = evaluation.chance(module, splits).values()
    assert chance == 25  # things in three rows of three touch four cells of four rows of four each


def test_without_boxes_it_is_refused() -> None:
    cfg = small("clip", "evaluation=grounding")
    with pytest.raises(ValueError, match="evaluation=grounding asks what is in the boxes of pictures"):
        build(cfg.evaluation).after.check_split(build_data(cfg).test)
