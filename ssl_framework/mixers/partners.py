"""Who is mixed with whom: every rule gives each sample of the batch one partner and takes each sample once."""

import torch
from torch import Tensor


class Shuffle:
    """A random permutation; now and then a sample is its own partner and stays unmixed."""

    def __call__(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """[B] int64."""
        return permutation(count, device, generator)


class Others:
    """A random permutation in one cycle: with two samples or more nobody is its own partner."""

    def __call__(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """[B] int64."""
        order = permutation(count, device, generator)  # [B]
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)
        return partner


class Reversed:
    """The batch backwards (Un-Mix); in a batch of odd size the middle sample stays unmixed."""

    def __call__(self, count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """[B] int64."""
        return torch.arange(count - 1, -1, -1, device=device)


def permutation(count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """0 .. count - 1 in random order, drawn on the generator's device, if there is one."""
    where = device if generator is None else generator.device
    return torch.randperm(count, generator=generator, device=where).to(device)
