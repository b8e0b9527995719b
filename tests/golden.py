"""Golden values: what the papers' public code (or the formula alone) gives on a fixture that is itself a formula."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ENTRIES = json.loads(Path(__file__).with_name("golden.json").read_text())


def golden(name: str) -> Any:
    """The value of the entry of that name; computed in float64, rounded to 8 decimals."""
    (entry,) = [entry for entry in ENTRIES if entry["name"] == name]
    return entry["value"]


def core_view(v: int, n: int = 6, d: int = 4) -> Tensor:
    """Row-normalised embeddings Z_v, [n, d] float64.

    Before normalisation: ``sin(1 + 0.9 i + 1.7 k + 0.37 i k) + 0.3 cos(2 + 1.1 v + 0.5 i + 0.8 k)``.
    """
    i = torch.arange(n, dtype=torch.float64)[:, None]
    k = torch.arange(d, dtype=torch.float64)[None]
    shared = torch.sin(1.0 + 0.9 * i + 1.7 * k + 0.37 * i * k)
    x = shared + 0.3 * torch.cos(2.0 + 1.1 * v + 0.5 * i + 0.8 * k)
    return x / x.norm(dim=1, keepdim=True)


def core_queue() -> Tensor:
    """The queue fixture: Z_2 then Z_3, [12, 4] float64."""
    return torch.cat([core_view(2), core_view(3)])


def mix_raw(s: int, n: int = 6, d: int = 8) -> Tensor:
    """``((37 k^2 + (11 + s) k + 17 s) mod 101) / 50 - 1`` with ``k = i d + j + 1``: [n, d] float64."""
    k = torch.arange(1, n * d + 1)
    return (((37 * k * k + (11 + s) * k + 17 * s) % 101).double() / 50 - 1).view(n, d)


def mix_rows(s: int, n: int = 6, d: int = 8) -> Tensor:
    """The fixture of the mixing methods, A, B, C, D for s = 0 .. 3: [n, d] float64 unit rows of ``mix_raw``."""
    x = mix_raw(s, n, d)
    return x / x.norm(dim=1, keepdim=True)


def flat_index(*shape: int) -> Tensor:
    """The row-major index of every entry, float64."""
    return torch.arange(math.prod(shape), dtype=torch.float64).view(shape)


def sin_map(*shape: int) -> Tensor:
    """``sin(1 + 0.7 n)`` with n the flat index, float64: the fixture of methods on maps and patches."""
    return torch.sin(1.0 + 0.7 * flat_index(*shape))


def cos_map(*shape: int) -> Tensor:
    """``cos(0.3 + 0.45 n)`` with n the flat index, float64."""
    return torch.cos(0.3 + 0.45 * flat_index(*shape))
