"""Weights that a new run begins with (``backbone.weights``): those of another run, or an exported backbone.

A resumed run has its own in its checkpoint and reads no others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssl_framework.models.base import BackboneProtocol
from ssl_framework.runs.folder import RunFolder


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds foreign objects.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... for the two reasons
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the checkpoint {path} cannot be loaded safely: {reason}") from error


PREFIX = "student.backbone.net."
"""Of the backbone's names in a checkpoint."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a network: of the student's backbone in a run folder, or of a file that ``export`` wrote."""
    if path.is_dir():
        state = load_checkpoint(RunFolder(path).checkpoint_file)["state_dict"]
        return {name.removeprefix(PREFIX): x for name, x in state.items() if name.startswith(PREFIX)}
    if not path.is_file():
        raise FileNotFoundError(f"backbone.weights is {path}, which does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"backbone.weights is {path}, which is no .safetensors file ({error}): give a run folder or a file that "
            "scripts/export.py wrote"
        ) from error


def load_into(backbone: BackboneProtocol, state: dict[str, Tensor]) -> None:
    """Replaces all weights and buffers of a backbone.

    Raises:
        ValueError: a name is missing or left over, or a shape differs.
    """
    if found := misfits(backbone, state):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(
            f"backbone.weights={backbone.weights} does not fit {backbone.name}: {found[0]}{more}: choose the "
            "backbone, the size and the channels of views that these weights were trained with"
        )
    backbone.net.load_state_dict(state)


def misfits(backbone: BackboneProtocol, state: Mapping[str, Tensor]) -> list[str]:
    """Which names are missing or left over among the weights for a backbone, or have another shape; sorted."""
    own = backbone.net.state_dict()
    found = [f"{name} is missing there" for name in own if name not in state]
    found += [f"{name} is unknown here" for name in state if name not in own]
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            found.append(f"{name} is {by(state[name])} there and {by(own[name])} here")
    return sorted(found)


def by(x: Tensor) -> str:
    """A shape as a person writes it: 64 x 3 x 7 x 7."""
    return " x ".join(map(str, x.shape)) or "a number"
