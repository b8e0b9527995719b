"""Regions of the partner, pixels by two scores, circles of partners, progressive labels: loops and closed cases."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.mixers.base import Context
from ssl_framework.mixers.labels import ProgressiveShare, ScoreMass
from ssl_framework.mixers.masks import MaskMix
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.mixers.partners import Reversed
from ssl_framework.mixers.regions import SMMix, SnapMix, squares
from ssl_framework.mixers.rules import Switch, resampling
from ssl_framework.mixers.saliency import GuidedMixup, MostDifferent
from ssl_framework.mixers.scores import ClassActivation, ClassAttention
from ssl_framework.mixers.targets import class_targets
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import Classifier
from ssl_framework.types import Batch
from tests.mixers.test_scores import VIT, Given, context, images, next_one, seeded


def classes(vit: bool) -> Encoder:
    torch.manual_seed(0)
    backbone = Backbone("vit_tiny_patch16_224", None, 16, 3, VIT) if vit else Backbone("ssl_tiny", None, 16, 3)
    return Encoder(backbone, {"classifier": Classifier("pooled", 4)})


def labelled(network: Encoder, label: Tensor) -> Context:
    return context(network)._replace(label=label)


def test_smmix_puts_the_highest_square_on_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A side of two places of 4 px; loops over all squares; other sides are no square's."""
    score = torch.rand(3, 4, 5, generator=seeded(2))
    x = torch.randn(3, 2, 16, 20, generator=seeded(3))
    monkeypatch.setattr("ssl_framework.mixers.regions.uniform", lambda shape, *_: torch.full(shape, 0.5))
    got, owner = SMMix(Given(score), 0.25, 0.75, True)(x, next_one(3), context())
    for b in range(3):
        other = (b + 1) % 3
        every = [*itertools.product(range(3), range(4))]
        lowest = min(every, key=lambda at: float(score[b, at[0] : at[0] + 2, at[1] : at[1] + 2].sum()))
        highest = max(every, key=lambda at: float(score[other, at[0] : at[0] + 2, at[1] : at[1] + 2].sum()))
        expected, filled = x[b].clone(), torch.zeros(16, 20)
        rows, columns = (slice(4 * at, 4 * at + 8) for at in lowest)
        source = tuple(slice(4 * at, 4 * at + 8) for at in highest)
        expected[:, rows, columns] = x[other][:, source[0], source[1]]
        filled[rows, columns] = 1
        assert torch.equal(got[b], expected) and torch.equal(owner[b, 1], filled)


def test_sums_of_squares() -> None:
    score, side = torch.rand(2, 3, 4, generator=seeded()), torch.tensor([1, 3])
    got = squares(score, side)
    torch.testing.assert_close(got[0], score[0])
    torch.testing.assert_close(got[1, 0, :2], torch.stack([score[1, :, :3].sum(), score[1, :, 1:].sum()]))
    assert got[1, 1:].isinf().all() and got[1, 0, 2:].isinf().all()


def test_sides_of_smmix_are_whole_numbers_within_their_range() -> None:
    score = torch.rand(400, 8, 8, generator=seeded())
    _, owner = SMMix(Given(score), 0.25, 0.75, True)(torch.zeros(400, 1, 8, 8), next_one(400), context())
    counts = owner[:, 1].sum(dim=(1, 2)).sqrt().long()
    assert counts.unique().tolist() == [2, 3, 4, 5, 6] and counts.bincount()[2:].min() > 50


@pytest.mark.parametrize(("to", "of"), [((3, 4), (8, 4)), ((2, 8), (5, 4)), ((1, 3), (0, 12)), ((7, 1), (2, 2))])
def test_resampling_is_a_resize_of_the_part(to: tuple[int, int], of: tuple[int, int]) -> None:
    numbers = [torch.tensor([float(n)]) for n in (*to, *of)]
    weights = resampling(*numbers, 12)[0]  # type: ignore[arg-type]
    signal = torch.randn(12, generator=seeded(4))
    part = signal[of[0] : of[0] + of[1]][None, None, :, None].repeat(1, 1, 1, 2)
    expected = torch.zeros(12)
    resized = F.interpolate(part, (to[1], 2), mode="bilinear", antialias=True, align_corners=False)
    expected[to[0] : to[0] + to[1]] = resized[0, 0, :, 0]
    torch.testing.assert_close(weights @ signal, expected, rtol=1e-4, atol=1e-5)


