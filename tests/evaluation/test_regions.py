"""What is in a box: right where a tower's places say it, at chance where all is one place, equal to loops."""

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.base import Regions, Split
from ssl_framework.evaluation.after_training.regions import RegionZeroShot, cut_out
from ssl_framework.evaluation.features import Bare, Splits, in_eval_mode
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.evaluation.score_all import Chosen, score_all
from ssl_framework.objectives.dito import region_means
from tests.small_runs import small

SMALL_EVALUATION = (
    *("evaluation.probes=null", "evaluation.cross.probes.zero_shot=null", "evaluation.cross.probes.retrieval=null"),
    *("evaluation.cross.probes.gap=null", "evaluation.after.num_samples=20"),
)


def cloc(*overrides: str):  # type: ignore[no-untyped-def]
    cfg = small("cloc", "evaluation=regions", *SMALL_EVALUATION, *overrides)
    torch.manual_seed(0)
    data = build_data(cfg)
    return cfg, Splits(data.train, data.test), build_module(cfg, True, 48)


def nearest(rows: list[Tensor], prompts: Tensor) -> list[int]:
    """The class whose prompts' mean lies nearest to each row."""
    means = [each.mean(dim=0) for each in prompts]
    return [max(range(len(means)), key=lambda c: float(row @ means[c] / means[c].norm())) for row in rows]


def test_every_way_of_seeing_a_box_equals_the_loop() -> None:
    cfg, splits, module = cloc()
    evaluation: FrozenEvaluation = build(cfg.evaluation)
    found = evaluation.after.score_module(module, splits)
    regions, unit = splits.test.regions, torch.nn.functional.normalize
    image, text = module.student.tower("image"), module.student.tower("text")
    rows: dict[str, list[Tensor]] = {how: [] for how in ("whole", "pooled", "cropped", "prompted")}
    label = []
    with torch.no_grad(), in_eval_mode(module):
        for n in range(20):
            picture = splits.test.rows[n : n + 1]
            out = image.encode(module.views.clean(picture))
            for k, box in enumerate(regions.boxes[n]):
                if box[2] == 0:
                    continue
                own = box[None, None]
                x0, y0, x1, y1 = (int(box[0] * 32), int(box[1] * 32), -int(-box[2] * 32), -int(-box[3] * 32))
                assert x0 < x1 and y0 < y1
                crop = image.encode(module.views.clean(cut_out(picture, own)))
                pooled = image.through_heads(region_means(out["places"], own)[0])
                own_rows = {
                    "whole": out["projector"][0],
                    "pooled": pooled["projector"][0],
                    "cropped": crop["projector"][0],
                    "prompted": module.objective.prompter(out["places"], own)[0, 0],
                }
                for how, row in own_rows.items():
                    rows[how].append(row / row.norm())
                label.append({name: int(x[n, k]) for name, x in regions.numbers.items()})
        for factor, prompts in regions.prompts.items():
            z = unit(text.encode(prompts.flatten(0, 1).long())["projector"], dim=1).unflatten(0, prompts.shape[:2])
            for how, own in rows.items():
                right = sum(a == y[factor] for a, y in zip(nearest(own, z), label, strict=True))
                name = f"region_zero_shot[{factor},classes={len(z)},prompts={z.shape[1]},{how}]/top1"
                assert found[name].count == len(label) and abs(found[name].right - right) <= 1  # rounding of a near tie
    assert len(found) == 12
    chance = evaluation.after.chance(module, splits)
    assert chance.keys() == found.keys() and set(chance.values()) == {25.0, 100 / 6, 100 / 24}


class Colours(torch.nn.Module):
    """A backbone whose four places are the mean colours of the quarters of a picture."""

    dim, name, dense_dims = 3, "colours", {"map": 3}

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        places = torch.nn.functional.adaptive_avg_pool2d(x, 2)  # [B, 3, 2, 2]
        return {"map": places, "pooled": places.mean(dim=(2, 3))}


