"""Memories that objectives own: persistent buffers, the same on every rank, so that a resumed run continues exactly."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, Fraction, Positive, Several, guarded
from ssl_framework.distributed import from_first_rank, gather
from ssl_framework.functional import class_sums, kmeans, nearest_centres, sinkhorn, unit


@guarded
class Queue(nn.Module):
    """First-in-first-out memory of unit-norm keys (MoCo, arXiv:1911.05722, section 3.1).

    Args:
        size: number of rows, K in the papers.
        dim: length of a row.

    Starts with random unit rows, as the authors' code does.
    """

    rows: Tensor  # [K, D] unit rows
    cursor: Tensor  # [] int64: the oldest row, the next to be replaced

    def __init__(self, size: Count, dim: Count) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("rows", unit(torch.randn(size, dim)))  # [K, D]
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    def read(self) -> Tensor:
        """A copy of all rows, [K, D]: a later push does not change what a loss still needs for its gradient."""
        return self.rows.clone()

    def mean_age(self, pushes: int, length: int) -> float:
        """How many pushes ago the keys were pushed, on average; 1: all by the last. Random first rows do not count.

        A closed form: the keys of each push stand in the queue until as many rows as it has were pushed after them.

        Args:
            pushes: so far.
            length: rows of each, W * B.

        Returns:
            0 before the first push, then rising to ``(size / length + 1) / 2`` if that divides.
        """
        filled = min(self.size, pushes * length)
        whole, rest = divmod(filled, length)
        return (length * whole * (whole + 1) / 2 + rest * (whole + 1)) / max(1, filled)

    @torch.no_grad()
    def push(self, keys: Tensor) -> Tensor:
        """Replaces the oldest rows by the keys of all ranks.

        Args:
            keys: [B, D] unit rows of this rank, the same B on every rank.

        Returns:
            [W * B] int64, which rows they have become.

        Raises:
            ValueError: the global batch W * B is larger than the queue.

        Changes ``rows`` and ``cursor``. Call after ``read``: pushed first, a key would be its own negative.
        """
        keys = gather(keys)  # [W * B, D]
        if len(keys) > self.size:
            raise ValueError(
                f"the global batch has {len(keys)} keys but the queue holds {self.size}: "
                "raise objective.queue.size or lower data.batch_size"
            )
        # Computed on the device: a Python slice at the cursor would wait for the GPU in every step.
        where = (self.cursor + torch.arange(len(keys), device=keys.device)) % self.size  # [W * B]
        self.rows[where] = keys.to(self.rows.dtype)
        self.cursor.copy_((self.cursor + len(keys)) % self.size)
        return where


@guarded
class DyCE(nn.Module):
    """Dynamic clustered memory (BECLR, arXiv:2402.02444): a queue whose rows belong to prototypes, their means.

    Args:
        size: M, rows.
        dim: D, length of a row.
        num_clusters: prototypes; by k-means when the queue is full for the first time.
        iterations: of k-means.
        epsilon: of the entropy by which Sinkhorn-Knopp spreads new rows over the prototypes.
        sinkhorn_iterations: of Sinkhorn-Knopp.
    """

    assigned: Tensor  # [M] int64: the prototype of each row
    prototypes: Tensor  # [P, D]

    def __init__(
        self,
        size: Count,
        dim: Count,
        num_clusters: Several,
        iterations: Count,
        epsilon: Positive,
        sinkhorn_iterations: Count,
    ) -> None:
        super().__init__()
        self.queue = Queue(size, dim)
        self.iterations = iterations
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.register_buffer("assigned", torch.zeros(size, dtype=torch.long))
        self.register_buffer("prototypes", unit(torch.randn(num_clusters, dim)))  # [P, D]

    def full_since(self, length: int) -> int:
        """The step before which pushes of ``length`` rows each have filled the queue."""
        return -(-self.queue.size // length)

    def begin(self, generator: torch.Generator) -> None:
        """Divides all rows among prototypes anew, by spherical k-means, alike on all ranks."""
        rows, count = self.queue.read(), len(self.prototypes)  # [M, D]
        from_first_rank([self.prototypes, self.assigned], lambda: kmeans(rows, count, self.iterations, True, generator))

    def neighbours(self, z: Tensor, count: int) -> Tensor:
        """The most similar rows of each row's own prototype, then, if it has too few, of the others.

        Args:
            z: [N, D] unit rows.
            count: at most M.

        Returns:
            [N, count, D] unit rows without gradient.
        """
        rows, z = self.queue.read(), z.detach()  # [M, D]
        own = nearest_centres(z, unit(self.prototypes))  # [N]
        s = z @ rows.T + 4.0 * (own[:, None] == self.assigned)  # [N, M]; two cosines differ by 2 at most
        return rows[s.topk(count, dim=1).indices]  # [N, count, D]

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Rows of all ranks replace the oldest, spread over the prototypes, which become the means of their rows.

        Args:
            z: [N, D] unit rows of this rank, the same N on every rank.
        """
        written = self.queue.push(z)  # [W * N]
        codes = sinkhorn(gather(z) @ unit(self.prototypes).T, self.epsilon, self.sinkhorn_iterations)  # [W * N, P]
        self.assigned[written] = codes.argmax(dim=1)
        every = torch.arange(len(self.prototypes), device=z.device)  # [P]
        sums, counts = class_sums(self.queue.rows, self.assigned, every)  # [P, D], [P]
        means = sums / counts.clamp(min=1)[:, None]  # [P, D]
        self.prototypes.copy_(torch.where(counts[:, None] > 0, means, self.prototypes))


