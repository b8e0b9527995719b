"""Metric losses and their mixtures, each against loops straight from the formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build_data, build_module
from ssl_framework.objectives.metric import Anchors, Contrastive, MetricLoss, MultiSimilarity, ProxyAnchor
from ssl_framework.objectives.metrix import Draws, Examples, Metrix, a_positive, embedding_mixtures, pairs, two_sided
from ssl_framework.types import Batch, Clock, Mix, Samples
from tests.objectives import loops
from tests.objectives.table import seeded
from tests.small_runs import small

LABEL = torch.tensor([0, 1, 0, 2, 1, 0, 3])  # the fourth and the last are alone in their class
Z = loops.random_unit(7, 5, 0)
WEIGHT = loops.random_unit(5, 6, 9)


def contrastive() -> Contrastive:
    return Contrastive(0.4, 1.5)


def similar(mining_margin: float | None = None) -> MultiSimilarity:
    return MultiSimilarity(2.0, 10.0, 0.5, mining_margin)


def proxies() -> ProxyAnchor:
    return seeded(lambda: ProxyAnchor(5, 5, 4.0, 0.1)).double()


# The losses by loops: an anchor's (similarity, weight) among the positives and among the negatives.
Terms = list[tuple[list[tuple[float, float]], list[tuple[float, float]]]]


def loop_contrastive(terms: Terms) -> float:
    sums = []
    for side in range(2):
        costs = []
        for term in terms:
            for s, w in term[side]:
                d = math.sqrt(2 - 2 * s)
                costs.append(w * max(0.0, d - 0.4 if side == 0 else 1.5 - d))
        active = [cost for cost in costs if cost > 0]
        sums.append(sum(active) / max(1, len(active)))
    return sum(sums)


def loop_similar(terms: Terms) -> float:
    total = 0.0
    for positives, negatives in terms:
        total += math.log(1 + sum(w * math.exp(-2 * (s - 0.5)) for s, w in positives)) / 2
        total += math.log(1 + sum(w * math.exp(10 * (s - 0.5)) for s, w in negatives)) / 10
    return total / len(terms)


def loop_proxies(terms: Terms) -> float:
    attract = [math.log(1 + sum(w * math.exp(-4 * (s - 0.1)) for s, w in pos)) for pos, _ in terms if pos]
    repel = [math.log(1 + sum(w * math.exp(4 * (s + 0.1)) for s, w in neg)) for _, neg in terms]
    return sum(attract) / len(attract) + sum(repel) / len(repel)


LOSSES: dict[str, tuple[Callable[[], MetricLoss], Callable[[Terms], float]]] = {
    "contrastive": (contrastive, loop_contrastive),
    "multi_similarity": (similar, loop_similar),
    "proxy_anchor": (proxies, loop_proxies),
}


def loop_anchors(loss: MetricLoss) -> list[tuple[Tensor, int, int | None]]:
    """Vector, class and, of a sample, position."""
    if isinstance(loss, ProxyAnchor):
        rows = loss.proxies.detach()
        return [(row / row.norm(), c, None) for c, row in enumerate(rows)]
    return [(Z[i], int(LABEL[i]), i) for i in range(len(Z))]


def clean_terms(loss: MetricLoss) -> Terms:
    terms = []
    for a, c, own in loop_anchors(loss):
        others = [j for j in range(len(Z)) if j != own]
        positives = [(loops.dot(a, Z[j]), 1.0) for j in others if LABEL[j] == c]
        terms.append((positives, [(loops.dot(a, Z[j]), 1.0) for j in others if LABEL[j] != c]))
    return terms


def run(objective: Metrix, batch: Batch | None = None, *outputs: dict) -> dict[str, float]:
    given = list(outputs) or loops.outputs(3 * Z)  # the objective normalises
    out = objective(given, None, batch or loops.batch(len(Z), LABEL), loops.CLOCK)  # type: ignore[arg-type]
    return {name: value.item() for name, value in out.items()}


@pytest.mark.parametrize("name", LOSSES)
def test_the_clean_term_equals_the_loop(name: str) -> None:
    build, loop = LOSSES[name]
    loss = build()
    assert run(Metrix(loss, "embedding", 0.4, 2.0, 0.5))["clean"] == pytest.approx(loop(clean_terms(loss)), abs=1e-9)


def test_two_orthogonal_pairs_have_closed_values() -> None:
    """Positives that coincide and negatives at a right angle."""
    z, label = torch.eye(2, dtype=torch.float64).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    batch = loops.batch(4, label)
    values = {
        name: Metrix(build(), "embedding", 0.0, 2.0, 0.5)(loops.outputs(z), None, batch, loops.CLOCK)["loss"].item()
        for name, (build, _) in LOSSES.items()
        if name != "proxy_anchor"
    }
    assert values["contrastive"] == pytest.approx(1.5 - math.sqrt(2))
    assert values["multi_similarity"] == pytest.approx(
        math.log(1 + math.exp(-1)) / 2 + math.log(1 + 2 * math.exp(-5)) / 10
    )
    loss = ProxyAnchor(2, 2, 4.0, 0.1).double()
    loss.proxies.data = 7 * torch.eye(2, dtype=torch.float64)
    value = Metrix(loss, "embedding", 0.0, 2.0, 0.5)(loops.outputs(z), None, batch, loops.CLOCK)["loss"].item()
    expected = math.log(1 + 2 * math.exp(-4 * 0.9)) + math.log(1 + 2 * math.exp(4 * 0.1))
    assert value == pytest.approx(expected)


@pytest.mark.parametrize("epsilon", [0.1, 0.6])
def test_mining_of_the_multi_similarity_loss(epsilon: float) -> None:
    terms = []
    for positives, negatives in clean_terms(similar()):
        least = min([s for s, _ in positives], default=math.inf)
        most = max([s for s, _ in negatives], default=-math.inf)
        kept = [(s, w) for s, w in negatives if s > least - epsilon]
        terms.append(([(s, w) for s, w in positives if s < most + epsilon], kept))
    assert terms != clean_terms(similar())
    got = run(Metrix(similar(epsilon), "embedding", 0.4, 2.0, 0.5))
    assert got["clean"] == pytest.approx(loop_similar(terms), abs=1e-9)
    # Mixtures are not mined.
    assert got["mixed"] == run(Metrix(similar(), "embedding", 0.4, 2.0, 0.5))["mixed"]


@pytest.mark.parametrize("anchor_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_mixtures_of_embeddings_equal_the_loop_that_makes_them(name: str, anchor_share: float) -> None:
    build, loop = LOSSES[name]
    loss = build()
    objective = Metrix(loss, "embedding", 0.4, 2.0, anchor_share)
    anchors = loss.anchors(Z, LABEL)
    draws = objective.draw(anchors, len(Z), Z, loops.CLOCK)
    positive, _ = pairs(anchors, LABEL)
    which = a_positive(positive, draws.which)
    terms: Terms = []
    kinds = set()
    for i, (a, c, own) in enumerate(loop_anchors(loss)):
        positives = [j for j in range(len(Z)) if LABEL[j] == c and j != own]
        terms.append(([], []))
        for n in range(len(Z)) if positives else ():
            if LABEL[n] == c:
                continue
            share, itself = draws.share[i, n].item(), bool(draws.itself[i, n])
            kinds.add(itself)
            p = a if itself else Z[which[i, n]]
            assert itself or int(which[i, n]) in positives
            v = share * p + (1 - share) * Z[n]
            s = loops.dot(a, v / v.norm())
            terms[-1][0].append((s, share))
            terms[-1][1].append((s, 1 - share))
    got = run(objective)
    assert kinds == {0.0: {False}, 0.5: {False, True}, 1.0: {True}}[anchor_share]
    assert got["mixed"] == pytest.approx(loop(terms), abs=1e-6)
    assert got["loss"] == pytest.approx(got["clean"] + 0.4 * got["mixed"], abs=1e-9)


def test_every_positive_comes_up() -> None:
    positive = torch.tensor([[False, True, False, True, True], [False] * 5])
    which = torch.linspace(0, 0.999999, 30).repeat(2, 1)
    drawn = a_positive(positive, which)
    assert [drawn[0].tolist().count(j) for j in range(5)] == [0, 10, 0, 10, 10]
    assert drawn[1].unique().numel() == 1


def test_a_mixture_of_opposites_is_like_nothing() -> None:
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    positive = torch.tensor([[False, True, False]] * 3)
    draws = Draws(torch.full((3, 3), 0.5), torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3))
    mixed, *_ = embedding_mixtures(z @ z.T, z @ z.T, positive, ~positive, draws)
    mixed.sum().backward()
    torch.testing.assert_close(mixed, z.detach()[:, :1] * torch.tensor([1.0, 1.0, 0.0]))
    assert z.grad is not None and torch.isfinite(z.grad).all()


def loop_two_sided(loss: MetricLoss, z: Tensor, label: list[list[int]], share: list[list[float]]) -> Terms:
    """A mixture counts for an anchor if it shows its class and another."""
    terms: Terms = []
    for a, c, _ in loop_anchors(loss):
        terms.append(([], []))
        for v, classes, shares in zip(z, label, share, strict=True):
            own = sum(s for y, s in zip(classes, shares, strict=True) if y == c)
            if own > 0 and any(y != c and s > 0 for y, s in zip(classes, shares, strict=True)):
                terms[-1][0].append((loops.dot(a, v / v.norm()), own))
                terms[-1][1].append((loops.dot(a, v / v.norm()), 1 - own))
    return terms


@pytest.mark.parametrize("name", LOSSES)
def test_mixtures_of_features_go_through_the_heads(name: str) -> None:
    build, loop = LOSSES[name]
    loss, pooled = build(), loops.random_unit(7, 6, 4)
    objective = Metrix(loss, "feature", 0.4, 2.0, 0.5)
    assert objective.requires == {"label", "heads"}
    objective.through_heads = lambda x: {"pooled": x, "projector": x @ WEIGHT.T}
    draws = objective.draw(Anchors(Z, LABEL, None), 1, Z, loops.CLOCK)
    rows, label, shares = [], [], []
    for i in range(7):
        positives = [j for j in range(7) if LABEL[j] == LABEL[i] and j != i]
        n = max((j for j in range(7) if LABEL[j] != LABEL[i]), key=lambda j: loops.dot(Z[i], Z[j]))
        chosen = positives[int(draws.which[i, 0] * len(positives))] if positives and not draws.itself[i, 0] else i
        share = draws.share[i, 0].item()
        rows.append((share * pooled[chosen] + (1 - share) * pooled[n]) @ WEIGHT.T)
        label.append([int(LABEL[chosen]), int(LABEL[n])])
        shares.append([share, 1 - share])
    got = run(objective, None, {"pooled": pooled, "projector": 3 * Z})
    expected = loop(loop_two_sided(loss, torch.stack(rows), label, shares))
    assert got["mixed"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_mixtures_of_images_are_read_from_the_mixers_record(name: str) -> None:
    """Two mixtures of three sources each: equal classes add up, and what shows one class only does not count."""
    build, loop = LOSSES[name]
    loss = build()
    objective = Metrix(loss, "input", 0.4, 2.0, 0.5)
    assert objective.requires == {"label", "added mixtures"}
    made = [loops.random_unit(7, 5, seed) for seed in (5, 6)]
    own = torch.arange(7)
    source = torch.stack([own, (own + 1) % 7, (own + 2) % 7], dim=1)
    source[5] = torch.tensor([5, 2, 0])  # one class
    share = torch.tensor([0.5, 0.3, 0.2]).repeat(7, 1)
    share[6] = torch.tensor([1.0, 0.0, 0.0])  # left unmixed
    mix = Mix(torch.empty(0), source, share, None, 0)
    batch = loops.batch(7, LABEL)._replace(mix=[None, mix, mix])
    got = run(objective, batch, *loops.outputs(3 * Z, *made))
    terms = loop_two_sided(loss, torch.cat(made), LABEL[source].tolist() * 2, share.double().tolist() * 2)
    assert got["mixed"] == pytest.approx(loop(terms), abs=1e-6)
    assert got["clean"] == pytest.approx(run(objective)["loss"], abs=1e-12)  # outside the mixer's schedule


def test_weights_of_both_sides_sum_to_one_where_a_mixture_counts() -> None:
    made = Examples(Z[:3], torch.tensor([[0, 1], [0, 0], [2, 1]]), torch.tensor([[0.7, 0.3], [0.6, 0.4], [1.0, 0.0]]))
    positive, negative = two_sided(torch.tensor([0, 1, 2]), made)
    torch.testing.assert_close(positive, torch.tensor([[0.7, 0, 0], [0.3, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(negative, torch.tensor([[0.3, 0, 0], [0.7, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_pair_is_finite(name: str) -> None:
    for label in (torch.arange(3), torch.zeros(3, dtype=torch.long)):
        z = loops.random_unit(3, 5, 1).requires_grad_()
        objective = Metrix(LOSSES[name][0](), "embedding", 0.4, 2.0, 0.5)
        out = objective(loops.outputs(z), None, loops.batch(3, label), loops.CLOCK)
        out["loss"].backward()
        assert name == "proxy_anchor" or (
            out["mixed"] == 0 and out["loss"] == out["clean"] > 0
        )  # proxies are always there
        assert z.grad is not None and torch.isfinite(z.grad).all()


@pytest.mark.parametrize("overrides", [("feature", "data.micro_batch_size=4"), ("input", "mixer=mixup")])
def test_the_other_levels_train_every_weight(overrides: tuple[str, str]) -> None:
    cfg = small("metrix_proxy_anchor", f"objective.level={overrides[0]}", overrides[1])
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0])
    assert data.label is not None
    losses = module.losses(Samples(data.rows[:8], torch.arange(8), data.label[:8]), Clock(0, 0, 3))
    losses["loss"].backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)
    assert losses["mixed"] > 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: Metrix(similar(), "pixels", 0.4, 2.0, 0.5),
            r"objective\.level is pixels: choose one of embedding",
        ),
        (lambda: Metrix(similar(), "input", -1.0, 2.0, 0.5), r"weight is -1\.0: it must be at least 0"),
        (lambda: Metrix(similar(), "input", 0.4, 0.0, 0.5), r"alpha is 0\.0: it must be above 0"),
        (lambda: Metrix(similar(), "input", 0.4, 2.0, 1.5), r"anchor_share is 1\.5: it must be between 0 and 1"),
        (lambda: Contrastive(-0.1, 0.5), r"positive_margin is -0\.1: it must be at least 0 and below 2"),
        (lambda: Contrastive(0.0, 2.5), r"negative_margin is 2\.5: it must be above 0 and at most 2"),
        (lambda: MultiSimilarity(0.0, 50.0, 0.5, None), r"alpha is 0\.0: it must be above 0"),
        (
            lambda: ProxyAnchor(None, 5, 32.0, 0.1),
            r"num_classes is null: it must be a whole number, at least 2",
        ),  # type: ignore[arg-type]
        (lambda: ProxyAnchor(5, 5, 0.0, 0.1), r"alpha is 0\.0: it must be above 0"),
    ],
)
def test_refused_settings(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_the_level_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="Metrix needs a mixer, but the config has mixer=none"):
        build_module(small("metrix_contrastive", "objective.level=input"), True, 48)
    with pytest.raises(ValueError, match="Metrix does not read what Mixup produces"):
        build_module(small("metrix_contrastive", "mixer=mixup"), True, 48)
