"""Segmentation and correspondence on maps whose answer is known, and on the maps of networks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import Tensor

from ssl_framework.build import build, build_data, build_module
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.images.arrays import Digits
from ssl_framework.evaluation.after_training.dense import (
    Correspondence,
    Dense,
    Segmentation,
    cell_shares,
    matches,
    scores,
)
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.models.backbone import Backbone
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import read_json
from ssl_framework.types import Geometry, Samples
from ssl_framework.views.image import Views
from ssl_framework.views.places import in_source, in_view
from tests.small_runs import SMALL, config, run_in, small

LINEAR = LinearProbe(1e-4, 100)


def masks(n: int, size: int, seed: int) -> Tensor:
    """Background 0 with a rectangle of class 1 or 2: [n, size, size] uint8."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(n, size, size, dtype=torch.uint8)
    for i in range(n):
        top, left = torch.randint(size // 2, (2,), generator=generator).tolist()
        mask[i, top : top + size // 2, left : left + size // 2] = 1 + i % 2
    return mask


def one_hot(mask: Tensor) -> Tensor:
    """A map that says the class: [n, 3, h, w] float32."""
    return torch.nn.functional.one_hot(mask.long(), 3).permute(0, 3, 1, 2).float()


# --- segmentation


def test_features_that_say_the_class_segment_perfectly() -> None:
    train, test = masks(20, 8, 0), masks(16, 8, 1)
    assert Segmentation(9, LINEAR, 0).fit_and_score(one_hot(train), train, one_hot(test), test) == (100.0, 100.0)


def test_constant_features_answer_the_most_frequent_class() -> None:
    train, test = masks(20, 8, 0), masks(16, 8, 1)
    share = 100 * (test == 0).double().mean().item()
    same = torch.ones(20, 5, 4, 4), torch.ones(16, 5, 4, 4)
    miou, accuracy = Segmentation(9, LINEAR, 0).fit_and_score(same[0], train, same[1], test)
    assert (miou, accuracy) == (pytest.approx(share / 3), pytest.approx(share))


def test_masks_of_other_images_give_no_more_than_the_most_frequent_class() -> None:
    train, test = masks(200, 8, 0), masks(100, 8, 1)
    miou, _ = Segmentation(9, LINEAR, 0).fit_and_score(one_hot(masks(200, 8, 2)), train, one_hot(test), test)
    assert miou < 40


def test_coarse_maps_are_upsampled_and_targets_are_the_shares_of_cells() -> None:
    mask = torch.tensor([[[0, 0, 1, 1], [0, 2, 1, 1]]], dtype=torch.uint8)
    shares = cell_shares(mask, 3, (1, 2))
    torch.testing.assert_close(shares, torch.tensor([[0.75, 0.0, 0.25], [0.0, 1.0, 0.0]]))
    train, test = masks(300, 8, 0), masks(50, 8, 1)
    coarse = [torch.nn.functional.avg_pool2d(one_hot(mask), 2) for mask in (train, test)]
    miou, accuracy = Segmentation(9, LINEAR, 0).fit_and_score(coarse[0], train, coarse[1], test)
    assert 75 < miou < 100 and 88 < accuracy < 100  # the edges of rectangles lie inside of cells


def test_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    true, answer = torch.randint(4, (500,), generator=generator), torch.randint(3, (500,), generator=generator)
    confusion = (5 * true + answer).bincount(minlength=25).view(5, 5)  # class 4 does not occur, 3 is never answered
    miou, accuracy = scores(confusion)
    assert miou == pytest.approx(100 * jaccard_score(true, answer, average="macro"))
    assert accuracy == pytest.approx(100 * (true == answer).double().mean().item())


# --- correspondence


class Position(torch.nn.Module):
    """A backbone whose map holds at every position the pixel's colour, which says where in the image it was."""

    name = "position"

    def spatial(self, x: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 8)  # [B, C, 8, 8]


def looked_at(backbone: Any, images: Tensor, channels: int) -> Any:
    """As much of a module and data as correspondence reads."""
    views = Views([{"count": 1}], images.shape[-1], channels, [0.5] * channels, [1.0] * channels)
    student = torch.nn.Module()
    student.backbone = backbone
    module = SimpleNamespace(student=student, views=views, device=torch.device("cpu"))
    return module, SimpleNamespace(test=SimpleNamespace(rows=images))


def test_features_that_say_the_place_correspond_perfectly_and_equal_ones_by_chance() -> None:
    ramp = torch.linspace(0, 250, 32)
    image = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), 250 - ramp.expand(32, 32)])
    images = image.round().to(torch.uint8).expand(40, 3, 32, 32).contiguous()

    class Angles(Position):
        """Cosine compares directions: the place as two angles."""

        def spatial(self, x: Tensor) -> Tensor:
            turn = 1.5 * super().spatial(x)[:, :2]  # [B, 2, 8, 8]
            return torch.cat([turn.cos(), turn.sin()], dim=1)  # [B, 4, 8, 8]

    class Same(Position):
        def spatial(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 4, 8, 8)

    probe = Correspondence(40, [0.3, 1.0], 0.5, 0)
    found = probe(*looked_at(Angles(), images, 3))
    name = "correspondence[images=40,scale=0.3-1]"
    assert list(found) == [f"{name}/within_1_cell", f"{name}/chance"]
    assert found[f"{name}/within_1_cell"] == 100.0
    assert 3 < found[f"{name}/chance"] < 8  # 4 cells of 64, fewer at the edges, and more where a view is smaller
    same = probe(*looked_at(Same(), images, 3))
    assert same[f"{name}/within_1_cell"] < 12 and same[f"{name}/chance"] == found[f"{name}/chance"]
    assert probe(*looked_at(Angles(), images, 3)) == found