@guarded
class Centre(nn.Module):
    """Moving average of a teacher's outputs, which is subtracted from them (DINO, arXiv:2104.14294, eq. 4).

    Args:
        dim: K, width of the outputs.
        momentum: share of the old centre that is kept at each step; 1 leaves it at zero: no centring.
    """

    mean: Tensor  # [K]

    def __init__(self, dim: Count, momentum: Fraction) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))  # [K]

    def read(self) -> Tensor:
        """A copy, [K]."""
        return self.mean.clone()

    @torch.no_grad()
    def update(self, outputs: Tensor) -> None:
        """Moves towards the mean of all rows of all ranks.

        Args:
            outputs: [..., K] of this rank, the same shape on every rank.

        Changes ``mean``. Call after ``read``.
        """
        own = outputs.flatten(0, -2).mean(dim=0, keepdim=True)  # [1, K]
        self.mean.lerp_(gather(own).mean(dim=0).to(self.mean.dtype), 1 - self.momentum)


@guarded
class IdentityMemory(nn.Module):
    """One embedding for each of many identities, as of things that are followed through a video: CTVIS (Ying et al.,
    ICCV 2023, arXiv:2307.12616), section 3.2. What resembles all that an identity has looked like moves it most.

    ``m <- (1 - b) m + b e`` with ``b = max(0, mean cosine of e to all earlier embeddings of the identity)``; the first
    one is taken as it is.

    Args:
        size: I, identities.
        dim: D, length of an embedding.
    """

    rows: Tensor  # [I, D]; zero where nothing was written
    directions: Tensor  # [I, D]: sum of all embeddings so far, each of length one
    count: Tensor  # [I] int64: how many those are

    def __init__(self, size: Count, dim: Count) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))  # [I, D]
        self.register_buffer("directions", torch.zeros(size, dim))  # [I, D]
        self.register_buffer("count", torch.zeros(size, dtype=torch.long))  # [I]

    def read(self, identity: Tensor, noise: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """Copies of what is remembered of identities, so that a loss may read them before they are written.

        Args:
            identity: [N] int64.
            noise: probability that an identity is taken for another one, which is drawn from those that were written:
                as a detector that has lost it would.
            generator: of the noise; the same on every rank that reads the same.

        Returns:
            [N, D]; zero for an identity that was never written.
        """
        if noise > 0 and (known := self.count.nonzero()[:, 0]).numel():
            where = identity.device if generator is None else generator.device
            lost = torch.rand(len(identity), generator=generator, device=where) < noise  # [N]
            drawn = torch.randint(len(known), (len(identity),), generator=generator, device=where)  # [N]
            identity = torch.where(lost.to(identity.device), known[drawn.to(known.device)], identity)
        return self.rows[identity]

    @torch.no_grad()
    def write(self, identity: Tensor, embedding: Tensor) -> None:
        """Moves the identities of all ranks towards their new embeddings, one after another in the order of the ranks.

        Args:
            identity: [N] int64 of this rank, the same N on every rank.
            embedding: [N, D].

        Changes all buffers. Call after ``read``.
        """
        identity, embedding = gather(identity), gather(embedding).to(self.rows.dtype)  # [W * N], [W * N, D]
        order = identity.argsort(stable=True)  # [W * N]
        ordered = identity[order].contiguous()
        turn = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)  # [W * N]
        for number in range(int(turn.max()) + 1 if len(turn) else 0):  # an identity may come several times
            own = order[turn == number]
            who, e = identity[own], embedding[own]  # [n], [n, D]
            seen = self.count[who]  # [n]
            alike = (unit(e) * self.directions[who]).sum(dim=1) / seen.clamp(min=1)  # [n]
            share = torch.where(seen > 0, alike.clamp(min=0), torch.ones_like(alike))[:, None]  # [n, 1]
            self.rows[who] = (1 - share) * self.rows[who] + share * e
            self.directions[who] += unit(e)
            self.count[who] += 1


