"""PairingNet: golden values, loops over fragments with several partners, and a toy where tears are found again."""

import math

import pytest
import torch
from torch import nn

from ssl_framework.objectives.pairing_net import PairingNet, search
from ssl_framework.objectives.point_matching import PointMatching, correspondence, matching
from tests.golden import golden, mix_raw, mix_rows
from tests.objectives import loops

SOURCE, TARGET = torch.tensor([0, 1, 0, 2, 3, 3]), torch.tensor([1, 2, 3, 4, 4, 5])


def test_golden() -> None:
    expected = golden("pairing_net: search loss, -log of the summed probability of all true partners")
    assert search(mix_rows(0), mix_rows(1), SOURCE, TARGET, 0.12).item() == pytest.approx(expected, abs=1e-7)
    probability = mix_raw(0, 4, 4).sigmoid()[None]
    loss = matching(probability, torch.eye(4, dtype=torch.bool)[None], 0.55, 8.0, 400.0)
    assert loss.item() == pytest.approx(golden("pairing_net: matching loss (focal, factor 400)"), abs=1e-6)


def mean_search(s: torch.Tensor, t: torch.Tensor, source: list[int], target: list[int]) -> float:
    pairs, total = set(zip(source, target, strict=True)), 0.0
    for i in range(len(s)):
        each = [math.exp(loops.dot(s[i], t[j]) / 0.2) for j in range(len(t))]
        true = [value for j, value in enumerate(each) if (source[i], target[j]) in pairs]
        total -= math.log(sum(true) / sum(each))
    return total / len(s)


def test_the_loss_equals_the_loop_with_the_terms_among_either_side() -> None:
    a, b, source, target = loops.random_unit(6, 4, 0), loops.random_unit(6, 4, 1), SOURCE.tolist(), TARGET.tolist()
    batch = loops.batch(6)._replace(targets=[SOURCE, TARGET])
    out = PairingNet(0.2, 0.5)(loops.outputs(2 * a, 3 * b), None, batch, loops.CLOCK)
    pairs = mean_search(a, b, source, target)
    own = mean_search(a, a, source, source) + mean_search(b, b, target, target)
    assert out["pair_loss"].item() == pytest.approx(pairs, abs=1e-12)
    assert out["loss"].item() == pytest.approx(pairs + 0.5 * own / 2, abs=1e-12)
    with pytest.raises(ValueError, match="PairingNet has to know which fragments each pair is of"):
        PairingNet(0.2, 0.5).loss_of(a, b)


PARTNER = torch.tensor([[2, -1, 0], [-1, 1, 3], [-1, -1, -1], [0, 1, 2], [3, 2, 1], [1, -1, -1]])


def focal(a: torch.Tensor, b: torch.Tensor, tau: float, alpha: float, gamma: float) -> float:
    terms = []
    for x, y, partner in zip(a, b, PARTNER.tolist(), strict=True):
        each = [[math.exp(loops.dot(p, q) / tau) for q in y] for p in x]
        for i, row in enumerate(each):
            for j, value in enumerate(row):
                p = value / sum(row) * value / sum(other[j] for other in each)
                hit, miss = alpha * (1 - p) ** gamma * math.log(p), (1 - alpha) * p**gamma * math.log(1 - p)
                terms.append(-hit if partner[i] == j else -miss)
    return sum(terms) / len(terms)


