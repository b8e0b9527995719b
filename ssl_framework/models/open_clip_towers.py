"""Both towers of a model of the package open_clip, as backbones whose features are its embeddings. Nothing is fetched.

B samples, L tokens of a text of ours, D dimensions of the common space.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import Features
from ssl_framework.models.layouts import tensors_of
from ssl_framework.models.towers import Towers
from ssl_framework.runs.messages import nearest
from ssl_framework.types import Inputs, Outputs


class Words(Protocol):
    """What knows which words tokens stand for."""

    def decode(self, tokens: Tensor) -> str:
        """One text [L] as it would be written."""
        ...


SCALE = "logit_scale"
"""The parameter that every model of open_clip has, by which a file's prefix is found."""


def open_clip() -> Any:
    """The package.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import open_clip as found
    except ImportError as error:
        raise ValueError(
            "backbone=open_clip:... needs the package open_clip_torch: pip install -e '.[open_clip]', or "
            "choose a run, run=..."
        ) from error
    return found


def known(name: str) -> dict[str, Any]:
    """The settings of the model of that name: "embed_dim", "vision_cfg" and "text_cfg".

    Raises:
        ValueError: open_clip has none, or is not installed.
    """
    found = open_clip().get_model_config(name)
    if found is None:
        raise ValueError(
            f"open_clip has no model {name!r}{nearest(name, open_clip().list_models())}: give "
            "open_clip:<one of open_clip.list_models()>"
        )
    return dict(found)


def network(name: str) -> Any:
    """The model with random weights.

    Raises:
        ValueError: it wants files that are not here.
    """
    package = open_clip()
    logging.disable(logging.WARNING)  # that weights are random
    try:
        return package.create_model(name, pretrained=None, load_weights=False, pretrained_text=False).float()
    except OSError as error:
        raise ValueError(f"open_clip cannot build {name} without a network: {' '.join(str(error).split())}") from error
    finally:
        logging.disable(logging.NOTSET)


class ClipPictures(nn.Module):
    """The picture tower.

    Args:
        net: it.
        name: of the model.
        dim: D.
    """

    weights: str | None = None

    def __init__(self, net: Any, name: str, dim: int) -> None:
        super().__init__()
        self.net = net
        self.name = f"open_clip:{name}"
        self.dim = dim

    def forward(self, x: Inputs) -> Outputs:
        """[B, 3, H, W], normalised as the model wants it -> "pooled" [B, D]"""
        return {"pooled": self.net(x)}

    def about(self) -> dict[str, str]:
        """The model."""
        return {"network": self.name}

    def load_line(self, path: Path) -> str:
        """Of the whole model."""
        return f"open_clip.create_model({self.name.partition(':')[2]!r}, pretrained={str(path)!r})"


class ClipTexts(ClipPictures):
    """The text tower, which reads the words of texts by its own tokenizer.

    Args:
        net: the model without its picture tower.
        name, dim: as of the pictures.
        tokenizer: the model's: texts -> tokens [B, l].
        words: what our tokens stand for.
    """

    def __init__(self, net: Any, name: str, dim: int, tokenizer: Any, words: Words) -> None:
        super().__init__(net, name, dim)
        self.log_scale = net.logit_scale  # as our objectives call it
        self.tokenizer = tokenizer
        self.words = words

    def forward(self, x: Inputs) -> Outputs:
        """[B, L] of our tokens -> "pooled" [B, D]"""
        assert isinstance(x, Tensor)
        tokens = self.tokenizer([self.words.decode(text) for text in x.cpu()])  # [B, l]
        return {"pooled": self.net.encode_text(tokens.to(x.device))}


def towers_of(net: Any, name: str, words: Words) -> Towers:
    """A model as towers for "image" and "text" whose heads "projector" are compared. Changes the model.

    Raises:
        ValueError: its tokenizer wants files that are not here.
    """
    dim = int(known(name)["embed_dim"])
    visual = net.visual
    del net.visual
    try:
        tokenizer = open_clip().get_tokenizer(name)
    except OSError as error:
        raise ValueError(f"the tokenizer of {name} is not here: {' '.join(str(error).split())}") from error
    backbones = {"image": ClipPictures(visual, name, dim), "text": ClipTexts(net, name, dim, tokenizer, words)}
    return Towers({key: Encoder(each, {"projector": Features("pooled")}) for key, each in backbones.items()})


def load(net: nn.Module, content: Mapping[str, Any], said: str) -> None:
    """Gives a model the weights of a file, whatever stands before their names.

    Args:
        net: of open_clip.
        content: of the file.
        said: what messages call the file.

    Raises:
        ValueError: a name is missing or left over, or a shape differs.
    """
    found, own = dict(tensors_of(content)), net.state_dict()
    before = sorted((key.removesuffix(SCALE) for key in found if f".{key}".endswith(f".{SCALE}")), key=len)
    if not before:
        raise ValueError(f"{said} holds no {SCALE}, which every model of open_clip has: give a file of its weights")
    state = {key.removeprefix(before[0]): x for key, x in found.items() if key.startswith(before[0])}
    missing, left = [name for name in own if name not in state], [name for name in state if name not in own]
    other = [name for name, x in own.items() if name in state and state[name].shape != x.shape]
    for what, names in (("lacks", missing), ("has besides", left), ("has of another shape", other)):
        if names:
            raise ValueError(
                f"{said} {what} {', '.join(names[:3])}{' ...' * (len(names) > 3)} ({len(names)} of {len(own)}): choose "
                "the model=open_clip:<name> that it is of"
            )
    with torch.no_grad():
        net.load_state_dict(state)


def preprocessing_of(name: str) -> dict[str, Any]:
    """What pictures the model's public weights were trained with: "image_size" in pixels, "channels", "mean", "std"."""
    size = known(name)["vision_cfg"].get("image_size", 224)
    package = open_clip()
    tags = package.list_pretrained_tags_by_model(name)
    said = package.get_pretrained_cfg(name, tags[0]) if tags else {}
    mean, std = said.get("mean", package.OPENAI_DATASET_MEAN), said.get("std", package.OPENAI_DATASET_STD)
    return {"image_size": size if isinstance(size, int) else size[0], "channels": 3, "mean": [*mean], "std": [*std]}