class SampleBank(nn.Module):
    """State of every training sample, found by its index in the training set.

    A number takes 4 bytes a sample, on every rank and in every checkpoint: a scalar of ImageNet's 1.28 million images
    5 MB; a vector of 128 numbers 656 MB, and 26 MB of CIFAR's 50,000 images.

    Args:
        columns: name -> what the samples start with, [N] or [N, D] floating point.
    """

    visited: Tensor  # [N] bool: written at least once

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.undo: list[tuple[Tensor | None, dict[str, Tensor]]] | None = None
        (num_samples,) = {len(column) for column in columns.values()}
        for name, column in columns.items():
            self.register_buffer(name, column)
        self.register_buffer("visited", torch.zeros(num_samples, dtype=torch.bool))
        self.register_load_state_dict_pre_hook(refuse_another_size)

    def column(self, name: str) -> Tensor:
        """A copy of a column, [N] or [N, D]: a later write does not change what a loss still needs for its gradient."""
        return self.get_buffer(name).clone()

    def read(self, name: str, index: Tensor) -> Tensor:
        """A column's rows of the samples [B] int64, [B] or [B, D]; as the column started where never written."""
        return self.get_buffer(name)[index]

    @torch.no_grad()
    def write(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Replaces the rows of the samples of all ranks and marks them as visited.

        Of a sample that comes several times in the global batch the last row counts, in rank order.

        Args:
            index: [B] int64 samples of this rank, the same B on every rank.
            values: column -> [B] or [B, D]; columns that are not named stay as they are.
        """
        index = gather(index)  # [W * B]
        if self.undo is not None:
            self.undo.append((index, {name: self.get_buffer(name)[index] for name in (*values, "visited")}))
        # Every occurrence of a sample writes the row of its last one: on a GPU it is left to chance which write wins.
        order = index.argsort(stable=True)  # [W * B]
        last = order[torch.searchsorted(index[order], index, right=True) - 1]  # [W * B]
        for name, value in values.items():
            column = self.get_buffer(name)
            column[index] = gather(value)[last].to(column.dtype)
        self.visited.index_fill_(0, index, True)

    def remember(self, name: str) -> None:
        """Has to be called before a column is changed by anything but ``write``."""
        if self.undo is not None:
            self.undo.append((None, {name: self.column(name)}))

    def as_before(self, writes: int) -> dict[str, Tensor]:
        """Copies of all columns, and of ``visited``, as they were after so many of the writes that ``undo`` holds: what
        was written over since is kept there while it is a list, so that nobody has to copy N rows in every step."""
        found = {name: self.column(name) for name in dict(self.named_buffers())}
        for index, rows in reversed((self.undo or [])[writes:]):
            for name, old in rows.items():
                if index is None:
                    found[name] = old.clone()
                else:
                    found[name][index] = old
        return found


def refuse_another_size(bank: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Raises ValueError before a bank takes the state of a training set of another size."""
    found, own = state.get(f"{prefix}visited"), bank.get_buffer("visited")
    if found is not None and len(found) != len(own):
        raise ValueError(
            f"the checkpoint holds the state of {len(found)} training samples, but the training set has {len(own)}: "
            "go on with the data set that the run began with"
        )
