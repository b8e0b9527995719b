"""How much memory there is for a data set, and the note that says when a set is too large for it."""

import os
import warnings
from pathlib import Path

import torch

from ssl_framework.distributed import rank, world_size

MEMINFO = Path("/proc/meminfo")


CONTROL_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that this process may still take.

    Args:
        device: of a GPU its own free memory; of the CPU what the machine has available, or what is left of the limit
            of the job or container if that is less, shared evenly among the processes of the run.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(available_on_machine(), left_of_limit()) // processes()


def processes() -> int:
    """Of the run; known before the process group is there, which sources are loaded without."""
    return max(world_size(), int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))))


def available_on_machine() -> int:
    """Bytes that the machine can give without swapping; where the system does not say, all of its memory."""
    if MEMINFO.is_file():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def left_of_limit() -> int:
    """Bytes left of the memory limit of this process's control group (v2), or a huge number without one."""
    unlimited = 2**62
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
        folder = CONTROL_GROUPS / own if (CONTROL_GROUPS / own / "memory.max").is_file() else CONTROL_GROUPS
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        counters = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # not Linux, or an older kernel
        return unlimited
    return unlimited if limit == "max" else max(0, int(limit) - used + int(counters["inactive_file"]))


def note(message: str) -> None:
    """Says something to the user once, not once a process."""
    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    if rank() == 0 and first:
        warnings.warn(message, stacklevel=2)
