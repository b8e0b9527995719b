"""Weights that a new run begins with (``backbone.weights``): those of another run, or an exported backbone.

A resumed run has its own in its checkpoint and reads no others.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ssl_framework.models.base import BackboneProtocol
from ssl_framework.runs.folder import RunFolder

SHARDS = "shards"
"""In a checkpoint, the folder beside it in which its tensors lie, in one file a rank."""


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; tensors that ranks have written in shares are whole again.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds foreign objects.
    """
    found = load_without_shards(path)
    name = found.pop(SHARDS, None)
    return found if name is None else with_tensors(found, read_shards(shards_of(Path(path), name)))


def shards_of(path: Path, name: Any) -> Path:
    """The folder beside a checkpoint in which its tensors lie.

    Raises:
        ValueError: the checkpoint names another place.
    """
    if not isinstance(name, str) or not re.fullmatch(re.escape(path.stem) + r"-[\w-]+", name):
        raise ValueError(f"the checkpoint {path} names {name!r} as the folder of its tensors: it must lie beside it")
    return path.with_name(name)


def load_without_shards(path: str | Path) -> dict[str, Any]:
    """As ``load_checkpoint``, but without the tensors if they lie in a folder beside the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ... for the two reasons
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the checkpoint {path} cannot be loaded safely: {reason}") from error


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor of a folder that ``torch.distributed.checkpoint`` has written as safetensors: nothing there can
    be made to run code, which its other format, of pickles, can.

    Raises:
        ValueError: a file is missing or damaged.
    """
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader  # slow to import

    try:
        sizes = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        found = {name: torch.empty(x.size, dtype=x.properties.dtype) for name, x in sizes.items()}  # type: ignore
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each process reads for itself
            checkpoint.load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except Exception as error:  # as many kinds as ``torch.load`` raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the checkpoint's tensors in {folder} cannot be loaded: {reason}") from error
    return found


def without_tensors(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint of Lightning's without the tensors of weights and optimizers, and these by names of one level."""
    tensors = {f"weights.{name}": x for name, x in checkpoint["state_dict"].items()}
    states = []
    for number, optimizer in enumerate(checkpoint["optimizer_states"]):
        rest: dict[int, dict[str, Any]] = {}
        for param, values in optimizer["state"].items():
            mine = {key: x for key, x in values.items() if isinstance(x, Tensor)}
            tensors |= {f"optimizer.{number}.{param}.{key}": x for key, x in mine.items()}
            rest[param] = {key: x for key, x in values.items() if key not in mine}
        states.append({**optimizer, "state": rest})
    return {**checkpoint, "state_dict": {}, "optimizer_states": states}, tensors


def with_tensors(checkpoint: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What ``without_tensors`` took apart. Changes ``checkpoint``."""
    for name, x in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "weights":
            checkpoint["state_dict"][rest] = x
        else:
            number, param, key = rest.split(".", 2)
            checkpoint["optimizer_states"][int(number)]["state"][int(param)][key] = x
    return checkpoint


def prefix_of(run: RunFolder) -> str:
    """What the names of the student's backbone begin with in a run's checkpoint: of several towers the main one's.

    The config says which one that is: tensors that ranks have written in shares come in the order of their names.
    """
    student = run.read_config().get("student") or {}
    main = student.get("main") or next(iter(student.get("towers") or ()), None)
    return "student.backbone.net." if main is None else f"student.towers.{main}.backbone.net."


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a network: of the student's backbone in a run folder, or of a file that ``export`` wrote."""
    if path.is_dir():
        state, prefix = load_checkpoint(RunFolder(path).checkpoint_file)["state_dict"], prefix_of(RunFolder(path))
        return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
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
