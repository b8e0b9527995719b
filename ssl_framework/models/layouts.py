"""Weights as others have saved them: under which names a checkpoint of another library holds a backbone.

A file may hold the backbone below any prefix (``state_dict.module.encoder_q.``), beside heads, decoders and an
optimizer, under the names of timm, of torchvision, of a CLIP, or numbered as ``nn.Sequential`` does. What it holds is
found by comparing names: the prefix and the spelling under which most names of the network stand are taken.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from ssl_framework.models.exported import read_exported

Rename = tuple[str, str]
"""A pattern and what takes its place."""

SPELLINGS: dict[str, tuple[Rename, ...]] = {
    "timm": (),
    "nn.Sequential": (  # the children of a ResNet without its classifier, as lightly's examples put them together
        (r"^0\.", "conv1."),
        (r"^1\.", "bn1."),
        (r"^4\.", "layer1."),
        (r"^5\.", "layer2."),
        (r"^6\.", "layer3."),
        (r"^7\.", "layer4."),
    ),
    "torchvision's transformer": (
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.ln\.", "norm."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
        (r"\.self_attention\.out_proj\.", ".attn.proj."),
        (r"\.ln_1\.", ".norm1."),
        (r"\.ln_2\.", ".norm2."),
        (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
        (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    ),
    "CLIP's image tower": (
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^conv1\.", "patch_embed.proj."),
        (r"^ln_pre\.", "norm_pre."),
        (r"^ln_post\.", "norm."),
        (r"^transformer\.resblocks\.", "blocks."),
        (r"\.attn\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.ln_1\.", ".norm1."),
        (r"\.ln_2\.", ".norm2."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    ),
}
"""How names are spelt -> what makes timm's of them; the rest of each name stays."""

PREFERRED = ("teacher", "ema", "encoder_q", "online", "base_encoder", "student", "backbone")
"""Parts of a prefix, best first, where a file holds a network several times: what each method's authors evaluate."""

SECOND = ("encoder_k", "momentum", "target")
"""Parts of a prefix that are taken last: copies that are not evaluated."""

SMALL_SHARE = 0.01
"""Of the weights that may keep their random beginning, if they are norms or biases: more is another network."""

