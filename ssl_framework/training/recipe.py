"""What the weights that a run begins with expect of images: their mean, standard deviation and size become the data's.

It is settled when a run is planned, before anything refers to the data, and stored with the run: going on, evaluating
and exporting it see the same, and need the weights no more. What the command, an experiment or the method says of the
data stays.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.added_keys import below
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import files
from ssl_framework.runs.overrides import keys_of
from ssl_framework.runs.plain import read_config
from ssl_framework.runs.suggestions import read_node

KEYS = ("image_size", "mean", "std")
"""Of ``data``, that are the weights' where nobody says otherwise."""

CROPPED = 0.875
"""Share of a stored image's side that a view of the weights' size is (ImageNet's 224 of 256 pixels)."""

PLACES = ("backbone", "teacher.backbone")
"""Where a config says which weights a run begins with; the first that names some is the data's measure."""


def settle_recipe(cfg: DictConfig, data: str, overrides: Sequence[str], run: RunFolder | None) -> str:
    """Gives the data what the weights expect that the run begins with; the line that says so. Changes ``cfg``.

    Args:
        cfg: as composed, its interpolations unresolved.
        data: the choice of the group.
        overrides: of the command.
        run: the folder in which this command may have begun the run, whose weights may be gone meanwhile; ``None``:
            there is none.

    Raises:
        FileNotFoundError: there is no such folder or file of weights.
        ValueError: it cannot be read, or timm has no such weights.
    """
    node = next((found for place in PLACES if has_weights(found := OmegaConf.select(cfg, place))), None)
    if node is None or "image_size" not in cfg.data:
        return ""
    try:
        wanted, whose = recipe_of(node, cfg.data)
    except FileNotFoundError:
        if run is None or not (wanted := recipe_in(run, node)):
            raise
        whose = f"the weights that {run} began with"
    free = [key for key in (*KEYS, "stored_size") if key in cfg.data and is_free(key, cfg, data, overrides)]
    if "image_size" in free:
        wanted = {**stored_for(wanted, cfg.data), **wanted}
    return take(cfg, {key: wanted[key] for key in free if key in wanted}, whose)


def has_weights(node: Any) -> bool:
    """Whether a backbone's node names weights."""
    return OmegaConf.is_dict(node) and bool(node.get("pretrained") or node.get("weights"))


def take(cfg: DictConfig, taken: Mapping[str, Any], whose: str) -> str:
    """Sets keys of the data; the line about those that were others, "" if none was. Changes ``cfg``."""
    said = []
    for key, value in taken.items():
        if OmegaConf.to_container(cfg.data)[key] != value:  # type: ignore[index, call-overload]
            cfg.data[key] = value
            said.append(f"data.{key}={shown(value)}")
    return f"{', '.join(said)}: as {whose}; write these keys into the command to choose others" if said else ""


def stored_for(wanted: Mapping[str, Any], data: DictConfig) -> dict[str, int]:
    """The ``stored_size`` that views of the weights' size are cut out of, where images are stored smaller."""
    size, stored = wanted.get("image_size", 0), data.get("stored_size")
    return {"stored_size": round(size / CROPPED)} if isinstance(stored, int) and stored < size else {}


def shown(value: Any) -> str:
    """A value as the command line takes it."""
    return f"[{','.join(f'{x:.4g}' for x in value)}]" if isinstance(value, list) else str(value)


def is_free(key: str, cfg: DictConfig, data: str, overrides: Sequence[str]) -> bool:
    """Whether a key of the data has the value of the data's own file, which no command, experiment or method chose."""
    if f"data.{key}" in keys_of(overrides):
        return False
    own = read_node(files("data")[data]).get(key)
    return own is None or OmegaConf.to_container(cfg.data)[key] == own  # type: ignore[index, call-overload]


def recipe_of(node: DictConfig, data: DictConfig) -> tuple[dict[str, Any], str]:
    """``KEYS`` of the weights that a backbone's node names, as far as they are known, and whose they are.

    Raises:
        FileNotFoundError, ValueError: see ``settle_recipe``.
    """
    from ssl_framework.models.pretrained import preprocessing_of, tag_of  # imports torch

    if not node.get("pretrained"):
        return recipe_at(Path(node.weights).expanduser(), node, data)
    found, name = preprocessing_of(node.name), f"timm's {node.name} ({tag_of(node.name)}) expects them"
    return for_channels(found, data), name


def recipe_at(path: Path, node: DictConfig, data: DictConfig) -> tuple[dict[str, Any], str]:
    """The same of a run folder or a file: what the run or the export says, else what timm says of the network."""
    from ssl_framework.evaluation.foreign import checked_training, metadata_of, preprocessing_of
    from ssl_framework.models.weights import read_weights

    if path.is_dir():
        views = below(read_config(RunFolder(path).config_file), "views")
        own = {key: views[key] for key in (*KEYS, "channels") if key in views}
        return for_channels(checked_training(json.dumps(own), path), data), f"{path} was trained with them"
    if own := metadata_of(path).get("trained_with", {}) if path.is_file() else {}:
        return for_channels(own, data), f"{path} was trained with them"
    if "name" not in node:
        return {}, ""
    name = network_of(read_weights(path), node, data)
    try:
        return for_channels(preprocessing_of(name), data), f"timm's {name} expects them"
    except ValueError:  # timm has no weights of that name
        return {}, ""


def network_of(content: Mapping[str, Any], node: DictConfig, data: DictConfig) -> str:
    """Which of the two networks of a backbone a file holds: the one for small images has a smaller first convolution.

    Args:
        content: of the file.
        node: of the backbone.
        data: the config's, at their own size.
    """
    import timm

    from ssl_framework.models.backbone import SMALL_IMAGE  # registers the small nets
    from ssl_framework.models.layouts import tensors_of

    small = node.get("small_name")
    if small is None or data.image_size > SMALL_IMAGE:
        return node.name
    first = timm.create_model(small, num_classes=0).state_dict()["conv1.weight"]  # [D, C, h, w]
    found = [x for name, x in tensors_of(content) if x.ndim == 4]
    return small if any(x.shape[2:] == first.shape[2:] and x.shape[1] <= 4 for x in found) else node.name


def for_channels(found: Mapping[str, Any], data: DictConfig) -> dict[str, Any]:
    """``KEYS``, with as many numbers as the data have channels: of grey images the mean of the colours', and the other
    way round; without mean and std where the data have bands."""
    own = {key: found[key] for key in KEYS if key in found}
    for key in ("mean", "std"):
        values = list(own.get(key, ()))
        if values and len(values) != data.channels:
            own[key] = [sum(values) / len(values)] * data.channels
    if found.get("channels") != data.channels and data.channels not in (1, 3):
        own = {key: value for key, value in own.items() if key == "image_size"}
    return own


def recipe_in(run: RunFolder, node: DictConfig) -> dict[str, Any]:
    """``KEYS`` of a run that began with the same weights; none where the folder holds no such run."""
    try:
        stored = read_config(run.config_file)
    except (ValueError, OSError):
        return {}
    places = [below(stored, "backbone"), below(below(stored, "teacher"), "backbone")]
    if not run.has_checkpoint or node.get("weights") not in [place.get("weights") for place in places]:
        return {}
    data = below(stored, "data")
    return {key: data[key] for key in (*KEYS, "stored_size") if key in data}
