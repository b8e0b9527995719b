"""Boxes hold what their texts say, a caption lists it, and a view cuts and mirrors boxes as it does the picture."""

import functools

import pytest
import torch

from ssl_framework.data.loader import take
from ssl_framework.data.pairs.counted_shapes import COLOURS, FORMS, LEVELS
from ssl_framework.data.pairs.region_shapes import RegionShapes, RegionVocabulary
from ssl_framework.types import Geometry, Samples
from ssl_framework.views.image import Views
from ssl_framework.views.places import boxes_in_view
from ssl_framework.views.regions import RegionViews
from ssl_framework.views.text import TextViews
from tests.objectives import maps

WORDS = RegionVocabulary()


@functools.cache
def source(seed: int = 0) -> RegionShapes:
    return RegionShapes(60, 30, seed, 48, 0.0, 18, WORDS)


def test_a_box_holds_all_of_one_thing_of_the_colour_that_its_text_names() -> None:
    split = source().load("train")
    regions, (n, k) = split.regions, split.regions.boxes.shape[:2]
    assert split.rows.shape == (60, 3, 48, 48) and (n, k) == (60, 4) and split.label.bincount().tolist() == [20] * 3
    for b in range(n):
        left = (split.rows[b] != split.rows[b, :, :1, :1]).any(dim=0)  # [S, S]: all but the ground
        said = []
        for box, text, form, colour in zip(
            *(x[b] for x in (regions.boxes, split.beside["region_text"])),
            *(regions.numbers[name][b].tolist() for name in ("form", "colour")),
            strict=True,
        ):
            if form < 0:
                assert colour == -1 and not box.any() and WORDS.decode(text) == ""
                continue
            x0, y0, x1, y1 = (box * 48).tolist()
            inside = (slice(int(y0), int(y1) + 1), slice(int(x0), int(x1) + 1))
            ink = (split.rows[b] == (torch.tensor(LEVELS[colour]) * 255).round()[:, None, None]).all(dim=0)
            assert ink[inside].sum() >= 12  # pixels
            left[inside] = False
            said.append(WORDS.decode(text))
            assert said[-1] == f"a {COLOURS[colour]} {FORMS[form]}"
        assert not left.any() and len(said) == split.label[b] + 2
        assert WORDS.decode(split.beside["text"][b, 0]) == " and ".join(said)


def test_pictures_of_the_same_things_are_of_one_group_whatever_their_order() -> None:
    split = source().load("test")
    things = [tuple(sorted(row)) for row in split.regions.numbers["thing"].tolist()]
    groups = split.numbers["group"].tolist()
    assert len(set(zip(things, groups, strict=True))) == len(set(things)) == len(set(groups)) > 20


def test_prompts_name_a_class_among_all_others() -> None:
    prompts = source().load("test").regions.prompts
    assert {name: tuple(x.shape) for name, x in prompts.items()} == {
        "form": (4, 6, 18),
        "colour": (6, 4, 18),
        "thing": (24, 1, 18),
    }
    assert {WORDS.decode(text) for text in prompts["colour"][2]} == {f"a {COLOURS[2]} {form}" for form in FORMS}
    assert WORDS.decode(prompts["thing"][9, 0]) == f"a {COLOURS[3]} {FORMS[1]}"


def test_the_seed_decides_and_picking_keeps_boxes_beside_their_pictures() -> None:
    split, again = source().load("train"), RegionShapes(60, 30, 0, 48, 0.0, 18, WORDS).load("train")
    assert torch.equal(again.rows, split.rows) and torch.equal(again.regions.boxes, split.regions.boxes)
    assert not torch.equal(source(1).load("train").regions.boxes, split.regions.boxes)
    few = split.picked(torch.tensor([7, 3]))
    assert torch.equal(few.regions.boxes, split.regions.boxes[[7, 3]])
    assert torch.equal(few.regions.numbers["form"], split.regions.numbers["form"][[7, 3]])


