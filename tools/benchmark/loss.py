"""The contrastive loss: tiled against dense, in time and in memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.functional import nce
from tools.benchmark.timing import Figure, figure, interleaved, peak_extra_mib, ratio

DIM, TEMPERATURE = 128, 0.2


def run(quick: bool) -> dict[str, Figure]:
    """NT-Xent, forward and backward.

    ``tiled_over_dense``: seconds at 4,096 rows. ``peak_extra_mib``: the process's peak beyond inputs and gradients, at
    65,536 rows (quick: 16,384). ``seconds_65536``: of that one call. ``dense_needs_mib``: what the similarities and
    their gradient would take in the dense form, by calculation.
    """
    z = rows(4096)
    calls: dict[str, Callable[[], object]] = {
        "tiled": lambda: step(z, tiled),
        "dense": lambda: step(z, dense),
    }
    seconds = interleaved(calls, repeats=2 if quick else 9)
    count = 16384 if quick else 65536
    found = in_fresh_process(count)
    return {
        "tiled_over_dense": ratio(seconds["tiled"], seconds["dense"]),
        "peak_extra_mib": figure([found["peak_extra_mib"]]),
        f"seconds_{count}": figure([found["seconds"]]),
        "dense_needs_mib": figure([2 * count * count * 4 / 2**20]),
    }


def rows(count: int) -> Tensor:
    """Unit rows [count, DIM] that want a gradient."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return F.normalize(torch.randn(count, DIM, device=device), dim=1).requires_grad_()


def step(z: Tensor, loss: Callable[[Tensor], Tensor]) -> None:
    """Forward and backward."""
    z.grad = None
    loss(z).backward()


def tiled(z: Tensor) -> Tensor:
    """As ``objectives.simclr`` does."""
    own = torch.arange(len(z), device=z.device)
    return nce(z, z, own.roll(len(z) // 2), TEMPERATURE, exclude=own).mean()


def dense(z: Tensor) -> Tensor:
    """The formula with all similarities at once."""
    own = torch.arange(len(z), device=z.device)
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(float("-inf"))  # [N, N]
    return F.cross_entropy(logits, own.roll(len(z) // 2))


def in_fresh_process(count: int) -> dict[str, float]:
    """Peak memory is best seen in a process that has not held more before."""
    command = [sys.executable, "-m", "tools.benchmark.loss", str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(count: int) -> dict[str, float]:
    """Peak memory in MiB beyond inputs and gradients, and seconds, of one forward and backward pass."""
    step(rows(1024), tiled)  # libraries are loaded
    z = rows(count)
    z.grad = torch.zeros_like(z)
    started = time.perf_counter()
    peak = peak_extra_mib(lambda: tiled(z).backward())
    return {"seconds": time.perf_counter() - started, "peak_extra_mib": peak}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
