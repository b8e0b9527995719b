import math

import pytest
from torch import Tensor

from ssl_framework.objectives.vicregl import VICRegL
from ssl_framework.types import Geometry
from tests.golden import golden, mix_raw
from tests.objectives import loops, maps

LOCAL = [mix_raw(s, 24, 8).view(6, 2, 2, 8).permute(0, 3, 1, 2) for s in (2, 3)]
WHOLE = maps.cut(*[(0.0, 0.0, 1.0, 1.0)] * 6)
MOVED = maps.cut(*[(0.05 + 0.03 * b, 0.11 + 0.02 * b, 0.85 + 0.03 * b, 0.81 + 0.02 * b) for b in range(6)])
MOVED.box[2, [1, 3]] -= 1e-9  # image 2 has places equally far apart, which rounding orders in the reference code


def loss(z: list[Tensor], local: list[Tensor], places: list[Geometry], num_matches: tuple[int, int]) -> dict:
    made = VICRegL(25.0, 25.0, 1.0, 0.75, num_matches)
    views = [{"projector": a, "dense_projector": b} for a, b in zip(z, local, strict=True)]
    return made(views, None, maps.batch(*places), loops.CLOCK)


def variance_by_loop(x: list[Tensor]) -> float:
    """Of rows of a batch: mean over dimensions of the hinge."""
    total = 0.0
    for d in range(len(x[0])):
        values = [float(row[d]) for row in x]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        total += max(0.0, 1 - math.sqrt(variance + 1e-4))
    return total / len(x[0])


def covariance_by_loop(x: list[Tensor]) -> float:
    n, dims = len(x), len(x[0])
    means = [sum(float(row[d]) for row in x) / n for d in range(dims)]
    total = 0.0
    for c in range(dims):
        for d in range(dims):
            if c != d:
                products = sum((float(row[c]) - means[c]) * (float(row[d]) - means[d]) for row in x)
                total += (products / (n - 1)) ** 2
    return total / dims


def pairs_by_loop(a: Tensor, b: Tensor, of_a: Geometry, of_b: Geometry, count: int, by_place: bool) -> list[list]:
    """The kept matches of each image, nearest first: [B][M] of rows of a and b."""
    found = []
    for i in range(len(a)):
        candidates = []
        for r, c in ((r, c) for r in range(a.shape[2]) for c in range(a.shape[3])):
            options = []
            for s, d in ((s, d) for s in range(b.shape[2]) for d in range(b.shape[3])):
                if by_place:
                    here, there = maps.place(of_a, i, r, c, *a.shape[2:]), maps.place(of_b, i, s, d, *b.shape[2:])
                    options.append((math.dist(here, there), (s, d)))
                else:
                    options.append((float((a[i, :, r, c] - b[i, :, s, d]).norm()), (s, d)))
            distance, (s, d) = min(options)
            candidates.append((distance, a[i, :, r, c], b[i, :, s, d]))
        candidates.sort(key=lambda item: item[0])
        found.append([item[1:] for item in candidates[:count]])
    return found


def loss_by_loop(z: list[Tensor], local: list[Tensor], places: list[Geometry], num_matches: tuple[int, int]) -> float:
    pairs = [(a, b) for a in range(len(z)) for b in range(len(z)) if a != b]
    whole = 25 * sum(float((z[a] - z[b]).square().mean()) for a, b in pairs) / len(pairs)
    whole += 25 * sum(variance_by_loop(list(x)) for x in z) / len(z)
    whole += sum(covariance_by_loop(list(x)) for x in z) / len(z)
    dense = 0.0
    for a, b in pairs:
        for by_place in (False, True):
            for (x, y), count in zip(((a, b), (b, a)), num_matches, strict=True):
                kept = pairs_by_loop(local[x], local[y], places[x], places[y], count, by_place)
                ranks = [[[match[side] for match in image] for image in kept] for side in range(2)]  # 2 x B x M
                squares = [float((u - v).square().mean()) for image in kept for u, v in image]
                dense += 25 * sum(squares) / len(squares) / 2 / len(pairs)
                for side in ranks:
                    by_rank = [[image[m] for image in side] for m in range(len(side[0]))]
                    dense += 25 * sum(map(variance_by_loop, by_rank)) / len(by_rank) / 2 / 2 / len(pairs)
                    dense += sum(map(covariance_by_loop, by_rank)) / len(by_rank) / 2 / 2 / len(pairs)
    return 0.75 * whole + 0.25 * dense


def test_golden() -> None:
    value = loss([mix_raw(0), mix_raw(1)], LOCAL, [WHOLE, MOVED], (3, 2))["loss"].item()
    assert value == pytest.approx(golden("vicregl: loss, global raw0 raw1, local maps, 3 and 2 matches, alpha .75"))


@pytest.mark.parametrize("num_matches", [(3, 2), (4, 9)])  # at most all are kept
def test_equals_the_loop(num_matches: tuple[int, int]) -> None:
    z = [maps.random_map(v, 4, 3) for v in range(2)]
    local = [0.8 * maps.random_map(2 + v, 4, 3, *size) for v, size in enumerate(((2, 2), (2, 3)))]
    places = [
        maps.cut(*boxes)
        for boxes in (
            [(0.02, 0.05, 0.61, 0.7), (0.13, 0.01, 0.78, 0.66), (0.69, 0.1, 0.04, 0.82), (0.3, 0.2, 0.97, 0.9)],
            [(0.17, 0.11, 0.8, 0.67), (0.93, 0.08, 0.27, 0.83), (0.85, 0.24, 0.1, 0.73), (0.05, 0.03, 0.74, 0.52)],
        )
    ]  # no two places equally far apart
    expected = loss_by_loop(z, local, places, num_matches)
    assert loss(z, local, places, num_matches)["loss"].item() == pytest.approx(expected, abs=1e-9)


def test_three_views_are_six_pairs() -> None:
    z = [maps.random_map(v, 4, 3) for v in range(3)]
    local = [maps.random_map(3 + v, 4, 3, 1, 2) for v in range(3)]
    places = [maps.cut(*[(0.1 * v + 0.01 * b, 0.0, 0.7 + 0.03 * v, 0.8) for b in range(4)]) for v in range(3)]
    expected = loss_by_loop(z, local, places, (1, 1))
    assert loss(z, local, places, (1, 1))["loss"].item() == pytest.approx(expected, abs=1e-9)


def test_gradient_reaches_both_sides_of_a_match() -> None:
    local = [x.clone().requires_grad_() for x in LOCAL]
    loss([mix_raw(0), mix_raw(1)], local, [WHOLE, MOVED], (1, 1))["loss"].backward()
    for x in local:
        assert x.grad is not None
        assert 0 < (x.grad.abs().sum(dim=1) > 0).double().mean() < 1  # of some positions, not of all
