"""Exported weights: .safetensors files that hold a checksum of all they say, which the format itself has none of."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_framework.runs.durable import replacing

SUM = "sha256"
"""Key of the checksum among the metadata."""


def write_exported(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Writes tensors and metadata with their checksum."""
    with replacing(path) as partial:
        save_file(dict(tensors), str(partial), metadata={**about, SUM: digest(tensors, about)})


def read_exported(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, on the CPU; of one that holds a checksum, as they were written.

    Raises:
        SafetensorError: it is no such file.
        ValueError: the checksum is another.
    """
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = dict(file.metadata() or {})
    expected = about.pop(SUM, None)
    if expected is not None and digest(tensors, about) != expected:
        raise ValueError(
            f"{path} is damaged: it is not what was exported, as its checksum tells: export it again "
            "(python scripts/export.py run=<folder>), or copy it again"
        )
    return tensors


def digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of tensors and of metadata, in an order that is theirs alone."""
    found = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name in sorted(tensors):
        x = tensors[name]
        found.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        found.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
