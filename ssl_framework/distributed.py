"""What differs between one process and many: ranks, and gathering with or without gradient.

One process needs no process group; every function here then returns its input unchanged.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

by_itself = False
"""Whether this process works without the others of its group for a while; see ``alone``."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Meanwhile this process counts as the only one: it gathers from nobody, and nobody waits for it."""
    global by_itself
    by_itself = True
    try:
        yield
    finally:
        by_itself = False


def in_group() -> bool:
    """Whether this process works together with others."""
    return dist.is_available() and dist.is_initialized() and not by_itself


def rank() -> int:
    """Number of this process, 0 without a process group."""
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if in_group() else 1


def gather(x: Tensor, ranks: int | None = None) -> Tensor:
    """Rows of all ranks, in rank order, without gradient.

    Args:
        x: [B, ...], the same B on every rank.
        ranks: W, of so many neighbouring ranks; they divide all of them. ``None``: of all.

    Returns:
        [W * B, ...]
    """
    ranks = ranks or world_size()
    if ranks == 1:
        return x.detach()
    everyone = x.new_empty(ranks * len(x), *x.shape[1:])  # [W * B, ...]
    dist.all_gather_into_tensor(everyone, x.detach().contiguous(), group=neighbours(ranks))
    return everyone


def neighbours(ranks: int) -> dist.ProcessGroup | None:
    """The group of so many neighbouring ranks that this one is in, ``None`` for all. Made at the first call, by all."""
    return None if ranks == world_size() else _subgroup(dist.group.WORLD, ranks)


@functools.cache
def _subgroup(world: dist.ProcessGroup, ranks: int) -> dist.ProcessGroup:
    return dist.new_subgroups(ranks)[0]


def united(own: Mapping[str, str]) -> dict[str, str]:
    """The entries of all ranks' mappings, in rank order; every rank has to call this."""
    if world_size() == 1:
        return dict(own)
    parts: list[dict[str, str]] = [{}] * world_size()
    dist.all_gather_object(parts, dict(own))
    return {key: value for part in parts for key, value in part.items()}


class _GatherWithGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, ranks: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.ranks = ranks
        return gather(x, ranks)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        # A row of this rank is a candidate on every rank, so its gradient is the sum over ranks. DDP then averages
        # over ranks; with each rank's loss the mean over its own anchors this is the gradient of one big process.
        return sum_of_own_rows(grad.contiguous(), ctx.ranks), None


def sum_of_own_rows(x: Tensor, ranks: int | None = None) -> Tensor:
    """The sum over ranks of this rank's share of their rows, [W * B, ...] -> [B, ...]: each rank receives no other.

    A backend that cannot scatter sums (MPI, say) sends all of them to everybody.
    """
    ranks = ranks or world_size()
    own = x.new_empty(len(x) // ranks, *x.shape[1:])  # [B, ...]
    try:
        dist.reduce_scatter_tensor(own, x, group=neighbours(ranks))
        return own
    except (NotImplementedError, RuntimeError) as error:
        if "support" not in str(error):
            raise
    everyone = x.clone()  # [W * B, ...]
    dist.all_reduce(everyone, group=neighbours(ranks))
    return everyone.chunk(ranks)[rank() % ranks]


def gather_with_grad(x: Tensor, ranks: int | None = None) -> Tensor:
    """Rows of all ranks, in rank order; the backward pass sums gradients over ranks.

    torch's own, ``torch.distributed.nn.all_gather``, does the same to a list of tensors, but needs a process group.

    Args:
        x: [B, ...], the same B on every rank.
        ranks: as in ``gather``.

    Returns:
        [W * B, ...]
    """
    ranks = ranks or world_size()
    return x if ranks == 1 else _GatherWithGrad.apply(x, ranks)


def own_rows(x: Tensor) -> Tensor:
    """This rank's share [B, ...] of rows [W * B, ...] that every rank holds alike."""
    return x.chunk(world_size())[rank()]


def mean_of(each: Tensor, counts: Tensor) -> Tensor:
    """Mean of values over those that count, of all ranks together, however many each has: the mean of what the ranks
    return is that. 0 where none counts.

    Args:
        each: [...] of this rank.
        counts: [...] bool.
    """
    total = gather(counts.sum()[None]).sum()
    return world_size() * (each * counts).sum() / total.clamp(min=1)


@torch.no_grad()
def same_on_all_ranks(buffers: Iterable[Tensor]) -> None:
    """Gives every rank the values of rank 0, in place."""
    if world_size() > 1:
        for buffer in buffers:
            dist.broadcast(buffer, 0)


@torch.no_grad()
def from_first_rank(buffers: Sequence[Tensor], compute: Callable[[], Sequence[Tensor]]) -> None:
    """Gives every rank's buffers what rank 0 computes for them, while the others wait; in place.

    Args:
        buffers: of the same shapes on every rank.
        compute: makes as many tensors; it may not gather.
    """
    if rank() == 0:
        for buffer, found in zip(buffers, compute(), strict=True):
            buffer.copy_(found)
    same_on_all_ranks(buffers)


def local(x: Tensor) -> Tensor:
    """What this rank holds of a tensor that the ranks may have divided among them."""
    return x.to_local() if isinstance(x, DTensor) else x


def norms_of(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each of P tensors, [P]; of divided ones over all ranks, in one message.

    Args:
        tensors: all of them divided, or none.
    """
    norms = torch.stack(torch._foreach_norm([local(x) for x in tensors]))  # [P]
    if not isinstance(tensors[0], DTensor):
        return norms
    squares = norms.square()  # [P]
    dist.all_reduce(squares)
    return squares.sqrt()


def is_divided(module: nn.Module) -> bool:
    """Whether each rank holds a share only of the module's weights (see ``training.sharding``)."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def whole(x: Tensor) -> Tensor:
    """A tensor that the ranks may have divided among them, on each of them; all have to ask for it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def share_of(x: Tensor, like: Tensor) -> Tensor:
    """What this rank holds of a tensor that every rank has whole, divided as ``like`` is."""
    if isinstance(like, DTensor) and not isinstance(x, DTensor):
        return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return x


def shares_of(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A module's state that every rank has whole, as ``module`` takes it."""
    own = module.state_dict()
    return {name: share_of(x, own[name]) for name, x in state.items()}
