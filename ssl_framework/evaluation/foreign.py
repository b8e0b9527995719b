"""Backbones from elsewhere: timm's models, and files of weights. Nothing in a file is unpickled but tensors."""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssl_framework.build import build
from ssl_framework.data.residence import note
from ssl_framework.evaluation.features import Bare
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.layouts import fitted, read_content, tensors_of
from ssl_framework.models.pretrained import fetched, preprocessing_of, tag_of
from ssl_framework.models.weights import refuse_non_finite_weights
from ssl_framework.runs.messages import nearest
from ssl_framework.runs.overrides import composed, merged
from ssl_framework.runs.paths import leads_elsewhere
from ssl_framework.runs.plain import plain_json

WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".torch")
"""Endings of files of weights."""


BACKBONE_KEYS = ("options", "channels_last")
"""What ``Foreign.trained_with`` says of the backbone; the rest is of the images."""

MOST_METADATA = 1 << 16
"""Characters of what a file says of its weights; an export writes a few hundred."""


class Foreign(NamedTuple):
    """What ``backbone=`` names."""

    said: str  # as it was typed
    timm_name: str
    pretrained: bool  # weights that timm finds; of a file: that they are such weights
    path: Path | None  # file of weights
    trained_with: dict[str, Any]  # image_size, channels, mean, std and BACKBONE_KEYS as far as known

    @classmethod
    def read(cls, said: str, model: str | None, pretrained: str | None) -> "Foreign":
        """What a command says, checked before anything is computed.

        Args:
            said: ``timm:<name>`` or a file.
            model: timm's name of the model that a file holds; ``None``: the file says it.
            pretrained: "true" or "false"; ``None`` is false.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a wrong name, or words that do not go together.
        """
        if pretrained not in (None, "true", "false"):
            raise ValueError(f"pretrained={pretrained} is neither true nor false")
        wanted = pretrained == "true"
        if said.startswith("timm:"):
            if model is not None:
                raise ValueError(f"backbone={said} names its model: leave model={model} out")
            name = known(said.removeprefix("timm:"), "backbone=timm:")
            return cls(said, name, wanted, None, preprocessing_of(name) if wanted else {})
        path = Path(said).expanduser()
        if path.is_dir():
            raise ValueError(f"backbone={said} is a folder: a run is evaluated with run={said}")
        if not path.is_file():
            if path.suffix not in WEIGHTS and timm.is_model(said):
                raise ValueError(f"backbone={said} is no file: timm's model of that name is backbone=timm:{said}")
            raise FileNotFoundError(
                f"backbone={said} does not exist: give a .safetensors file, or timm:<name> for a model of timm"
            )
        about = metadata_of(path)
        if model is None and "timm_name" not in about:
            raise ValueError(f"{said} does not say which model its weights are of: add model=<timm's name of it>")
        name = known(about["timm_name"] if model is None else model, "model=")
        if wanted:
            return cls(said, name, True, path, preprocessing_of(name))
        return cls(said, name, False, path, about.get("trained_with") or channels_of(path, name))

    @property
    def has_weights(self) -> bool:
        """Whether there are weights of a training."""
        return self.pretrained or self.path is not None

    def config(self) -> DictConfig:
        """See ``foreign_config``."""
        return foreign_config(self)

    def settled(self, cfg: DictConfig) -> DictConfig:
        """See ``as_many_channels``."""
        return as_many_channels(cfg)

    def refuse_modalities(self, given: Sequence[str], data: str) -> None:
        """Pictures are enough."""

    def build(self, cfg: DictConfig, with_weights: bool) -> Bare:
        """The backbone as evaluators read it, without heads.

        Args:
            cfg: resolved, with "seed", "backbone" and "views".
            with_weights: or the random ones of the seed.

        Raises:
            ValueError: the model takes no such images, or the weights do not fit.
        """
        torch.manual_seed(cfg.seed)
        try:
            backbone: Backbone = build(cfg.backbone)
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; views.image_size=<px> resizes the images") from error
        if with_weights and self.path is not None:
            self.load(backbone, read_content(self.path))
        elif with_weights and self.pretrained:
            backbone.net.load_state_dict(self.fetched(backbone))
        return Bare(build(cfg.views), Encoder(backbone, heads={}))

    def load(self, backbone: Backbone, content: Mapping[str, Any]) -> None:
        """Gives a backbone the weights of a file of any layout (see ``layouts``), without heads and classifiers.

        Raises:
            ValueError: a name is missing or left over, a shape differs, or a number is not finite.
        """
        try:
            found = fitted(content, backbone.net, self.timm_name)
        except ValueError as error:
            raise ValueError(
                f"{self.said}: {error}: choose model=, views.channels and backbone.options that these weights were "
                "trained with"
            ) from error
        refuse_non_finite_weights(found.state, self.said)
        note(f"{self.said}: {found.said}")
        backbone.net.load_state_dict(found.state)

    def fetched(self, backbone: Backbone) -> dict[str, Tensor]:
        """timm's pretrained weights, from its cache or the network, at the size of the backbone.

        Raises:
            ValueError: timm cannot get them.
        """
        instead = (
            "leave pretrained=true out, or give a file of weights with backbone=<file> "
            f"model={self.timm_name} pretrained=true"
        )
        return fetched(self.timm_name, instead, in_chans=backbone.channels, **backbone.options)

    def about(self, model: Bare) -> dict[str, Any]:
        """What a record says of it."""
        weights = "random"
        if self.path is not None:
            weights = f"{self.path}, sha256 {hashlib.sha256(self.path.read_bytes()).hexdigest()}"
        elif self.pretrained:
            weights = f"timm's {tag_of(self.timm_name)}"
        backbone = model.student.backbone
        count = sum(p.numel() for p in backbone.net.parameters())
        about = {"backbone": self.said, "timm_name": self.timm_name, "weights": weights, "trained": self.has_weights}
        return {**about, "parameters": count, "dim": backbone.dim}


