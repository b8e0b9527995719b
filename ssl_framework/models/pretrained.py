"""Public weights that timm finds by a model's name: what they expect of images, and how they are fetched."""

import logging
from typing import Any

import timm
import torch
from torch import Tensor


def preprocessing_of(name: str) -> dict[str, Any]:
    """Image size, channels, mean and standard deviation that timm's pretrained weights expect.

    Raises:
        ValueError: timm has no pretrained weights of this model.
    """
    about = timm.get_pretrained_cfg(name)
    if about is None or not about.has_weights:
        raise ValueError(f"timm has no pretrained weights of {name}: leave pretrained=true out")
    channels, size, _ = about.input_size
    return {"image_size": size, "channels": channels, "mean": list(about.mean), "std": list(about.std)}


def tag_of(name: str) -> str:
    """What timm calls the weights of a model's name, such as "a1_in1k"."""
    return getattr(timm.get_pretrained_cfg(name), "tag", "") or "default"


def fetched(name: str, instead: str, **options: Any) -> dict[str, Tensor]:
    """The state of a model with timm's pretrained weights, from its cache or the network. Draws nothing.

    Args:
        name: timm's name of the model.
        instead: what the user can do without them, for the error.
        options: of the model.

    Raises:
        ValueError: timm has none, or cannot get them.
    """
    preprocessing_of(name)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what fails is said below, once
    try:
        with torch.random.fork_rng([]):
            return timm.create_model(name, pretrained=True, num_classes=0, **options).state_dict()
    except Exception as error:  # of the network, the hub's client, the file, the shapes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"timm cannot load the pretrained weights of {name} ({type(error).__name__}: {reason}): {instead}"
        ) from error