def test_points_go_from_view_to_image_to_view_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    views = Views([{"count": 2, "scale": [0.3, 1.0], "flip": 0.5}], 16, 1, [0.5], [1.0], geometry=True)
    batch = views(Samples(torch.zeros(12, 1, 20, 20, dtype=torch.uint8), torch.arange(12)), generator)
    assert batch.geometry is not None
    first, second = batch.geometry
    assert 0 < int(first.flip.sum()) < 12
    point = torch.rand(5, 2, generator=generator)
    there = in_view(in_source(point, first), second)
    for i in range(12):
        for p in range(5):
            x, y = point[p].tolist()
            x0, y0, x1, y1 = first.box[i].tolist()
            x = x0 + (x1 - x0) * (1 - x if first.flip[i] else x)
            y = y0 + (y1 - y0) * y
            x0, y0, x1, y1 = second.box[i].tolist()
            x, y = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
            assert there[i, p].tolist() == pytest.approx([1 - x if second.flip[i] else x, y], abs=1e-5)


def test_cells_of_equal_views_match_themselves_and_shifted_ones_their_neighbours() -> None:
    whole = Geometry(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([False]))
    left, right = (
        Geometry(torch.tensor([[start, 0.0, start + 0.5, 1.0]]), torch.tensor([False])) for start in (0.0, 0.25)
    )
    eye = torch.eye(16).view(1, 16, 4, 4)  # every position is like itself only
    found, chance, seen = matches(eye, eye, whole, whole)
    assert found.all() and seen.all()
    assert chance[0, 0] == 4 / 16 and chance[0, 5] == 9 / 16
    found, _, seen = matches(eye, eye, left, right)  # the second view shows the right half of the first: two cells off
    assert seen[0].view(4, 4).tolist() == [[False, False, True, True]] * 4
    assert not found[seen].any()
    mirror = Geometry(whole.box, torch.tensor([True]))
    found, _, _ = matches(eye, eye, whole, mirror)
    assert found[0].view(4, 4).tolist() == [[False, True, True, False]] * 4
    assert matches(eye.flip(3), eye, mirror, whole)[0].all()


# --- networks


def built(*overrides: str) -> tuple[SSLModule, DataModule]:
    cfg = small("simclr", *overrides)
    return build_module(cfg, True), build_data(cfg)


