"""The tiled softmax core equals the dense formula in value and gradient, for every kind of target, and stays small."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssl_framework import functional
from ssl_framework.functional import Mixture, SameClass, class_sums, kmeans, log_sum_exp, nce, unit
from tests.objectives import loops

N, M, D = 7, 9, 5
OWN = torch.arange(N)
CLASS = torch.tensor([0, 1, 0, 2, 1, 0, 3, 0, 1])
SPARSE = Mixture(torch.tensor([[i, (i + 2) % M] for i in range(N)]), torch.tensor([[0.25, 0.75]] * N))


def soft() -> Tensor:
    """[N, M] row-stochastic."""
    return torch.rand(N, M, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(dim=1)


def matrix(targets: functional.Targets) -> Tensor:
    """Any targets as [N, M], written by loops."""
    if isinstance(targets, Tensor) and targets.ndim == 2:
        return targets
    full = torch.zeros(N, M, dtype=torch.float64)
    for i in range(N):
        if isinstance(targets, Tensor):
            full[i, targets[i]] = 1
        elif isinstance(targets, Mixture):
            for column, share in zip(targets.columns[i], targets.share[i], strict=True):
                full[i, column] = share
        else:
            same = [j for j in range(M) if targets.key[j] == targets.anchor[i] and j != targets.own[i]]
            for j in same:
                full[i, j] = 1 / len(same)
    return full


def dense(q: Tensor, k: Tensor, targets: Tensor, tau: Tensor, mask: Tensor) -> Tensor:
    """The formula with all [N, M] similarities at once."""
    logits = q @ k.T / tau[:, None]
    return logits.masked_fill(mask, float("-inf")).logsumexp(dim=1) - (targets.to(q.dtype) * logits).sum(dim=1)


KINDS: dict[str, Callable[[], functional.Targets]] = {
    "identity": lambda: (OWN + 1) % M,
    "labels": lambda: SameClass(CLASS[:N], CLASS, OWN),
    "mixture": lambda: SPARSE,
    "matrix": soft,
}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("in_denominator", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tiled_equals_dense(
    kind: str, in_denominator: bool, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, full = KINDS[kind](), matrix(KINDS[kind]())
    mask = torch.zeros(N, M, dtype=torch.bool)
    mask[OWN, OWN] = True
    if not in_denominator:
        positive = full > 0
        if isinstance(targets, Tensor) and targets.ndim == 2:  # all columns are positive: keep one in the denominator
            targets = full = torch.where(torch.arange(M) == 8, 0.0, full)
            positive = full > 0
        mask |= positive
    weight = torch.linspace(0.5, 2, N, dtype=dtype)  # gradients that differ between anchors
    results = []
    for tile in (None, 2 * M):
        q, k = (loops.random_unit(n, D, seed).to(dtype).requires_grad_() for seed, n in enumerate((N, M)))
        tau = torch.linspace(0.1, 0.9, N, dtype=dtype).requires_grad_()
        if tile is None:
            loss = dense(q, k, full, tau, mask)
        else:
            monkeypatch.setattr(functional, "TILE", tile)
            loss = nce(q, k, targets, tau, exclude=OWN, positive_in_denominator=in_denominator)
        (weight * loss).sum().backward()
        results.append((loss, q.grad, k.grad, tau.grad))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("exclude", [OWN, OWN[:, None], torch.eye(N, M, dtype=torch.bool)])
def test_columns_and_masks_exclude_alike(exclude: Tensor) -> None:
    q, k = loops.random_unit(N, D, 0), loops.random_unit(M, D, 1)
    got = nce(q, k, OWN, 0.3, exclude=exclude)
    for i in range(N):
        logits = [loops.dot(q[i], k[j]) / 0.3 for j in range(M)]
        expected = loops.log_sum_exp([s for j, s in enumerate(logits) if j != i]) - logits[i]
        assert got[i].item() == pytest.approx(expected, abs=1e-12)


def test_never_more_than_a_tile_of_similarities_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, original = [], functional.similarities

    def noted(*arguments: object) -> Tensor:
        logits = original(*arguments)  # type: ignore[arg-type]
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(functional, "similarities", noted)
    monkeypatch.setattr(functional, "TILE", 4096)
    z = torch.nn.functional.normalize(torch.randn(1000, 8), dim=1).requires_grad_()
    nce(z, z, torch.arange(1000).roll(500), 0.2, exclude=torch.arange(1000)).mean().backward()
    assert max(sizes) == 4000 and len(sizes) == 2 * 250  # four anchors at a time, forward and backward


def test_largest_term_and_a_row_without_columns() -> None:
    q, k = loops.random_unit(3, D, 0), loops.random_unit(4, D, 1)
    everything = torch.zeros(3, 4, dtype=torch.bool)
    everything[1] = True
    sums, largest = log_sum_exp(q, k, 0.5, [everything])
    assert sums[1].item() == largest[1].item() == float("-inf")
    torch.testing.assert_close(largest[0], (q[0] @ k.T / 0.5).max())
    assert not largest.requires_grad


def test_one_temperature_as_a_tensor_gets_the_gradient_of_all_anchors() -> None:
    q, k = loops.random_unit(N, D, 0), loops.random_unit(M, D, 1)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: nce(q, k, OWN, t), (tau,))


def test_class_sums_equal_a_loop() -> None:
    rows = loops.random_unit(M, D, 0).float()
    wanted = torch.tensor([2, 0, 5])
    total, count = class_sums(rows, CLASS, wanted)
    assert count.tolist() == [1, 4, 0]
    for i, c in enumerate(wanted):
        torch.testing.assert_close(total[i], rows[c == CLASS].sum(dim=0))


def test_hardest_in_tiles_equals_one_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    q, rows = loops.random_unit(N, D, 0), loops.random_unit(M, D, 1)
    expected = (q @ rows.T).argsort(dim=1, descending=True)[:, :4]
    monkeypatch.setattr(functional, "TILE", 2 * M)
    assert torch.equal(functional.hardest(q, rows, 4)[0], expected)


def lloyd(rows: Tensor, centres: Tensor, iterations: int, spherical: bool) -> tuple[Tensor, list[int]]:
    """k-means by loops: all rows choose, then all centres move, then all rows choose."""
    centres = [c.clone() for c in centres]  # type: ignore[assignment]
    for round_ in range(iterations + 1):
        distances = [[float((x - c).norm()) for c in centres] for x in rows]
        assigned = [row.index(min(row)) for row in distances]
        for k in range(len(centres) if round_ < iterations else 0):
            members = [x for x, own in zip(rows, assigned, strict=True) if own == k]
            if members:
                mean = sum(members) / len(members)
                centres[k] = mean / mean.norm() if spherical else mean  # type: ignore[index]
    return torch.stack(list(centres)), assigned


@pytest.mark.parametrize("spherical", [True, False])
def test_kmeans_equals_the_loop_and_is_the_same_for_the_same_generator(
    spherical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = loops.random_unit(40, 3, 0)
    first = rows[torch.randperm(40, generator=torch.Generator().manual_seed(1))[:5]]
    found = kmeans(rows, 5, 4, spherical, torch.Generator().manual_seed(1))
    centres, assigned = lloyd(rows, first, 4, spherical)
    torch.testing.assert_close(found.centres, centres)
    assert found.assigned.tolist() == assigned
    monkeypatch.setattr(functional, "TILE", 15)
    tiled = kmeans(rows, 5, 4, spherical, torch.Generator().manual_seed(1))
    torch.testing.assert_close(tiled.centres, centres)


def test_kmeans_of_fewer_rows_than_clusters_and_of_equal_rows() -> None:
    rows = loops.random_unit(3, 4, 0)
    found = kmeans(rows, 7, 3, True, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.centres[found.assigned], rows)
    same = unit(torch.ones(6, 4))
    found = kmeans(same, 2, 3, True, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.centres, same[:2])
    assert found.assigned.unique().numel() == 1