def test_boxes_of_a_view_equal_the_loop() -> None:
    cuts = maps.cut((0.2, 0.0, 0.8, 0.5), (0.2, 0.0, 0.8, 0.5))
    cuts = Geometry(cuts.box, torch.tensor([False, True]))
    boxes = torch.tensor([[[0.1, 0.1, 0.3, 0.2], [0.9, 0.0, 1.0, 1.0], [0.0] * 4, [0.3, 0.4, 0.5, 0.8]]] * 2).double()
    found, share = boxes_in_view(boxes, cuts)
    for b in range(2):
        for k in range(4):
            x0, y0, x1, y1 = boxes[b, k].tolist()
            if x1 == 0:
                assert share[b, k] == 0
                continue
            sides = [(x - 0.2) / 0.6 for x in (x0, x1)]
            sides = [1 - x for x in reversed(sides)] if b else sides
            corners = [sides[0], y0 / 0.5, sides[1], y1 / 0.5]
            cut = [min(1.0, max(0.0, x)) for x in corners]
            whole = (corners[2] - corners[0]) * (corners[3] - corners[1])
            assert found[b, k].tolist() == pytest.approx(cut)
            assert share[b, k].item() == pytest.approx((cut[2] - cut[0]) * (cut[3] - cut[1]) / whole)


def views(regions: int = 3, flip: float = 0.5, scale: float = 0.5) -> RegionViews:
    pictures = Views([{"scale": [scale, 1.0], "flip": flip}], 48, 3, [0.0] * 3, [1.0] * 3)
    return RegionViews([pictures, TextViews(18, WORDS)], regions, 0.5)


def test_the_boxes_of_a_view_hold_what_their_texts_say() -> None:
    split, made = source().load("train"), views()
    samples = take(split, torch.arange(60))
    batch = made(samples, torch.Generator().manual_seed(0))
    assert made.reads == ("image", "text", "region") and batch.modality == ("image",) + ("text",) * 4
    assert [tuple(x.shape) for x in batch.views] == [(60, 3, 48, 48)] + [(60, 18)] * 4
    assert [made.example(v) for v in range(5)] == [(3, 48, 48)] + [(18,)] * 4
    assert torch.equal(batch.views[1], split.beside["text"][:, 0].long())
    empty = 0
    for b, boxes in enumerate(batch.boxes):
        assert len({tuple(x) for x in boxes.tolist() if x[2] > 0}) == (boxes[:, 2] > boxes[:, 0]).sum()  # none twice
        for r, (x0, y0, x1, y1) in enumerate((boxes * 48).tolist()):
            if x1 == 0:
                empty += 1
                continue
            colour = torch.tensor(LEVELS[COLOURS.index(WORDS.decode(batch.views[2 + r][b]).split()[1])])
            inside = batch.views[0][b, :, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
            assert (inside - colour[:, None, None]).abs().amax(dim=0).min() < 0.1
    assert 20 <= empty < 90  # those of two things have none to show, and some are cut off
    again = made(samples, torch.Generator().manual_seed(0))
    assert torch.equal(again.boxes, batch.boxes)


def test_bad_values() -> None:
    with pytest.raises(ValueError, match=r"data\.tokens is 12, but captions have up to 17"):
        RegionShapes(60, 30, 0, 48, 0.0, 12, WORDS)
    with pytest.raises(ValueError, match=r"data\.image_size is 16, too small to tell forms"):
        RegionShapes(60, 30, 0, 16, 0.0, 18, WORDS)
    pictures, texts = Views([{"count": 2}], 48, 3, [0.0] * 3, [1.0] * 3), TextViews(18, WORDS)
    with pytest.raises(ValueError, match=r"views\.parts make 2 views of a picture and 1 of its text"):
        RegionViews([pictures, texts], 2, 0.5)
    with pytest.raises(ValueError, match=r"views\.parts are of image: give one of pictures and one of texts"):
        RegionViews([pictures], 2, 0.5)
    split = source().load("test")
    with pytest.raises(ValueError, match=r"views\.regions is 5, but the data have 4 boxes a picture"):
        views(5)(take(split, torch.arange(4)))
    lacking = Samples(split.rows, torch.arange(30), beside={"text": split.beside["text"]})
    with pytest.raises(ValueError, match=r"views\.parts has boxes, but the data have text beside their samples"):
        views()(lacking)