def test_shares_of_snapmix_are_what_the_sources_lose_and_show() -> None:
    """rho_a = 1 - S_a(box), rho_b = S_b(box'), made to sum to one; the maps have a place a pixel."""
    score = torch.rand(4, 16, 16, generator=seeded(5))
    score = score / score.sum(dim=(1, 2), keepdim=True)
    mixer = Mixing(SnapMix(1.0, True), Reversed(), [0], False, 1.0, 0.0, 1.0, labels=ScoreMass(Given(score)))
    x = images(4)
    _, mix = mixer.mixed(Batch([x], torch.arange(4)), 0, context())
    assert mix.taken is not None and mix.owner is not None
    assert torch.equal(mix.taken[:, 0], mix.owner[:, 0]) and not torch.equal(mix.taken[:, 1], mix.owner[:, 1])
    for b in range(4):
        own = float((score[b] * mix.owner[b, 0]).sum())
        other = float((score[3 - b] * mix.taken[b, 1]).sum())
        assert mix.share[b].tolist() == pytest.approx([own / (own + other), other / (own + other)], abs=1e-6)
        shown = mix.taken[b, 1]
        assert shown.sum() == shown.any(dim=1).sum() * shown.any(dim=0).sum() > 0  # a whole box
    switched = Mixing(Switch([SnapMix(1.0, True)], [1], True), Reversed(), [0], False, 1.0, 0.0, 1.0)
    mix = switched.mixed(Batch([x], torch.arange(4)), 0, context())[1]
    assert mix.taken is not None and mix.owner is not None
    assert torch.equal(mix.taken[:, 0], mix.owner[:, 0]) and not torch.equal(mix.taken[:, 1], mix.owner[:, 1])


def test_guidedmixup_is_the_share_of_the_score() -> None:
    score = torch.rand(3, 16, 16, generator=seeded(6))
    score[0], score[1, 0, 0], score[2, 0, 0] = 0.0, 0.0, 0.0
    x = images(3)
    got, owner = GuidedMixup(Given(score))(x, next_one(3), context())
    for b, i, j in [(0, 3, 4), (1, 5, 6), (2, 7, 8), (1, 0, 0)]:
        own, other = float(score[b, i, j]), float(score[(b + 1) % 3, i, j])
        part = own / (own + other) if own + other else 0.5
        assert owner[b, 0, i, j].item() == pytest.approx(part, abs=1e-6)
        torch.testing.assert_close(got[b, :, i, j], part * x[b, :, i, j] + (1 - part) * x[(b + 1) % 3, :, i, j])
    small = GuidedMixup(Given(torch.rand(3, 4, 4, generator=seeded(7))))(x, next_one(3), context())[1]
    assert small.shape == (3, 2, 16, 16) and small.min() >= 0


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_partners_that_differ_most_go_round_in_a_circle(count: int) -> None:
    score = torch.rand(count, 3, 3, generator=seeded(8))
    asked = context()._replace(images=torch.empty(count, 1, 3, 3))
    got = MostDifferent(Given(score))(Batch([], torch.arange(count)), asked)[:, 0].tolist()
    apart = [[float((a - b).norm()) for b in score] for a in score]
    pairs = [(apart[i][j], -i) for i, j in itertools.product(range(count), range(count)) if i != j]
    first = -max(pairs, key=lambda pair: (round(pair[0], 6), pair[1]))[1] if pairs else 0
    now, seen = first, [first]
    while len(seen) < count:
        now = max((j for j in range(count) if j not in seen), key=lambda j: apart[now][j])
        assert got[seen[-1]] == now
        seen.append(now)
    assert got[now] == first and sorted(got) == list(range(count))


def test_equal_scores_still_give_everyone_a_partner() -> None:
    asked = context()._replace(images=torch.empty(5, 1, 3, 3))
    got = MostDifferent(Given(torch.ones(5, 3, 3)))(Batch([], torch.arange(5)), asked)[:, 0].tolist()
    assert sorted(got) == [0, 1, 2, 3, 4] and all(p != b for b, p in enumerate(got))