def foreign_config(foreign: Foreign) -> DictConfig:
    """ "seed", "trainer", "backbone" and "views" of a backbone from elsewhere; they refer to the data's."""
    cfg = OmegaConf.create({"seed": 0})
    for group, name in (("trainer", "auto"), ("backbone", "timm"), ("views", "uncropped")):
        cfg = merged(cfg, composed(group, name))
    cfg.backbone.name = foreign.timm_name
    cfg.backbone.image_size, cfg.backbone.channels = "${views.image_size}", "${views.channels}"
    for key, value in foreign.trained_with.items():
        (cfg.backbone if key in BACKBONE_KEYS else cfg.views)[key] = value
    return cfg


def as_many_channels(cfg: DictConfig) -> DictConfig:
    """Gives the views as many numbers in mean and std as they have channels, where these are not the data's: those of
    grey images for each channel, or the mean over the channels of colour images. Changes ``cfg``, which is resolved."""
    for name in ("mean", "std"):
        values = list(cfg.views[name])
        if values == list(cfg.data[name]) and len(values) != cfg.views.channels:
            cfg.views[name] = [sum(values) / len(values)] * cfg.views.channels
    return cfg


def known(name: str, where: str) -> str:
    """The name of a model that timm has.

    Raises:
        ValueError: it has none of that name.
    """
    if not name or not timm.is_model(name):
        raise ValueError(
            f"timm has no model {name!r}{nearest(name, timm.list_models())}: give {where}<one of timm.list_models()>"
        )
    return name


def channels_of(path: Path, name: str) -> dict[str, Any]:
    """The "channels" that the weights of a file are for, as their first convolution shows; nothing if it does not."""
    first = getattr(timm.get_pretrained_cfg(name), "first_conv", None)
    ends = f"{first}.weight"
    found = (x for key, x in tensors_of(read_content(path)) if f".{key}".endswith(f".{ends}") and x.ndim == 4)
    weight = next(found, None) if isinstance(first, str) else None
    return {} if weight is None else {"channels": weight.shape[1]}


def metadata_of(path: Path) -> dict[str, Any]:
    """What ``scripts/export.py`` has written beside the weights: "timm_name", and "trained_with" since it knows it.

    Raises:
        ValueError: no file of weights.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no .safetensors file ({error}): give one, or a .pt file of weights") from error
    found: dict[str, Any] = {"timm_name": about["timm_name"]} if "timm_name" in about else {}
    if "trained_with" in about:
        found["trained_with"] = checked_training(about["trained_with"], path)
    return found


def checked_training(text: str, path: Path) -> dict[str, Any]:
    """What a file says its weights were trained with: numbers and names, of which nothing is ever constructed.

    Raises:
        ValueError: it says something else.
    """
    if len(text) > MOST_METADATA:
        raise ValueError(f"{path}: trained_with has {len(text):,} characters, more than {MOST_METADATA:,}")
    try:
        found = plain_json(text, "trained_with")
    except ValueError as error:
        raise ValueError(f"{path}: trained_with cannot be read ({error}): write the file again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: trained_with is {type(found).__name__}, not a mapping")
    if unknown := [key for key in found if key not in CHECKS]:
        raise ValueError(f"{path}: trained_with has {unknown[0]!r}: only {', '.join(CHECKS)} are known")
    for key, value in found.items():
        if not CHECKS[key](value):
            raise ValueError(f"{path}: trained_with has {key}={str(value)[:60]}, which cannot be: write the file again")
    return found


def is_count(value: Any, most: int) -> bool:
    """Whether a value is a whole number from 1 to ``most``."""
    return type(value) is int and 1 <= value <= most


def are_numbers(value: Any, least: float) -> bool:
    """Whether a value is a list of a few finite numbers of at least ``least``."""
    return (
        isinstance(value, list)
        and 1 <= len(value) <= 64
        and all(type(x) in (int, float) and math.isfinite(x) and abs(x) < 1e6 and x >= least for x in value)
    )


def are_options(value: Any) -> bool:
    """Whether a value is a mapping that says how a network is built, and nothing of which weights it begins with."""
    return isinstance(value, dict) and all(
        isinstance(key, str) and key.isidentifier() and not leads_elsewhere(key) and is_option(one)
        for key, one in value.items()
    )


def is_option(value: Any) -> bool:
    """Whether a value is a number of a size that a network can have, a truth value, a name, null, or a list of them."""
    if isinstance(value, list):
        return len(value) <= 64 and all(is_option(one) and not isinstance(one, list) for one in value)
    if isinstance(value, str):
        return re.fullmatch(r"\w{0,32}", value, re.ASCII) is not None
    return value is None or (type(value) in (bool, int, float) and math.isfinite(value) and abs(value) <= 16384)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "image_size": lambda value: is_count(value, 4096),
    "channels": lambda value: is_count(value, 64),
    "mean": lambda value: are_numbers(value, -1e6),
    "std": lambda value: are_numbers(value, 1e-6),
    "options": are_options,
    "channels_last": lambda value: isinstance(value, list) and all(one in ("cpu", "cuda") for one in value),
}
"""What ``scripts/export.py`` writes of a training -> whether a value can be that."""
