"""Who is mixed with whom: every rule gives each sample its partners and takes each sample equally often."""

import torch
from torch import Tensor

from ssl_framework.mixers.mixing import Context
from ssl_framework.types import Batch


class Shuffle:
    """A random permutation; now and then a sample is its own partner and stays unmixed."""

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, 1] int64."""
        return permutation(batch, context)[:, None]


class Shuffles:
    """Several random permutations (InputMix): several partners; a partner may come twice, or be the sample itself.

    Args:
        num: partners of a sample, P - 1; at least 1.
    """

    def __init__(self, num: int) -> None:
        self.num = at_least_one(num)

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


class Following:
    """The samples that come next in the batch, and after the last the first (PatchMix): several partners.

    Args:
        num: partners of a sample, P - 1; at least 1.
    """

    def __init__(self, num: int) -> None:
        self.num = at_least_one(num)

    def __call__(self, batch: Batch, context: Context) -> Tensor:
        """[B, P - 1] int64."""
        count, device = len(batch.index), batch.index.device
        steps = torch.arange(1, self.num + 1, device=device)  # [P - 1]
        return (torch.arange(count, device=device)[:, None] + steps) % count  # [B, P - 1]


def at_least_one(num: int) -> int:
    """``num`` itself, or a ValueError naming its config key."""
    if num < 1:
        raise ValueError(f"mixer.partners.num is {num}: a sample takes at least 1 partner")
    return num


def permutation(batch: Batch, context: Context) -> Tensor:
    """0 .. B - 1 in random order, drawn on the generator's device, if there is one."""
    device = batch.views[0].device
    where = device if context.generator is None else context.generator.device
    return torch.randperm(len(batch.index), generator=context.generator, device=where).to(device)