def test_maskmix_counts_whole_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_framework.mixers.rules.Share.__call__", lambda self, like, _: torch.full((6,), 0.3))
    _, owner = MaskMix(1.0, 4, False)(torch.zeros(6, 1, 16, 12), next_one(6), context())
    cells = owner[:, 0].unfold(1, 4, 4).unfold(2, 4, 4)  # [6, 4, 3, 4, 4]
    assert (cells.amin(dim=(3, 4)) == cells.amax(dim=(3, 4))).all()
    assert (cells[..., 0, 0].sum(dim=(1, 2)) == 4).all()  # 0.3 of 12, rounded up
    assert len({tuple(own.flatten().tolist()) for own in owner[:, 0]}) > 1
    assert MaskMix(1.0, 5, False)(torch.zeros(6, 1, 16, 12), next_one(6), context())[1].shape == (6, 2, 16, 12)


@pytest.mark.parametrize("vit", [False, True])
def test_class_activation_is_what_the_classifier_makes_of_every_place(vit: bool) -> None:
    network, x, label = classes(vit), images(3), torch.tensor([2, 0, 3])
    got = ClassActivation("classifier")(x, labelled(network, label))
    network.eval()
    with torch.no_grad():
        outputs = network.backbone(x)
    weight = network.heads["classifier"].linear.weight.detach()
    for b, i, j in itertools.product(range(3), range(got.shape[1]), range(got.shape[2])):
        feature = outputs["tokens"][b, 1 + 4 * i + j] if vit else outputs["map"][b, :, i, j]
        if (i, j) == (0, 0):
            start = float(weight[label[b]] @ feature), float(got[b, 0, 0])
        elif (i, j) == (1, 1):
            step = float(weight[label[b]] @ feature) - start[0], float(got[b, 1, 1]) - start[1]
            assert step[0] * step[1] >= 0
    assert got.amin(dim=(1, 2)).abs().max() == 0 and torch.allclose(got.sum(dim=(1, 2)), torch.ones(3))


def test_progressive_shares_against_loops() -> None:
    network, x, label = classes(True), images(4), torch.tensor([2, 0, 3, 1])
    law = ProgressiveShare(ClassAttention(), "classifier")
    rule = MaskMix(1.0, 4, True)
    by_law, by_area = (
        Mixing(rule, Reversed(), [0], False, 1.0, 0.0, 1.0, labels=labels).mixed(
            Batch([x], torch.arange(4), label), 0, labelled(network, label)
        )
        for labels in (law, None)
    )
    mixed, mix, area = by_law[0], by_law[1], by_area[1].share
    attention = ClassAttention()(mixed, context(network))
    network.eval()
    probability = network([mixed])[0]["classifier"].softmax(dim=1).detach()
    target = class_targets(by_area[1], label, 4)
    for b in range(4):
        seen = [0.0, 0.0]
        for p, i, j in itertools.product(range(2), range(4), range(4)):
            seen[p] += float(mix.owner[b, p, 4 * i, 4 * j] * attention[b, i, j])
        known = float(target[b] @ probability[b] / (target[b].norm() * probability[b].norm()))
        for p in range(2):
            expected = known * seen[p] / sum(seen) + (1 - known) * float(area[b, p])
            assert float(mix.share[b, p]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("label", [None, torch.rand(2)])
def test_class_scores_that_are_not_there(label: Tensor | None) -> None:
    words = "reads class scores of the student's head classifier and the samples' classes, which this run lacks: "
    for network in (classes(False), Encoder(Backbone("ssl_tiny", None, 16, 3), {})):
        if label is None or not network.heads:
            given = label if network.heads else torch.tensor([0, 1])
            with pytest.raises(ValueError, match=f"ClassActivation {words}choose a method that learns classes"):
                ClassActivation("classifier")(images(2), context(network)._replace(label=given))
    with pytest.raises(ValueError, match=r"mixer\.rule\.least is 0\.75 and most 0\.5"):
        SMMix(Given(torch.empty(0)), 0.75, 0.5, True)