@pytest.mark.parametrize(
    ("overrides", "shape"),
    [((), (192, 4, 4)), (("backbone=vit_tiny", "backbone.options.depth=1"), (192, 8, 8))],
)
def test_the_map_is_that_before_pooling(overrides: tuple[str, ...], shape: tuple[int, ...]) -> None:
    backbone = built(*overrides)[0].student.backbone.eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = backbone.spatial(x)
    assert found.shape == (2, *shape)
    if "map" in (outputs := backbone(x)):
        torch.testing.assert_close(found.mean(dim=(2, 3)), outputs["pooled"])
    else:  # row after row of patches, after the class token
        torch.testing.assert_close(found[:, :, 2, 5], outputs["tokens"][:, 1 + 2 * 8 + 5])


class ChannelsLast(torch.nn.Module):
    num_features = 5

    def forward_features(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 3, 2, 5)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x.mean(dim=(1, 2))


class OddTokens(ChannelsLast):
    num_prefix_tokens = 1

    def forward_features(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), 7, 5)


def test_maps_with_channels_last_are_turned_and_tokens_off_a_square_are_refused() -> None:
    backbone = Backbone("ssl_tiny", None, 32, 3)
    backbone.net = ChannelsLast()
    assert backbone.spatial(torch.zeros(2, 3, 8, 8)).shape == (2, 5, 3, 2)
    backbone.net = OddTokens()
    with pytest.raises(ValueError, match="ssl_tiny, which gives 6 tokens that make no square map"):
        backbone.spatial(torch.zeros(2, 3, 8, 8))


def test_the_evaluation_of_a_network_repeats_and_leaves_it_as_it_is() -> None:
    module, data = built("data.source.num_train=60")
    evaluation = build(config("evaluation=dense").evaluation)
    assert isinstance(evaluation, Dense)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    found = evaluation.score_module(module, data)
    names = ("segmentation[images=2000,l2=0.0001]", "correspondence[images=2000,scale=0.3-1]")
    metrics = [(names[0], "miou"), (names[0], "pixel_accuracy"), (names[1], "within_1_cell"), (names[1], "chance")]
    assert list(found) == [f"{name}/{metric}" for name, metric in metrics]
    assert all(0 < value < 100 for value in found.values())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert [part.training for part in module.modules()] == modes
    assert evaluation.score_module(module, data) == found


def test_a_training_ends_with_it_where_the_command_asks(tmp_path: Path) -> None:
    few = ("evaluation.probes.segmentation.linear.max_iter=5", "trainer.max_steps=2")
    run_in(tmp_path, small("pixpro", "evaluation=dense", *few))
    result = read_json(tmp_path / "result.json")
    names = {name.partition("[")[0] for name in result["metrics"]}
    assert names == {"segmentation", "correspondence"} and list(result["baselines"]) == ["untrained"]
    assert result["metrics"].keys() == result["baselines"]["untrained"].keys()
    assert result["protocol"]["name"] == "dense/1" and result["protocol"]["images"].startswith("maps of clean images")


def test_the_number_of_images_bounds_what_is_read() -> None:
    module, data = built("data.source.num_train=60")
    few, more = (Segmentation(n, LINEAR, 0)(module, data) for n in (20, 40))
    assert list(few) == [name.replace("images=40", "images=20") for name in more]
    assert list(few.values()) != list(more.values())


def test_what_cannot_be_done_is_refused_with_one_sentence() -> None:
    module, data = built()
    data.test = Digits(0.2, 0).load("test")
    with pytest.raises(ValueError, match=r"segmentation needs a mask of every image, which this data set lacks"):
        Segmentation(10, LINEAR, 0)(module, data)
    module, data = built("backbone=mlp")
    with pytest.raises(ValueError, match=r"correspondence needs a map of several positions, but ssl_mlp gives one"):
        Correspondence(10, [0.3, 1.0], 0.5, 0)(module, data)
    whole = build(config("evaluation=dense").evaluation)
    whole.check(build_module(config("method=simclr", *SMALL), True))
    sounds = build_module(config("method=simclr", "data=spoken_digits", *SMALL), True)
    with pytest.raises(ValueError, match=r"evaluation=dense\) needs pictures"):  # before a training
        whole.check(sounds)
    for make, words in (
        (lambda: Segmentation(0, LINEAR, 0), "images is 0: it must be at least 1"),
        (lambda: Correspondence(0, [0.3, 1.0], 0.5, 0), "images is 0: it must be at least 1"),
        (lambda: Dense("dense/1", {"segmentation": None}), r"evaluation\.probes is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
