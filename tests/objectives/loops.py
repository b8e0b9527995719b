"""Loop-written references, straight from the papers' formulas, and the invariances every similarity loss has."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssl_framework.types import Batch, Clock

CLOCK = Clock(step=7, epoch=1, total_steps=10)


def random_unit(n: int, d: int, seed: int) -> Tensor:
    """[n, d] float64 unit rows."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def batch(n: int, label: Tensor | None = None) -> Batch:
    """A batch that carries indices and labels only."""
    return Batch(views=[], index=torch.arange(n), label=label)


def outputs(*views: Tensor, head: str = "projector") -> list:
    """Encoder outputs of the given embeddings, one entry a view."""
    return [{head: view} for view in views]


def log_sum_exp(values: list[float]) -> float:
    """log of the sum of exponentials, by a loop."""
    return math.log(sum(math.exp(v) for v in values))


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two rows."""
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def nt_xent(z0: Tensor, z1: Tensor, tau: float) -> float:
    """Mean over the 2N anchors of -s+/tau + log sum over the other 2N - 1."""
    z, n = [*z0, *z1], len(z0)
    total = 0.0
    for a in range(2 * n):
        others = [dot(z[a], z[j]) / tau for j in range(2 * n) if j != a]
        total += log_sum_exp(others) - dot(z[a], z[(a + n) % (2 * n)]) / tau
    return total / (2 * n)


def dcl(z0: Tensor, z1: Tensor, tau: float, sigma: float | None) -> float:
    """Mean of both directions; 2(N - 1) negatives."""
    n, total = len(z0), 0.0
    weights = [1.0] * n
    if sigma is not None:
        e = [math.exp(dot(z0[i], z1[i]) / sigma) for i in range(n)]
        weights = [2 - e[i] / (sum(e) / n) for i in range(n)]
    for a, b in ((z0, z1), (z1, z0)):
        for i in range(n):
            negatives = [dot(a[i], x[j]) / tau for j in range(n) if j != i for x in (a, b)]
            total += log_sum_exp(negatives) - weights[i] * dot(a[i], b[i]) / tau
    return total / (2 * n)


def supcon(z: Tensor, label: list[int], tau: float) -> float:
    """Mean over anchors with a positive of the mean over positives."""
    per_anchor = []
    for a in range(len(z)):
        positives = [p for p in range(len(z)) if p != a and label[p] == label[a]]
        denominator = log_sum_exp([dot(z[a], z[j]) / tau for j in range(len(z)) if j != a])
        if positives:
            per_anchor.append(sum(denominator - dot(z[a], z[p]) / tau for p in positives) / len(positives))
    return sum(per_anchor) / len(per_anchor)


def moco(
    q: Tensor, k: Tensor, queue: Tensor, tau: float, extra: Tensor | None = None, decoupled: bool = False
) -> float:
    """Mean over queries; ``extra`` [N, S, D] are negatives of each query's own."""
    total = 0.0
    for i in range(len(q)):
        positive = dot(q[i], k[i]) / tau
        negatives = [dot(q[i], row) / tau for row in queue]
        negatives += [] if extra is None else [dot(q[i], row) / tau for row in extra[i]]
        total += log_sum_exp(negatives if decoupled else [positive, *negatives]) - positive
    return total / len(q)


def assert_invariant(loss: Callable[[Tensor, Tensor], Tensor], n: int = 6, d: int = 4) -> None:
    """The loss of two views does not change under a permutation of the batch or a rotation of the embedding."""
    z0, z1 = random_unit(n, d, 1), random_unit(n, d, 2)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    rotation = torch.linalg.qr(random_unit(d, d, 4)).Q
    expected = loss(z0, z1)
    torch.testing.assert_close(loss(z0[order], z1[order]), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss(z0 @ rotation, z1 @ rotation), expected, rtol=1e-10, atol=1e-10)
