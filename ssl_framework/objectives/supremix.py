"""SupReMix: Wu et al., Mixup Your Own Pairs (arXiv:2309.16633): supervised contrastive pretraining on numbers.

    L = mean_i mean_{p in P_i} -log( exp(z_i.p / tau) / sum_m w_im exp(z_i.m / tau) )

Positives P_i have the anchor's number: real embeddings, and mixtures of two whose numbers bracket it, with the share
that gives exactly its number (Mix-pos). Negatives have other numbers, and weigh more the farther these are,
w = |y_i - y_m| + 1: real embeddings, and mixtures of the anchor with one of them (Mix-neg).
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Natural, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows, rank
from ssl_framework.functional import by_tiles, full_precision, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


class Pairs(NamedTuple):
    """What N anchors' mixtures are made of: ``share`` of the first row and the rest of the second; S an anchor."""

    first: Tensor  # [N, S] int64 rows of the global batch, all views
    second: Tensor  # [N, S] int64
    share: Tensor  # [N, S] in [0, 1]
    absent: Tensor  # [N] bool: there is no such pair for this anchor


@guarded
class SupReMix(Objective):
    """The loss over all views, of which every one is an anchor.

    Args:
        temperature: tau.
        window: n, both numbers of a Mix-pos lie closer than this to the anchor's; in units of the label.
        beta: (a, b), the anchor's share in a Mix-neg is Beta(a, b).
        num_mix_pos, num_mix_neg: mixtures drawn for every anchor at every step; 0 for none.
        head: name of the student's head whose output is compared.

    Logs the share of anchors that have a Mix-pos.

    Raises:
        ValueError: a number out of its range.
    """

    requires = frozenset({"number"})
    num_views = (2, None)

    def __init__(
        self,
        temperature: Positive,
        window: Positive,
        beta: Annotated[Sequence[Positive], Len(2, 2)],
        num_mix_pos: Natural,
        num_mix_neg: Natural,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.window = window
        self.beta = beta
        self.num_mix_pos = num_mix_pos
        self.num_mix_neg = num_mix_neg
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        views = [unit(z) for z in outputs_of(student, self.head)]  # V x [B, D]
        # Sample by sample, so that the order of the global batch, and with it every draw, is that of one process.
        z = torch.stack(views, dim=1).flatten(0, 1)  # [N, D], N = B * V
        label = full_precision(batch.label).repeat_interleave(len(views))  # [N]
        labels = gather(label)  # [W * N]

        generator = clock.generator(z.device)

        def draws(count: int, num: int) -> list[Tensor]:
            uniform = torch.rand(count, len(labels), num, generator=generator, device=z.device)  # [count, W * N, num]
            return [own_rows(each) for each in uniform]  # count x [N, num]

        lower, upper = draws(2, self.num_mix_pos)  # [N, S] each
        (other,) = draws(1, self.num_mix_neg)  # [N, S]
        shape = (len(labels), self.num_mix_neg)
        gamma = [torch._standard_gamma(torch.full(shape, a, device=z.device), generator) for a in self.beta]
        share = own_rows(gamma[0] / (gamma[0] + gamma[1]).clamp(min=1e-12))  # [N, S]

        positive = bracketing(label, labels, self.window, lower, upper)
        negative = opposing(label, labels, share, other)
        loss = supremix(z, label, positive, negative, self.temperature)  # [N]
        return {"loss": loss.mean(), "bracketed": (~positive.absent).float().mean()}


def bracketing(label: Tensor, labels: Tensor, window: float, lower: Tensor, upper: Tensor) -> Pairs:
    """Mix-pos: one row with a smaller and one with a greater number, both closer than ``window`` to the anchor's.

    Args:
        label: [N] number of each anchor.
        labels: [M] number of each row of the global batch.
        window: n.
        lower, upper: [N, S] uniform draws in [0, 1), which row of those on either side.
    """
    order = labels.argsort(stable=True)  # [M]
    ordered = labels[order]  # [M]
    low, left = torch.searchsorted(ordered, label - window, right=True), torch.searchsorted(ordered, label)  # [N] each
    right, high = torch.searchsorted(ordered, label, right=True), torch.searchsorted(ordered, label + window)
    first = order[(low[:, None] + chosen(lower, left - low)).clamp(max=len(order) - 1)]  # [N, S]
    second = order[(right[:, None] + chosen(upper, high - right)).clamp(max=len(order) - 1)]  # [N, S]
    absent = (left <= low) | (high <= right)  # [N]
    gap = torch.where(absent[:, None], 1.0, labels[second] - labels[first])  # [N, S]
    return Pairs(first, second, (labels[second] - label[:, None]) / gap, absent)


def opposing(label: Tensor, labels: Tensor, share: Tensor, other: Tensor) -> Pairs:
    """Mix-neg: the anchor itself and a row with another number.

    Args:
        label: [N] number of each anchor of this rank.
        labels: [M] number of each row of the global batch.
        share: [N, S] of the anchor.
        other: [N, S] uniform draws in [0, 1), which row of those with another number.
    """
    order = labels.argsort(stable=True)  # [M]
    ordered = labels[order]  # [M]
    left, right = torch.searchsorted(ordered, label), torch.searchsorted(ordered, label, right=True)  # [N] each
    alike = right - left  # [N] rows with the anchor's number, itself included
    place = chosen(other, len(labels) - alike)  # [N, S] among the others
    place = torch.where(place < left[:, None], place, place + alike[:, None]).clamp(max=len(order) - 1)  # [N, S]
    own = rank() * len(label) + torch.arange(len(label), device=label.device)  # [N]
    return Pairs(own[:, None].expand_as(place), order[place], share.to(label.dtype), alike == len(labels))


def chosen(uniform: Tensor, count: Tensor) -> Tensor:
    """Whole numbers in 0..count-1 of draws [N, S] in [0, 1), all equally likely; count [N], 0 where there are none."""
    return torch.minimum((uniform * count[:, None]).long(), (count[:, None] - 1).clamp(min=0))  # [N, S]


def supremix(z: Tensor, label: Tensor, positive: Pairs, negative: Pairs, temperature: float) -> Tensor:
    """The loss of every anchor of this rank.

    Args:
        z: [N, D] unit rows of this rank, sample by sample, all views of a sample one after another.
        label: [N] number of each row.
        positive, negative: Mix-pos and Mix-neg of each anchor; constants, and not brought back to length one.
        temperature: tau.

    Returns:
        [N]; an anchor needs another row with its number, such as its other view.
    """
    keys, labels = gather_with_grad(z), gather(label)  # [W * N, D], [W * N]
    columns = torch.arange(len(labels), device=z.device)  # [W * N]

    def of_rows(keys: Tensor, z: Tensor, label: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = z @ keys.T / temperature  # [R, W * N]
        distance = (label[:, None] - labels).abs()  # [R, W * N], 0 and so of weight one for positives
        itself = own[:, None] == columns  # [R, W * N]
        alike = (distance == 0) & ~itself  # [R, W * N]
        every = (logits + distance.log1p()).masked_fill(itself, float("-inf")).logsumexp(dim=1)  # [R]
        return every, (logits * alike).sum(dim=1), alike.sum(dim=1)  # [R] each

    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]
    real, attraction, count = by_tiles(of_rows, keys, z, label, own)  # [N] each

    def mixed(pairs: Pairs) -> tuple[Tensor, Tensor]:
        constant, share = keys.detach(), pairs.share.to(z.dtype)[..., None]  # [W * N, D], [N, S, 1]
        mixture = share * constant[pairs.first] + (1 - share) * constant[pairs.second]  # [N, S, D]
        number = pairs.share * labels[pairs.first] + (1 - pairs.share) * labels[pairs.second]  # [N, S]
        return torch.einsum("nd,nsd->ns", z, mixture) / temperature, (label[:, None] - number).abs()  # [N, S] each

    (near, _), (far, distance) = mixed(positive), mixed(negative)  # [N, S] each
    candidates = [
        real[:, None],  # [N, 1]
        near.masked_fill(positive.absent[:, None], float("-inf")),  # [N, S]
        (far + distance.log1p()).masked_fill(negative.absent[:, None], float("-inf")),  # [N, S]
    ]
    denominator = torch.cat(candidates, dim=1).logsumexp(dim=1)  # [N]
    present = (~positive.absent).to(z.dtype)  # [N]
    attraction = attraction + present * near.sum(dim=1)  # [N]
    return denominator - attraction / (count + present * near.shape[1]).clamp(min=1)  # [N]
