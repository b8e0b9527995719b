"""What the machine offers: threads, freed memory that stays with the process, its name."""

import ctypes
import platform
from pathlib import Path

import torch
from omegaconf import DictConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


LARGE = 2**28
"""Bytes: a block below this size comes from memory that was used before."""


THREADS = torch.get_num_threads()
"""As the environment (OMP_NUM_THREADS) says, or one a core."""


def keep_freed_memory() -> bool:
    """Stops glibc from handing freed tensors back to the kernel, which costs a page fault per 4 KiB when it asks again.

    A step on the CPU allocates and frees the same hundred megabytes every time. Changes the process for good.

    Returns:
        Whether the allocator is glibc's and took the setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGE)) and bool(libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> None:
    """Hands freed memory back to the kernel once, where the allocator is glibc's; what is asked for next is new."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def cpu_name() -> str:
    """As Linux calls it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def use_threads(count: int | None) -> None:
    """Sets how many threads this process computes with on the CPU; None: as many as it was started with.

    Raises:
        ValueError: not a whole number above 0.
    """
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"trainer.num_threads is {count}: it must be a whole number above 0, or null")
    torch.set_num_threads(count or THREADS)


def accelerator_of(cfg: DictConfig) -> str:
    """ "gpu" or "cpu": what ``trainer.accelerator`` says, ``auto`` being a GPU if there is one."""
    if cfg.accelerator != "auto":
        return cfg.accelerator
    return "gpu" if torch.cuda.is_available() else "cpu"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of threads of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
