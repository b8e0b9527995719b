"""One tower is an encoder, bit for bit; several route each view to its own."""

import copy
import functools

import pytest
import torch
from torch import Tensor

from ssl_framework.gradient_cache import cached_losses
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import EMATeacher, Encoder
from ssl_framework.models.heads import Features, MLPHead
from ssl_framework.models.text import TextTransformer
from ssl_framework.models.towers import AlikeTowers, Towers
from ssl_framework.objectives.clip import CLIP
from ssl_framework.types import Batch, Clock, Outputs
from ssl_framework.wiring import check_heads, check_teacher

HEAD = MLPHead(source="pooled", hidden=[], out=6)


def image_encoder(seed: int = 0, **options: object) -> Encoder:
    torch.manual_seed(seed)
    heads = {"projector": HEAD, "predictor": MLPHead(source="projector", hidden=[5], out=6)}
    return Encoder(Backbone("ssl_tiny", None, image_size=16, channels=3), heads, **options)  # type: ignore[arg-type]


def text_encoder(seed: int = 1) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(TextTransformer(20, 7, 16, 2, 4), {"projector": HEAD})  # type: ignore[arg-type]


def pair() -> Towers:
    towers = Towers({"image": image_encoder(), "text": text_encoder()})
    towers.route(("image", "text"))
    return towers


def views(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 20, (count, 7), generator=generator)
    x[:, 5:] = 0
    return torch.randn(count, 3, 16, 16, generator=generator), x


@pytest.mark.parametrize("join_views", [True, False])
@pytest.mark.parametrize("which", [None, [1], [0, 2]])
def test_one_tower_is_the_encoder_bit_for_bit(join_views: bool, which: list[int] | None) -> None:
    encoder = image_encoder(join_views=join_views)
    tower = Towers({"image": copy.deepcopy(encoder)})
    tower.route(("image",) * 3)
    images = [views(seed=seed)[0] for seed in range(3)]
    found, expected = tower(images, which), encoder(images, which)
    assert [view is None for view in found] == [view is None for view in expected]
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs or {}:
            assert torch.equal(ours[name], theirs[name])
    sum(view["predictor"].square().sum() for view in found if view).backward()
    sum(view["predictor"].square().sum() for view in expected if view).backward()
    for ours, theirs in zip(tower.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(tower.buffers(), encoder.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    tower.eval(), encoder.eval()
    x = images[0]
    assert torch.equal(tower.embed(x), encoder.embed(x))
    assert torch.equal(tower.encode(x)["projector"], encoder.encode(x)["projector"])
    assert tower.groups(images, which) == encoder.groups(images, which)
    for name, layer in encoder.embed_layers(x, ["predictor"]).items():
        assert torch.equal(tower.embed_layers(x, ["predictor"])[name], layer)
    pooled = torch.randn(4, 192)
    assert torch.equal(tower.through_heads(pooled)["predictor"], encoder.through_heads(pooled)["predictor"])
    assert tower.dims == encoder.dims and list(tower.heads) == list(encoder.heads)
    assert tower.scored == encoder.scored and not tower.earlier and not tower.beside


def test_views_come_back_in_their_order_whatever_it_is() -> None:
    towers = pair().eval()
    image, text = views()
    alone = [towers.tower("image").encode(image), towers.tower("text").encode(text)]
    for order in ((0, 1), (1, 0), (1, 0, 1)):
        towers.route([("image", "text")[v] for v in order])
        found = towers([(image, text)[v] for v in order])
        for v, outputs in zip(order, found, strict=True):
            torch.testing.assert_close(outputs["projector"], alone[v]["projector"])
        part = towers([(image, text)[v] for v in order], [1])
        assert [outputs is None for outputs in part] == [v != 1 for v in range(len(order))]
        torch.testing.assert_close(part[1]["projector"], alone[order[1]]["projector"])


def test_a_shared_encoder_counts_once_and_encodes_its_views_together() -> None:
    shared = image_encoder()
    towers = Towers({"day": shared, "night": shared})
    towers.route(("day", "night"))
    assert sum(p.numel() for p in towers.parameters()) == sum(p.numel() for p in shared.parameters())
    images = [views(seed=seed)[0] for seed in range(2)]
    expected = copy.deepcopy(shared)(images)
    for ours, theirs in zip(towers(images), expected, strict=True):
        assert torch.equal(ours["projector"], theirs["projector"])  # with the statistics of both


def test_frozen_towers_neither_learn_nor_leave_eval_mode() -> None:
    towers = Towers({"image": image_encoder(), "text": text_encoder()}, frozen=["image"]).train()
    towers.route(("image", "text"))
    image, text = views()
    running = towers.backbone.net.features[1].running_mean.clone()
    out = towers([image, text])
    assert not out[0]["projector"].requires_grad and out[1]["projector"].requires_grad
    assert torch.equal(towers.backbone.net.features[1].running_mean, running)
    assert not towers.tower("image").training and towers.tower("text").training
    assert all(not p.requires_grad for p in towers.tower("image").parameters())


def test_a_teacher_follows_both_towers_and_has_only_their_heads() -> None:
    towers = pair()
    teacher = EMATeacher(["projector"], momentum=0.75).follow(towers)  # type: ignore[arg-type]
    assert [list(teacher.encoder.tower(name).heads) for name in ("image", "text")] == [["projector"]] * 2
    assert list(towers.heads) == ["projector", "predictor"]
    before = {name: p.clone() for name, p in teacher.encoder.named_parameters()}
    with torch.no_grad():
        for p in towers.parameters():
            p.add_(1.0)
    teacher.update(towers, Clock(0, 0, 1))  # type: ignore[arg-type]
    for name, p in teacher.encoder.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.25)
    found = teacher(list(views()), None, Clock(0, 0, 1))
    assert [set(view) & {"projector", "predictor"} for view in found] == [{"projector"}] * 2


def test_a_shuffled_teacher_encodes_each_view_with_its_tower() -> None:
    towers = pair()
    teacher = EMATeacher(["projector"], momentum=0.9, shuffle_bn=3).follow(towers).eval()  # type: ignore[arg-type]
    plain = EMATeacher(["projector"], momentum=0.9).follow(towers).eval()  # type: ignore[arg-type]
    for ours, theirs in zip(
        teacher(list(views()), None, Clock(0, 0, 1)), plain(list(views()), None, Clock(0, 0, 1)), strict=True
    ):
        torch.testing.assert_close(ours["projector"], theirs["projector"])


def test_micro_batches_give_the_whole_batch_s_loss_and_gradient() -> None:
    whole, parts = pair().eval(), pair().eval()  # without batch statistics, which are of a micro-batch

    def objective(outputs: list[Outputs | None]) -> dict[str, Tensor]:
        return CLIP(0.2, 100)(outputs, None, Batch(views=[], index=torch.arange(6)), Clock(0, 0, 1))

    expected = objective(whole(list(views())))["loss"]
    found = cached_losses(parts, parts, list(views()), 4, objective, objective_has_parameters=True)["loss"]
    expected.backward(), found.backward()
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"student\.towers is empty"):
        Towers({})
    with pytest.raises(ValueError, match=r"student\.frozen names \['sound'\], but student\.towers has \['image'\]"):
        Towers({"image": image_encoder()}, frozen=["sound"])
    with pytest.raises(ValueError, match=r"student\.frozen is \['image'\]: nothing is left to train"):
        Towers({"image": image_encoder()}, frozen=["image"])
    with pytest.raises(ValueError, match=r"the views are of image and sound, but student\.towers has image and text"):
        pair().route(("image", "sound"))
    with pytest.raises(ValueError, match=r"student\.towers has text, but no view is of it: the views are of image"):
        pair().route(("image", "image"))
    with pytest.raises(
        ValueError, match=r"the student is one encoder: choose method=albef, align, .*clip,.* or views of one of"
    ):
        image_encoder().route(("image", "text"))
    with pytest.raises(ValueError, match=r"teacher\.heads names \['x'\], but the student has \['predictor', 'project"):
        EMATeacher(["x"], momentum=0.9).follow(pair())  # type: ignore[arg-type]


