"""One network of several that began alike: CoDiEmb (arXiv:2508.11442) merges checkpoints by how far each has moved. By
what weights is not known to us; here they are proportional to the length of the way, tensor by tensor."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def merged(start: State, states: Sequence[State], guided: bool = True) -> dict[str, Tensor]:
    """A state in whose tensors every run has a say.

    Args:
        start: where all of them began, name -> tensor.
        states: of R runs, under the same names.
        guided: whether a run's share of a tensor is proportional to ``|state - start|``, so that a tensor is that of
            the run that needed it; otherwise all have the same share (Wortsman et al., arXiv:2203.05482). Where nobody
            has moved, ``start`` stays.

    Returns:
        Name -> tensor of the beginning's dtype; tensors of whole numbers, such as counts, are the first run's.

    Raises:
        ValueError: there is no run, or one of another network.
    """
    if not states:
        raise ValueError("there is no state to merge: give one or more")
    for number, state in enumerate(states):
        if odd := [name for name in {**start, **state} if shape_of(start, name) != shape_of(state, name)]:
            raise ValueError(
                f"state {number} and the beginning differ in {odd[0]}: merge runs of one network that began alike"
            )
    return {name: merged_tensor(x, [state[name] for state in states], guided) for name, x in start.items()}


def merged_tensor(start: Tensor, ends: Sequence[Tensor], guided: bool) -> Tensor:
    """The same of one tensor."""
    if not start.is_floating_point():
        return ends[0].clone()
    ways = torch.stack([end.double() - start.double() for end in ends])  # [R, ...]
    share = ways.flatten(1).norm(dim=1) if guided else ways.new_ones(len(ways))  # [R]
    if share.sum() > 0:
        share = share / share.sum()  # [R]
    return (start.double() + torch.tensordot(share, ways, dims=1)).to(start.dtype)


def shape_of(state: State, name: str) -> torch.Size | None:
    """Of a tensor, if it is there."""
    return state[name].shape if name in state else None