def test_planted_colours_are_found_in_boxes_and_cut_out_but_not_in_whole_pictures() -> None:
    from ssl_framework.models.encoder import Encoder
    from ssl_framework.models.heads import Features
    from ssl_framework.models.towers import Towers

    class Names(torch.nn.Module):
        dim, name, dense_dims = 3, "names", {"tokens": 3}

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            colours = 2 * torch.eye(3)[x[:, 1] - 5] - 1  # [B, 3]
            return {"tokens": colours[:, None], "pooled": colours}

    class Plain:
        modality, raw_name = ("image", "text"), "raw_pixels"

        def clean(self, x: Tensor, modality: str | None = None) -> Tensor:
            return x.long() if modality == "text" else x.float() / 127.5 - 1

    n = 12
    kinds = torch.stack([torch.randperm(3, generator=torch.Generator().manual_seed(i)) for i in range(n)])  # [N, 3]
    pictures = torch.zeros(n, 3, 8, 8, dtype=torch.uint8)
    corners = ((0, 0), (0, 4), (4, 0))
    for b in range(n):
        for k, (y, x) in enumerate(corners):
            pictures[b, kinds[b, k], y : y + 4, x : x + 4] = 255
    boxes = torch.tensor([[x / 8, y / 8, (x + 4) / 8, (y + 4) / 8] for y, x in corners]).expand(n, 3, 4)
    text = torch.tensor([[[1, 5 + c, 2]] for c in range(3)])
    split = Split(pictures, kinds[:, 0], regions=Regions(boxes, {"colour": kinds}, {"colour": text}))
    heads = {"projector": Features("pooled")}
    model = Bare(Plain(), Towers({"image": Encoder(Colours(), heads), "text": Encoder(Names(), heads)}))
    found = RegionZeroShot("regions/1", "text", "projector", None).score(model, Splits(split, split))
    name = "region_zero_shot[colour,classes=3,prompts=1,{}]/top1"
    assert found[name.format("pooled")] == found[name.format("cropped")] == 100
    assert found[name.format("whole")] < 50 and len(found) == 3
    assert found[name.format("pooled")].count == 36


def test_boxes_are_cut_out_as_pictures() -> None:
    picture = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]]])
    cut = cut_out(picture, boxes)
    assert cut.shape == (2, 1, 8, 8) and torch.equal(cut[1], picture[0])
    expected = torch.nn.functional.interpolate(picture[:, :, 4:, 2:6].float(), (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(cut[:1].float(), expected.round(), rtol=0, atol=1)


def test_an_evaluation_of_any_data_has_chance_and_an_untrained_row_with_an_untrained_prompter() -> None:
    cfg, splits, module = cloc()
    _, _, other = cloc("seed=1")
    chosen = Chosen("regions", cfg.evaluation, [], True)
    (record,), left_out = score_all(module, splits, [chosen], lambda: other, with_references=True)
    assert not left_out and set(record["references"]) == {"untrained", "chance"}
    untrained = build(cfg.evaluation).after.score_module(other, splits)
    assert record["references"]["untrained"] == {name: float(value) for name, value in untrained.items()}
    assert set(record["intervals"]) == set(record["metrics"]) == set(record["references"]["chance"])


def test_what_does_not_fit_is_left_out_or_refused_in_one_sentence() -> None:
    cfg, splits, module = cloc()
    chosen = Chosen("regions", cfg.evaluation, [], False)
    bare = Splits(*(split._replace(regions=None) for split in splits))
    with pytest.raises(ValueError, match="evaluation=regions does not fit: evaluation=regions asks"):
        score_all(module, bare, [chosen._replace(asked=True)])
    records, left_out = score_all(module, bare, [chosen])
    assert not records and left_out["regions"].startswith("evaluation=regions asks what is in the boxes of pictures")
    evaluation = build(cfg.evaluation).after
    simclr = build_module(small("simclr"), True, 48)
    with pytest.raises(ValueError, match="the student has no tower for text: choose method=albef, align"):
        evaluation.check(simclr)
    flat = build_module(small("clip", "backbone=mlp"), True, 48)
    with pytest.raises(ValueError, match="evaluation=regions passes places of a picture through the head"):
        evaluation.check(flat)
