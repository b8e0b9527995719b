"""What the machine offers: threads, freed memory that stays with the process, half precision where it is faster."""

import copy
import ctypes
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from ssl_framework.models.encoder import Encoder

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGE = 2**28
"""Bytes: a block below this size comes from memory that was used before."""

THREADS = torch.get_num_threads()
"""As the environment (OMP_NUM_THREADS) says, or one a core."""

BF16_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux names them, on x86 and on ARM."""

FASTER = 1.15
"""Half precision has to win by this factor to be chosen."""


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


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bfloat16; without its instructions bf16 is emulated, ten times as slow."""
    described = Path("/proc/cpuinfo")
    return described.is_file() and bool(BF16_INSTRUCTIONS & set(described.read_text().split()))


def faster_precision(encoder: Encoder, images: Tensor, rounds: int = 5) -> str:
    """Times forward and backward passes of the encoder on the CPU in both precisions, in turns.

    Args:
        encoder: stays as it is; a copy is timed.
        images: [B, C, H, W] float32.
        rounds: of both, after one that does not count.

    Returns:
        "bf16-mixed" if that is faster by ``FASTER``, else "32-true".
    """
    trial = copy.deepcopy(encoder)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.random.fork_rng(devices=[]):
        for _ in range(rounds + 1):
            for half, taken in seconds.items():
                started = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    outputs = trial.encode(images)
                torch.stack([x.float().square().mean() for x in outputs.values()]).sum().backward()
                taken.append(time.perf_counter() - started)
    single, half_precision = (statistics.median(taken[1:]) for taken in seconds.values())
    return "bf16-mixed" if single > FASTER * half_precision else "32-true"