def test_the_points_equal_the_loop_beside_the_search_and_alone() -> None:
    a, b = loops.random_unit(18, 4, 2).view(6, 3, 4), 2 * loops.random_unit(24, 4, 3).view(6, 4, 4)
    z = loops.random_unit(12, 4, 0).view(2, 6, 4)
    student = [{"projector": z[0], "points": a}, {"projector": z[1], "points": b}]
    batch = loops.batch(6)._replace(targets=[SOURCE, TARGET, PARTNER])
    points = PointMatching(0.5, 0.55, 2.0, 40.0, "points")
    both = PairingNet(0.2, 0.5, search=0.25, matching=0.3, points=points)
    alone = PairingNet(0.2, 0.5, search=0.0, matching=0.3, points=points)
    expected = 40 * focal(a, b, 0.5, 0.55, 2.0)
    searched = PairingNet(0.2, 0.5)(student, None, batch, loops.CLOCK)["loss"].item()
    out = both(student, None, batch, loops.CLOCK)
    assert out["match_loss"].item() == pytest.approx(expected, abs=1e-10)
    assert out["loss"].item() == pytest.approx(0.25 * searched + 0.3 * expected, abs=1e-10)
    assert alone(student, None, batch, loops.CLOCK)["loss"].item() == pytest.approx(0.3 * expected, abs=1e-10)
    assert both.reads == ("projector", "points") and PairingNet(0.2, 0.5, points=points).reads == ("projector",)
    with pytest.raises(ValueError, match=r"objective\.matching is 0\.3, but the batch does not say which points lie"):
        both(student, None, batch._replace(targets=[SOURCE, TARGET]), loops.CLOCK)


def test_a_term_without_a_maker_and_no_term_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"objective\.matching is 1\.0, but objective\.points is null"):
        PairingNet(0.2, 0.5, matching=1.0)
    with pytest.raises(ValueError, match=r"objective\.search and objective\.matching are both 0"):
        PairingNet(0.2, 0.5, search=0.0)


def test_padded_points_count_nowhere_and_matches_are_symmetric() -> None:
    a, b = mix_raw(0, 3)[None], mix_raw(1, 4)[None]
    found = correspondence(a, b, 0.5)
    torch.testing.assert_close(found, correspondence(b, a, 0.5).transpose(1, 2))
    row = torch.tensor([loops.dot(a[0, 1], b[0, j]) / 0.5 for j in range(4)]).softmax(0)[2]
    column = torch.tensor([loops.dot(a[0, i], b[0, 2]) / 0.5 for i in range(3)]).softmax(0)[1]
    assert found[0, 1, 2].item() == pytest.approx((row * column).item(), abs=1e-7)
    match = torch.zeros(1, 3, 4, dtype=torch.bool)
    match[0, 0, 0] = match[0, 1, 1] = True
    valid = torch.ones_like(match)
    valid[:, :, 3] = False
    shown = matching(found[:, :, :3], match[:, :, :3], 0.55, 2.0, 1.0)
    torch.testing.assert_close(matching(found, match, 0.55, 2.0, 1.0, valid), shown)
    certain = torch.tensor([[[1.0, 0.0]]])
    assert matching(certain, torch.tensor([[[True, False]]]), 0.55, 8.0, 400.0) == 0
    assert matching(certain, torch.tensor([[[False, True]]]), 0.55, 8.0, 400.0).isfinite()


def test_a_toy_finds_the_other_side_of_a_tear() -> None:
    """Contours are circular, so the net is: one-dimensional convolutions in the place of the authors' graph net."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(1, 16, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16)
    )
    optimizer, loss = torch.optim.Adam(net.parameters(), 3e-3), PairingNet(0.12, 0.5)

    def torn() -> list:
        tear = torch.randn(24, 1, 16)
        return [tear + 0.3 * torch.randn_like(tear), -tear + 0.3 * torch.randn_like(tear)]

    def recall() -> float:
        s, t = (nn.functional.normalize(net(each), dim=1) for each in torn())
        return ((s @ t.T).argmax(1) == torch.arange(24)).float().mean().item()

    batch = loops.batch(24)._replace(targets=[torch.arange(24), 24 + torch.arange(24)])
    before = recall()
    for _ in range(40):
        optimizer.zero_grad()
        loss(loops.outputs(*map(net, torn())), None, batch, loops.CLOCK)["loss"].backward()
        optimizer.step()
    assert before < 0.2 and recall() > 0.6
