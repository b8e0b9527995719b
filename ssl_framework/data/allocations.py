"""Sizes that no memory holds, refused before they are asked for: the kernel would end the process without a word."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_framework.data.residence import free_memory
from ssl_framework.runs.config import leaves

SMALL = 2**26
"""Bytes below which nobody asks how much memory is free."""


MAKERS = (
    *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm"),
    *("new_empty", "new_zeros", "new_ones", "new_full"),
)
"""Operations that make a tensor of a size they are given."""


@functools.cache
def makes(function: OpOverload) -> bool:
    """Whether it is one of MAKERS."""
    return function.overloadpacket.__name__ in MAKERS


class WithinMemory(TorchDispatchMode):
    """Meanwhile a tensor that does not fit into the memory that is free is refused before it is made.

    Args:
        node: of the config, whose numbers the sentence names.
    """

    def __init__(self, node: Any) -> None:
        super().__init__()
        self.node = node

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if makes(func):
            sizes = [x for x in args if isinstance(x, list | tuple) and all(isinstance(n, int) for n in x)]
            dtype = given.get("dtype") or torch.get_default_dtype()
            if func.overloadpacket.__name__ == "randperm":
                sizes, dtype = [tuple(args[:1])], torch.int64
            device = torch.device(given.get("device") or "cpu")
            wanted = dtype.itemsize * math.prod(sizes[0]) if sizes and device.type != "meta" else 0
            if wanted > SMALL:  # the sentence takes longer than most tensors
                refuse_more_than_free(wanted, device, *self.said(sizes[0]))
        return func(*args, **given)

    def said(self, size: Sequence[int]) -> tuple[str, str]:
        """What is too large, and what to lower."""
        content = plain(self.node) if OmegaConf.is_config(self.node) else self.node
        named = self.node._get_full_key(None) if isinstance(self.node, DictConfig) else ""
        keys = [".".join(filter(None, (named, key))) for key, value in leaves(content) if is_one_of(value, size)]
        found = " and ".join(f"{key}={OmegaConf.select(self.node._get_root(), key)}" for key in keys) if keys else ""
        shape = " x ".join(f"{n:,}" for n in size)
        return f"a tensor of {shape} numbers", f"lower {found or f'the sizes in {named or str(content)[:80]}'}"


def plain(node: Any) -> Any:
    """A config as plain values; what cannot be resolved here, such as a folder that Hydra knows, as it is."""
    try:
        return OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(node, resolve=False)


def is_one_of(value: Any, size: Sequence[int]) -> bool:
    """Whether a number of the config is among those of a size, and one that matters."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 1000 and value in size


@contextmanager
def within_memory(node: Any) -> Iterator[None]:
    """What is built of a config's node meanwhile fits into the memory that is free.

    Raises:
        ValueError: it does not; the sentence names the keys.
    """
    with WithinMemory(node):
        yield


def refuse_more_than_free(size: int, device: torch.device | str, what: str, cure: str) -> None:
    """Refuses what does not fit.

    Args:
        size: bytes.
        device: whose memory they take.
        what: takes them, in words.
        cure: what to change.

    Raises:
        ValueError: fewer are free.
    """
    if size <= SMALL:
        return
    device = torch.device(device)
    free = free_memory(device)
    if device.type == "cuda":  # what the process holds already for tensors that are gone
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if size > free:
        raise ValueError(f"{what} takes {size / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB of memory are free: {cure}")
