import math

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.groco import GroCo, soft_sort
from tests.golden import core_view, golden
from tests.objectives import loops


def loss(objective: GroCo, *views: Tensor) -> Tensor:
    return objective(loops.outputs(*views), None, loops.batch(len(views[0])), loops.CLOCK)["loss"]


def sort_by_loop(values: list[float], steepness: float) -> tuple[list[float], list[list[float]]]:
    """The network, pair by pair."""
    n, x = len(values), list(values)
    share = [[float(i == j) for j in range(n)] for i in range(n)]
    for layer in range(n):
        for a in range(layer % 2, n - 1, 2):
            alpha = math.atan(steepness * (x[a + 1] - x[a])) / math.pi + 0.5
            for row in [x, *share]:
                left, right = row[a], row[a + 1]
                row[a], row[a + 1] = alpha * left + (1 - alpha) * right, (1 - alpha) * left + alpha * right
    return x, share


def loss_by_loop(views: list[Tensor], steepness: float, k: int, num_positive_views: int) -> float:
    """Both binary cross-entropies, item by item."""
    total, n = 0.0, len(views[0])
    for v, view in enumerate(views):
        for i in range(n):
            positives = sorted(loops.dot(view[i], views[u][i]) for u in range(num_positive_views) if u != v)
            negatives = sorted(loops.dot(view[i], view[j]) for j in range(n) if j != i)[-k:]
            _, share = sort_by_loop(negatives + positives, steepness)
            for item, row in enumerate(share):
                p_neg, p_pos, t = sum(row[:k]), sum(row[k:]), float(item >= k)
                of_positives = -t * math.log(p_pos) - (1 - t) * math.log(1 - p_pos)
                of_negatives = -(1 - t) * math.log(p_neg) - t * math.log(1 - p_neg)
                total += (of_positives + of_negatives) / 2 / len(share) / n / len(views)
    return total


def test_golden_network() -> None:
    x, share = soft_sort(torch.tensor([[0.1, -0.3, 0.5, 0.2]], dtype=torch.float64), 1.0)
    assert x[0].tolist() == pytest.approx(golden("groco: odd-even network output for x = [.1,-.3,.5,.2]"), abs=1e-7)
    assert share[0, 0].tolist() == pytest.approx(
        golden("groco: row of the permutation matrix of item 0 (.1)"), abs=1e-7
    )


@pytest.mark.parametrize("steepness", [1, 10])
@pytest.mark.parametrize("num_views", [2, 3])
def test_golden(num_views: int, steepness: int) -> None:
    value = loss(GroCo(steepness, 3, None, True), *(core_view(v, n=8) for v in range(num_views))).item()
    name = f"groco: loss, {num_views} views, core fixture with n=8 [steepness={steepness}]"
    assert value == pytest.approx(golden(name), abs=1e-7)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_the_network_equals_the_loop(size: int) -> None:
    x = loops.random_unit(4, size, 0)
    values, share = soft_sort(x, 3.0)
    for row, value, matrix in zip(x.tolist(), values, share, strict=True):
        expected = sort_by_loop(row, 3.0)
        assert value.tolist() == pytest.approx(expected[0], abs=1e-12)
        torch.testing.assert_close(matrix, torch.tensor(expected[1], dtype=torch.float64))
    for dim in (1, 2):
        torch.testing.assert_close(share.sum(dim=dim), torch.ones(4, size, dtype=torch.float64))


def test_a_steep_network_sorts() -> None:
    x = loops.random_unit(4, 7, 0)
    torch.testing.assert_close(soft_sort(x, 1e9)[0], x.sort(dim=1).values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("num_views", "positive_views"), [(2, None), (4, None), (5, 2), (3, 3)])
def test_equals_the_loop(num_views: int, positive_views: int | None) -> None:
    """Also with small crops: anchors against both large ones, never positives."""
    views = [loops.random_unit(6, 5, v) for v in range(num_views)]
    expected = loss_by_loop(views, 2.0, 4, positive_views or num_views)
    assert loss(GroCo(2.0, 4, positive_views, True), *views).item() == pytest.approx(expected, abs=1e-10)


def test_only_the_anchor_is_moved_unless_said_otherwise() -> None:
    """The gradient by differences of a loss whose anchors and candidates are told apart."""
    z = [core_view(v) for v in range(2)]

    def difference(moved: Tensor, stop: bool) -> float:
        """Central difference as view 0 moves, as anchor only or as anchor and candidate."""
        values = []
        for sign in (1, -1):
            shifted = z[0] + sign * 1e-6 * moved
            shifted = shifted / shifted.norm(dim=1, keepdim=True)
            candidates = z if stop else [shifted, z[1]]
            total = 0.0
            for v, anchors in enumerate([shifted, z[1]]):
                for i, anchor in enumerate(anchors):
                    positive = loops.dot(anchor, candidates[1 - v][i])
                    negatives = sorted(loops.dot(anchor, x) for j, x in enumerate(candidates[v]) if j != i)[-3:]
                    _, share = sort_by_loop([*negatives, positive], 1.0)
                    own = [sum(row[:3]) if item < 3 else sum(row[3:]) for item, row in enumerate(share)]
                    total -= sum(map(math.log, own)) / 4 / 6 / 2
            values.append(total)
        return (values[0] - values[1]) / 2e-6

    moved = loops.random_unit(6, 4, 3)
    for stop in (True, False):
        views = [core_view(v).requires_grad_() for v in range(2)]
        loss(GroCo(1.0, 3, None, stop), *views).backward()
        assert (views[0].grad * moved).sum().item() == pytest.approx(difference(moved, stop), abs=1e-7)
    assert abs(difference(moved, True) - difference(moved, False)) > 1e-3


def test_invariances_and_closed_case() -> None:
    loops.assert_invariant(lambda a, b: loss(GroCo(1.0, 3, None, True), a, b))
    same = torch.ones(4, 3, dtype=torch.float64)
    # All equal: every swap is even. Two items end at either rank with one half.
    assert loss(GroCo(1.0, 1, None, True), same, same).item() == pytest.approx(math.log(2), abs=1e-12)


def test_separated_groups_approach_zero_as_swaps_become_hard() -> None:
    z = torch.eye(4, dtype=torch.float64)
    assert loss(GroCo(1e6, 2, None, True), z, z).item() < 1e-5
    logged = GroCo(1.0, 2, None, True)(loops.outputs(z, z), None, loops.batch(4), loops.CLOCK)
    assert logged["proxy_accuracy"].item() == 1
    swapped = [z, z.roll(1, dims=0)]
    logged = GroCo(1.0, 2, None, True)(loops.outputs(*swapped), None, loops.batch(4), loops.CLOCK)
    assert logged["proxy_accuracy"].item() == 0


def test_refused_settings() -> None:
    with pytest.raises(ValueError, match="steepness is 0: it must be above 0"):
        GroCo(0, 3, None, True)
    with pytest.raises(ValueError, match="num_negatives is 0: it must be at least 1"):
        GroCo(1.0, 0, None, True)
    with pytest.raises(ValueError, match="num_positive_views is 1: it must be at least 2, or null"):
        GroCo(1.0, 3, 1, True)
    with pytest.raises(ValueError, match=r"num_positive_views is 3, but the student encodes only 2 views"):
        loss(GroCo(1.0, 3, 3, True), core_view(0), core_view(1))
    with pytest.raises(ValueError, match=r"num_negatives is 6, but a sample of the global batch has only 5 others"):
        loss(GroCo(1.0, 6, None, True), core_view(0), core_view(1))
