"""Memories that objectives own: persistent buffers, the same on every rank, so that a resumed run continues exactly."""

import torch
from torch import Tensor, nn

from ssl_framework.distributed import gather
from ssl_framework.functional import unit


class Queue(nn.Module):
    """First-in-first-out memory of unit-norm keys (MoCo, arXiv:1911.05722, section 3.1).

    Args:
        size: number of rows, K in the papers.
        dim: length of a row.

    Starts with random unit rows, as the authors' code does.
    """

    rows: Tensor  # [K, D] unit rows
    cursor: Tensor  # [] int64: the oldest row, the next to be replaced

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"objective.queue.size is {size}: a queue needs at least one row")
        self.size = size
        self.register_buffer("rows", unit(torch.randn(size, dim)))  # [K, D]
        self.register_buffer("cursor", torch.zeros((), dtype=torch.long))

    def read(self) -> Tensor:
        """A copy of all rows, [K, D]: a later push does not change what a loss still needs for its gradient."""
        return self.rows.clone()

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
