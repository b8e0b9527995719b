"""AMCL: Wang et al., Adaptive Multi-head Contrastive Learning, ECCV 2024 (arXiv:2310.05615), table 2 and eq. 3.

Several projection heads each give a similarity of a pair and a small network its temperature; a likelihood's
regulariser Omega keeps temperatures from running away, with the opposite sign for negatives. The losses of SimCLR,
MoCo and Barlow Twins are rewritten with them and summed over the heads.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import by_tiles, hardest, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.barlow_twins import cross_correlation, standardised
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class PairTemperature(nn.Module):
    """Temperature of a pair, ``low + (up - low) sigmoid(bias - phi(a) . phi(b))``: the more alike, the lower.

    Args:
        dim: length of ``a`` and ``b``.
        hidden: width of phi, a perceptron of one hidden layer.
        low: tau_low. Losses fall without bound as tau goes to 0, so it decides their scale.
        up: tau_up.
        init: the temperature where phi is zero, about that of all pairs at the start. It sets the trained bias,
            which the paper does not have.
    """

    def __init__(self, dim: Count, hidden: Count, low: Positive, up: Positive, init: Positive) -> None:
        super().__init__()
        if not 0 < low < up:
            raise ValueError(f"objective.temperature.low is {low} and up is {up}: it takes 0 < low < up")
        if not low < init < up:
            raise ValueError(f"objective.temperature.init is {init}: it must lie between low={low} and up={up}")
        self.dim = dim
        self.low = low
        self.up = up
        self.phi = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        self.bias = nn.Parameter(torch.tensor(math.log((init - low) / (up - init))))

    def forward(self, score: Tensor) -> Tensor:
        """Inner products phi(a) . phi(b) of any shape -> temperatures, between ``low`` and ``up``."""
        return self.bounded(self.bias - score)

    def bounded(self, logit: Tensor) -> Tensor:
        """Any numbers -> temperatures, without a parameter."""
        return self.low + (self.up - self.low) * torch.sigmoid(logit)

    def at_bound(self, tau: Tensor) -> Tensor:
        """One for temperatures within a hundredth of the range from either bound, else zero; of the same shape."""
        near = 0.01 * (self.up - self.low)
        return ((tau < self.low + near) | (tau > self.up - near)).to(tau.dtype)


@guarded
class AMCL(Objective):
    """AMCL on SimCLR.

    Args:
        heads: names of the student's C heads.
        temperature: of pairs, shared by the heads.
        beta: weight of the regulariser.
        num_hard: so many of the most similar negatives count, on average (the paper's loss has one, its code 100);
            ``None``: all within a softmax, each over its own temperature.
    """

    def __init__(
        self, heads: Sequence[str], temperature: PairTemperature, beta: NonNegative, num_hard: Count | None
    ) -> None:
        super().__init__()
        check_heads(heads)
        self.heads = list(heads)
        self.reads = tuple(heads)
        self.temperature = temperature
        self.beta = beta
        self.num_hard = num_hard

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        return summary([self.of_head(*map(unit, outputs_of(student, head))) for head in self.heads])

    def of_head(self, z0: Tensor, z1: Tensor) -> Tensor:
        """[B, D] of each view -> [4], as ``contrast``."""
        z, positive = torch.cat([z0, z1]), torch.cat([z1, z0])  # [2B, D] each
        keys = gather_with_grad(z)  # [W * 2B, D]
        check_count(self.num_hard, len(keys) - 2)
        own = torch.arange(len(z), device=z.device)  # [2B]
        sample = rank() * len(z) + torch.stack([own, own.roll(len(z0))], dim=1)  # [2B, 2]: both views of the anchor
        return contrast(z, positive, keys, sample, self.temperature, self.beta, self.num_hard)


@guarded
class AMCLMoCo(Objective):
    """AMCL on MoCo, with a queue for every head.

    Args:
        heads: names of the C heads of student and teacher.
        temperature: of pairs, shared by the heads.
        beta: weight of the regulariser.
        num_hard: so many of the most similar negatives count, on average (the paper's loss has one, its code 100);
            ``None``: all within a softmax, each over its own temperature.
        queue: builds the memory of a head.
    """

    requires = frozenset({"teacher"})
    num_views = (1, 1)  # queries; and as many keys

    def __init__(
        self,
        heads: Sequence[str],
        temperature: PairTemperature,
        beta: NonNegative,
        num_hard: Count | None,
        queue: Callable[[], Queue],
    ) -> None:
        super().__init__()
        check_heads(heads)
        queues = {head: queue() for head in heads}
        check_count(num_hard, min(memory.size for memory in queues.values()))
        self.queues = nn.ModuleDict(queues)
        self.reads = self.teacher_reads = tuple(heads)
        self.temperature = temperature
        self.beta = beta
        self.num_hard = num_hard

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        rows = []
        for head, queue in self.queues.items():
            assert isinstance(queue, Queue)
            (q,) = map(unit, outputs_of(student, head))  # [B, D]
            (k,) = map(unit, outputs_of(teacher, head))  # [B, D]
            none = torch.empty(len(q), 0, dtype=torch.long, device=q.device)  # [B, 0]: every row of the queue counts
            rows.append(contrast(q, k, queue.read(), none, self.temperature, self.beta, self.num_hard))
            queue.push(k)
        return summary(rows)


@guarded
class AMCLBarlow(Objective):
    """AMCL on Barlow Twins: a temperature for every entry of the cross-correlation matrix.

    The authors' phi maps the N values that a column has in the batch at once, which ties it to the batch's size and
    order. Here it maps one value, and a pair's inner product is the mean over the batch: any batch, in any order.

    Args:
        heads: names of the student's C heads.
        temperature: of pairs of columns, with ``dim: 1``, shared by the heads.
        beta: weight of the regulariser.
        off_diagonal_weight: lambda, the weight of every entry off the diagonal.
        scale: factor of the whole loss, which the paper does not have.
    """

    def __init__(
        self,
        heads: Sequence[str],
        temperature: PairTemperature,
        beta: NonNegative,
        off_diagonal_weight: NonNegative,
        scale: Positive,
    ) -> None:
        super().__init__()
        check_heads(heads)
        if temperature.dim != 1:
            raise ValueError(f"objective.temperature.dim is {temperature.dim}: for Barlow Twins it must be 1")
        self.heads = list(heads)
        self.reads = tuple(heads)
        self.temperature = temperature
        self.beta = beta
        self.off_diagonal_weight = off_diagonal_weight
        self.scale = scale

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        losses = summary([self.of_head(*map(standardised, outputs_of(student, head))) for head in self.heads])
        return {**losses, "loss": self.scale * losses["loss"]}

    def of_head(self, a: Tensor, b: Tensor) -> Tensor:
        """Standardised columns [W * B, D] of each view -> [4], as ``contrast``."""
        dim, phi = a.shape[1], self.temperature.phi
        tau = self.temperature(cross_correlation(phi(a[..., None])[..., 0], phi(b[..., None])[..., 0]))  # [D, D]
        correlation, regulariser = cross_correlation(a, b), self.beta * omega(tau, dim)  # [D, D] each
        diagonal = torch.eye(dim, dtype=torch.bool, device=a.device)  # [D, D]
        agree = (1 - correlation / tau).square() + regulariser  # [D, D]
        apart = self.off_diagonal_weight * correlation.square() / tau - regulariser  # [D, D]
        loss = torch.where(diagonal, agree, apart).sum()
        positive = tau.detach().diagonal()  # [D]
        negative = (tau.detach().sum() - positive.sum()) / max(1, dim * (dim - 1))
        return torch.stack([loss, positive.mean(), negative, self.temperature.at_bound(tau).mean()])  # [4]


def contrast(
    anchor: Tensor,
    positive: Tensor,
    keys: Tensor,
    left_out: Tensor,
    temperature: PairTemperature,
    beta: float,
    num_hard: int | None,
) -> Tensor:
    """One head's loss of SimCLR and MoCo: every pair's similarity over its own temperature.

    ``-(s+ / tau+ - beta Omega(tau+)) + mean over the hardest negatives of (s / tau - beta Omega(tau))``, or, as a
    softmax, ``-s+ / tau+ + log sum exp(s / tau) + beta (Omega(tau+) - mean Omega(tau))`` with the positive in the sum.

    Args:
        anchor: [N, D] unit rows.
        positive: [N, D] unit rows.
        keys: [M, D] unit rows.
        left_out: [N, E] int64, the keys that are no negatives of an anchor.
        temperature: of pairs.
        beta: weight of the regulariser.
        num_hard: how many of the most similar negatives count, or ``None`` for the softmax.

    Returns:
        [4], means over anchors: the loss, the temperatures of positives and of the negatives that count, and the
        share of both that is at a bound.
    """
    dim, phi = anchor.shape[1], temperature.phi
    f = phi(anchor)  # [N, D]
    tau = temperature((f * phi(positive)).sum(dim=1))  # [N]
    attraction = (anchor * positive).sum(dim=1) / tau  # [N]
    if num_hard is not None:
        negatives = keys[hardest(anchor, keys, num_hard, [left_out])[0]]  # [N, num_hard, D]
        cold = temperature((f[:, None] * phi(negatives)).sum(dim=2))  # [N, num_hard]
        similarity = (anchor[:, None] * negatives).sum(dim=2)  # [N, num_hard]
        repulsion = (similarity / cold).mean(dim=1)  # [N]
        rows = torch.stack([omega(cold, dim), cold, temperature.at_bound(cold)], dim=2).mean(dim=1)  # [N, 3]
    else:
        bias = temperature.bias.expand(len(keys), 1)  # [M, 1]; a tile may read only what it is given

        def part(columns: Tensor, anchor: Tensor, f: Tensor, left_out: Tensor) -> tuple[Tensor]:
            keys, g, bias = columns.split([dim, dim, 1], dim=1)  # [M, D], [M, D], [M, 1]
            cold = temperature.bounded(bias.T - f @ g.T)  # [R, M]
            logits = (anchor @ keys.T / cold).scatter(1, left_out, float("-inf"))  # [R, M]
            counts = torch.ones_like(logits).scatter(1, left_out, 0.0)  # [R, M]
            values = torch.stack([omega(cold, dim), cold, temperature.at_bound(cold)], dim=2)  # [R, M, 3]
            means = torch.einsum("rm,rmc->rc", counts / counts.sum(dim=1, keepdim=True), values)  # [R, 3]
            return (torch.cat([logits.logsumexp(dim=1, keepdim=True), means], dim=1),)  # [R, 4]

        (found,) = by_tiles(part, torch.cat([keys, phi(keys), bias], dim=1), anchor, f, left_out)  # [N, 4]
        sums, rows = found.split([1, 3], dim=1)  # [N, 1], [N, 3]
        repulsion = torch.logaddexp(sums[:, 0], attraction)  # [N]
    loss = repulsion - attraction + beta * (omega(tau, dim) - rows[:, 0])  # [N]
    bound = (temperature.at_bound(tau) + rows[:, 2]) / 2  # [N]
    return torch.stack([loss, tau, rows[:, 1], bound], dim=1).mean(dim=0)  # [4]


def omega(tau: Tensor, dim: int) -> Tensor:
    """The regulariser ``dim / 2 log tau + 1 / tau``: of a Gaussian of ``dim`` dimensions with variance tau."""
    return dim / 2 * tau.log() + 1 / tau


def summary(heads: list[Tensor]) -> dict[str, Tensor]:
    """C x [4] -> the loss, summed over heads, and their mean of the rest."""
    loss = torch.stack([values[0] for values in heads]).sum()
    positive, negative, bound = torch.stack([values[1:].detach() for values in heads]).mean(dim=0)
    return {
        "loss": loss,
        "temperature_positive": positive,
        "temperature_negative": negative,
        "share_at_bound": bound,
    }


def check_heads(heads: Sequence[str]) -> None:
    """ValueError, naming the config key, if there are none."""
    if not heads:
        raise ValueError("objective.heads is empty: name at least one of student.heads")


def check_count(num_hard: int | None, available: int) -> None:
    """ValueError if more negatives are to count than there are."""
    if num_hard is not None and num_hard > available:
        raise ValueError(
            f"objective.num_hard is {num_hard}, but there are only {available} negatives: lower it, or raise "
            "data.batch_size (SimCLR) or objective.queue.size (MoCo)"
        )