CANDIDATES = {
    "layer4": ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d"),
    "blocks": (
        *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
        *("vit_small_patch8_224", "vit_base_patch8_224", "vit_base_patch32_224"),
        *(f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large")),
        *(f"vit_{size}_patch14_reg4_dinov2" for size in ("small", "base")),
        *(f"vit_{size}_patch16_dinov3" for size in ("small", "base")),
        *("vit_base_patch32_clip_224", "vit_base_patch16_clip_224"),
    ),
    "stages": ("convnext_tiny", "convnext_small", "convnext_base"),
}
"""Part of a name that tells a family -> models of timm that public checkpoints of it are most often of."""


SAVE = "save the model's state_dict(), best as .safetensors"


class Inert:
    """Takes the place of every object in a pickle that is neither a tensor nor a plain value."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing with them."""

    def __setstate__(self, state: Any) -> None:
        """Does nothing with it."""


def read_content(path: Path) -> dict[str, Any]:
    """What a file of weights holds, of pickles tensors and plain values only: other objects become ``Inert``.

    Args:
        path: .safetensors, or anything that ``torch.save`` wrote (.pth, .pt, .bin, .ckpt, .pth.tar ...).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or could not be read without running code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {path}")
    if path.suffix == ".safetensors":
        try:
            return dict(read_exported(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is no .safetensors file ({error})") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch raises UnpicklingError, RuntimeError, EOFError ... for damage and foreign objects alike
        found = load_inert(path)
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds no weights but a {type(found).__name__}: {SAVE}")
    return dict(found)


def load_inert(path: Path) -> Any:
    """A pickle whose foreign objects are replaced before anything is built.

    Raises:
        ValueError: it is damaged, or of a format whose objects cannot be listed without building them.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stand_ins = [(type("Inert", (Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} was not loaded: it is damaged, or holds more than tensors and plain values, which could run "
            f"code: {SAVE}"
        ) from error


def tensors_of(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings, by its names joined with dots; parameters as plain tensors."""
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        elif isinstance(value, Mapping):
            yield from tensors_of(value, f"{prefix}{name}.")


class Place(NamedTuple):
    """Where in a file a network lies."""

    prefix: str  # such as "state_dict.module.encoder_q."
    spelling: str  # of SPELLINGS


class Fitted(NamedTuple):
    """What a network takes from a file."""

    state: dict[str, Tensor]  # all of the network's own names
    said: str  # one line: what was taken, dropped, resized and left as it was


def renamed(name: str, spelling: str) -> str:
    """timm's name."""
    for pattern, instead in SPELLINGS[spelling]:
        name = re.sub(pattern, instead, name)
    return name


def place_of(names: Sequence[str], own: set[str]) -> Place | None:
    """Where most names of a network stand; ``None`` if none does.

    Args:
        names: of all tensors in a file.
        own: the network's names.
    """
    found: dict[Place, int] = {}
    for name in names:
        cuts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        for cut in cuts:
            for spelling in SPELLINGS:
                if renamed(name[cut:], spelling) in own:
                    place = Place(name[:cut], spelling)
                    found[place] = found.get(place, 0) + 1
    return max(found, key=lambda place: (found[place], -rank_of(place.prefix)), default=None)


def rank_of(prefix: str) -> int:
    """0 for the prefix that is best taken, where several hold as much."""
    if any(part in prefix for part in SECOND):
        return len(PREFERRED) + 1
    return next((rank for rank, part in enumerate(PREFERRED) if part in prefix), len(PREFERRED))


def fitted(content: Mapping[str, Any], net: nn.Module, name: str) -> Fitted:
    """The state of a network with what a file holds of it.

    Position embeddings and patches are resized by timm, and a first convolution of other channels is adapted by it.
    Classifiers, heads, decoders, optimizers and further copies are dropped.

    Args:
        content: of the file, as ``read_content`` gives it.
        net: a timm model without classifier.
        name: timm's name of it.

    Raises:
        ValueError: the file holds another network, or none.
    """
    tensors, own = dict(tensors_of(content)), net.state_dict()
    place = place_of(list(tensors), set(own))
    if not tensors:
        raise ValueError(f"it holds no weights: {SAVE}")
    if place is None:
        raise ValueError(f"it holds no weight of {name}: its names are {', '.join(list(tensors)[:3])} ...")
    below = {
        renamed(key.removeprefix(place.prefix), place.spelling): x
        for key, x in tensors.items()
        if key.startswith(place.prefix)
    }
    resized = shaped(adapted(below, net), own)
    taken = {key: x for key, x in resized.items() if key in own and x.shape == own[key].shape}
    if found := misfits_of(resized, taken, net):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"it does not fit {name}: {found[0]}{more}{nearest_model(tensors, name)}")
    return Fitted({**own, **taken}, said_of(place, below, taken, own, len(tensors) - len(below)))


def adapted(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """What timm makes of the names and shapes for this network: embeddings resized, channels adapted."""
    module = __import__(type(net).__module__, fromlist=["checkpoint_filter_fn"])
    convert = vars(module).get("checkpoint_filter_fn")
    own = net.state_dict()
    shapes = {key: x.reshape(own[key].shape) if fits_flat(x, own.get(key)) else x for key, x in state.items()}
    found = dict(shapes if convert is None else convert(shapes, net))
    first = f"{vars(net).get('default_cfg', {}).get('first_conv')}.weight"
    if first in found and first in own and found[first].shape[1] != own[first].shape[1] and found[first].ndim == 4:
        found[first] = adapt_input_conv(own[first].shape[1], found[first])  # [D, C, h, w]
    return found


def fits_flat(x: Tensor, own: Tensor | None) -> bool:
    """Whether a tensor is the network's but for dimensions of length one: CLIP's class embedding is [D]."""
    return own is not None and x.ndim < own.ndim and x.numel() == own.numel()


def shaped(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the network's number format."""
    return {key: x.to(own[key].dtype) if key in own else x for key, x in state.items()}


def misfits_of(state: Mapping[str, Tensor], taken: Mapping[str, Tensor], net: nn.Module) -> list[str]:
    """Why these are not the weights of a network: other shapes, what is missing, and what it has no place for."""
    own = net.state_dict()
    found = [
        f"{key} is {by(x)} there and {by(own[key])} here" for key, x in state.items() if key in own and key not in taken
    ]
    missing = [key for key in own if key not in taken and key not in state and not key.endswith("num_batches_tracked")]
    total = sum(x.numel() for x in own.values())
    if sum(own[key].numel() for key in missing) > SMALL_SHARE * total or any(own[key].ndim > 1 for key in missing):
        found += [f"{key} is missing there" for key in missing]
    full = {key.split(".")[0] for key in own}
    deeper = [key for key in state if key not in own and "." in key and key.split(".")[0] in full]
    return found + [f"{key} has no place here" for key in deeper]


def said_of(
    place: Place, below: Mapping[str, Tensor], taken: Mapping[str, Tensor], own: Mapping[str, Tensor], rest: int
) -> str:
    """One line of what was taken, resized, dropped, and left as it was."""
    where = f" below {place.prefix.rstrip('.')}" if place.prefix else ""
    spelt = "" if place.spelling == "timm" else f", in the names of {place.spelling}"
    changed = [key for key, x in taken.items() if key in below and below[key].numel() != x.numel()]
    parts = [f"{len(taken)} of {len(own)} tensors taken{where}{spelt}"]
    if changed:
        parts.append(f"{', '.join(changed)} resized")
    dropped = sorted({key.split(".")[0] for key in below if key not in taken})
    if dropped:
        parts.append(f"dropped {', '.join(dropped[:4])}{' ...' if len(dropped) > 4 else ''}")
    if rest:
        parts.append(f"{rest} other{'s' if rest > 1 else ''} left out")
    left = [key for key in own if key not in taken and not key.endswith("num_batches_tracked")]
    if left:
        parts.append(f"left as they begin: {', '.join(left)}")
    return "; ".join(parts)


def nearest_model(tensors: Mapping[str, Tensor], name: str) -> str:
    """`` (they look like timm's X: ...)`` where one of ``CANDIDATES`` has these names and shapes, or nothing."""
    families = {part for part in CANDIDATES if any(f"{part}." in key for key in tensors)}
    for candidate in (model for part in sorted(families) for model in CANDIDATES[part]):
        if candidate == name or not timm.is_model(candidate):
            continue
        with torch.device("meta"):
            own = timm.create_model(candidate, num_classes=0).state_dict()
        place = place_of(list(tensors), set(own))
        if place is None:
            continue
        below = {
            renamed(key.removeprefix(place.prefix), place.spelling): x.numel()
            for key, x in tensors.items()
            if key.startswith(place.prefix)
        }
        if all(below.get(key) == x.numel() for key, x in own.items() if not key.endswith("num_batches_tracked")):
            return f" (they are those of timm's {candidate}: set backbone.name={candidate})"
    return ""


def by(x: Tensor) -> str:
    """A shape as a person writes it: 64 x 3 x 7 x 7."""
    return " x ".join(map(str, x.shape)) or "a number"