def test_heads_are_built_anew_in_every_tower() -> None:
    head = MLPHead(source="pooled", hidden=[], out=6)
    text = TextTransformer(20, 7, 16, 2, 4)
    towers = AlikeTowers(Backbone("ssl_tiny", None, 16, 3), {"projector": head}, "image", {"text": text})  # type: ignore[arg-type]
    first, second = (encoder.heads["projector"] for encoder, _ in towers.encoders())
    assert [x.layers[0].in_features for x in (first, second)] == [192, 16] and not list(head.parameters())


def test_what_an_objective_reads_and_what_nothing_reads_is_asked_of_every_tower() -> None:
    with pytest.raises(ValueError, match="CLIP reads predictor of the student's tower for text, but the head that was"):
        check_heads(CLIP(0.07, 100, head="predictor"), pair())
    with pytest.raises(ValueError, match="tower for image, but the head that was chosen has predictor besides, which"):
        check_heads(CLIP(0.07, 100), pair())
    alike = pair()
    alike.keep_heads(["projector"])
    check_heads(CLIP(0.07, 100), alike)
    objective = CLIP(0.07, 100)
    objective.teacher_reads = ("predictor",)
    with pytest.raises(ValueError, match="CLIP reads predictor of the teacher"):
        check_teacher(objective, pair(), pair())  # type: ignore[arg-type]


def test_what_builds_a_head_of_an_earlier_version_is_refused() -> None:
    late = {"projector": functools.partial(Features, source="pooled")}
    with pytest.raises(ValueError, match=r"no Head: give the class a build\(width\) .* and leave _partial_ out"):
        Encoder(TextTransformer(20, 7, 16, 2, 4), late)  # type: ignore[arg-type]
