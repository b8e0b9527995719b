"""Who is mixed with whom: every rule gives each sample its partners. All but ``LabelKernel`` take each sample equally
often."""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.functional import full_precision
from ssl_framework.mixers.base import Context, uniform
from ssl_framework.types import Batch


class Shuffle:
    """A random permutation; now and then a sample is its own partner and stays unmixed."""

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, 1] int64."""
        return permutation(batch, context)[:, None]


@guarded
class Shuffles:
    """Several random permutations (InputMix): several partners; a partner may come twice, or be the sample itself.

    Args:
        num: partners of a sample, P - 1; at least 1.
    """

    def __init__(self, num: Count) -> None:
        self.num = num

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, P - 1] int64."""
        return torch.stack([permutation(batch, context) for _ in range(self.num)], dim=1)


class Others:
    """A random permutation in one cycle: with two samples or more nobody is its own partner."""

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, 1] int64."""
        order = permutation(batch, context)  # [B]
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)
        return partner[:, None]


class Reversed:
    """The batch backwards (Un-Mix); in a batch of odd size the middle sample stays unmixed."""

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, 1] int64."""
        return torch.arange(len(batch.index), device=batch.index.device).flip(0)[:, None]


@guarded
class Following:
    """The samples that come next in the batch, and after the last the first (PatchMix): several partners.

    Args:
        num: partners of a sample, P - 1; at least 1.
    """

    def __init__(self, num: Count) -> None:
        self.num = num

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, P - 1] int64."""
        count, device = len(batch.index), batch.index.device
        steps = torch.arange(1, self.num + 1, device=device)  # [P - 1]
        return (torch.arange(count, device=device)[:, None] + steps) % count  # [B, P - 1]


@guarded
class LabelKernel:
    """A partner whose number is near (C-Mixup, arXiv:2210.05775): j for i with a probability proportional to
    ``exp(-(y_i - y_j)^2 / (2 bandwidth^2))``, i itself included, among the samples of this rank's batch.

    Args:
        bandwidth: sigma, in units of the label; above 0.
    """

    def __init__(self, bandwidth: Positive) -> None:
        self.bandwidth = bandwidth

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, 1] int64.

        Raises:
            ValueError: the samples have no labels.
        """
        if context.label is None:
            raise ValueError(
                "mixer.partners goes by labels, but the training set has none: choose mixer=mixup, or data with labels"
            )
        reached = self.probability(context.label).cumsum(dim=1)  # [B, B]
        draw = uniform((len(reached), 1), reached, context.generator)  # [B, 1]
        # The first partner whose running sum lies beyond the draw; rounding may leave the last sum just below one.
        return (reached <= draw).sum(dim=1, keepdim=True).clamp(max=len(reached) - 1)  # [B, 1]

    def probability(self, label: Tensor) -> Tensor:
        """Numbers or ordered classes [B] -> [B, B], rows sum to one: how likely each partner is."""
        number = full_precision(label)  # [B]
        return (-(number[:, None] - number).square() / (2 * self.bandwidth**2)).softmax(dim=1)  # [B, B]


def permutation(batch: Batch, context: Context) -> Tensor:
    """0 .. B - 1 in random order, drawn on the generator's device, if there is one."""
    device = batch.views[0].device
    where = device if context.generator is None else context.generator.device
    return torch.randperm(len(batch.index), generator=context.generator, device=where).to(device)
