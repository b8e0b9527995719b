"""Weights that a new run begins with: those of another run, of a file of any layout (``backbone.weights``), or those
that timm has for the name (``backbone.pretrained``).

A resumed run has its own in its checkpoint and reads no others.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor

from ssl_framework.models.base import BackboneProtocol, Public
from ssl_framework.models.layouts import fitted, read_content
from ssl_framework.models.tuning import folded
from ssl_framework.runs.added_keys import below
from ssl_framework.runs.durable import damage
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.plain import read_config

SHARDS = "shards"
"""In a checkpoint, the folder beside it in which its tensors lie, in one file a rank."""


SUMS = "shard_sums"
"""In such a checkpoint, the SHA-256 of each of these files by its name."""


class Damaged(ValueError):
    """A checkpoint is not what was written: its checksums, or its tensors', tell.

    Args:
        sentence: for the user.
        reason: what is wrong, in a few words.
    """

    def __init__(self, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Newest(NamedTuple):
    """The newest whole checkpoint of a run."""

    path: Path
    content: dict[str, Any]  # as ``load_checkpoint`` gives it
    note: str  # what to say if it is not the one that was written last; "" if it is


def newest_checkpoint(run: RunFolder) -> Newest:
    """The last state of a run, or the one before it where the last is damaged or missing.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: none is whole, or the newest whole one holds foreign objects.
    """
    reasons = []
    for path in (run.checkpoint_file, run.previous_checkpoint_file):
        try:
            content = load_checkpoint(path)
        except FileNotFoundError:
            reasons.append(f"{path.name} is missing")
        except Damaged as error:
            reasons.append(f"{path.name} is damaged ({error.reason})")
        else:
            note = f"{reasons[0]}: going on with {path.name}, step {content.get('global_step')}" if reasons else ""
            return Newest(path, content, note)
    if not run.checkpoint_files:
        raise FileNotFoundError(f"there is no checkpoint {run.checkpoint_file}")
    raise ValueError(
        f"{run.checkpoints} holds no whole checkpoint: {'; '.join(reasons)}: put a copy there, or remove the folder "
        f"{run} and start the run again"
    )


def load_newest(run: RunFolder) -> dict[str, Any]:
    """The content of ``newest_checkpoint``, with a warning if it is not the one that was written last."""
    found = newest_checkpoint(run)
    if found.note:
        warnings.warn(f"{run}: {found.note}")
    return found.content


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content on the CPU; tensors that ranks have written in shares are whole again.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: it is not what was written.
        ValueError: it holds foreign objects, or is no checkpoint.
    """
    found = load_without_shards(path)
    name, sums = found.pop(SHARDS, None), found.pop(SUMS, None)
    if name is None:
        return found
    folder = shards_of(Path(path), name)
    if reason := damage_of_shards(folder, sums):
        raise Damaged(f"the checkpoint's tensors in {folder} are damaged: {reason}", reason)
    return with_tensors(found, read_shards(folder))


def damage_of_shards(folder: Path, sums: Mapping[str, str] | None) -> str:
    """What is wrong with the files of a checkpoint's tensors; "" if nothing, or if no checksums are known."""
    for name, expected in sorted((sums or {}).items()):
        file = folder / Path(name).name
        if not file.is_file():
            return f"{file.name} is missing"
        if sha256_of(file) != expected:
            return f"the checksum of {file.name} is another"
    return ""


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def shards_of(path: Path, name: Any) -> Path:
    """The folder beside a checkpoint in which its tensors lie.

    Raises:
        ValueError: the checkpoint names another place.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w+-[\w-]+", name, re.ASCII):
        raise ValueError(f"the checkpoint {path} names {name!r} as the folder of its tensors: it must lie beside it")
    return path.with_name(name)


def load_without_shards(path: str | Path) -> dict[str, Any]:
    """As ``load_checkpoint``, but without the tensors if they lie in a folder beside the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if reason := damage(path):
        raise Damaged(f"the checkpoint {path} is damaged: {reason}", reason)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # torch raises UnpicklingError, RuntimeError, AttributeError ...
        raise ValueError(
            f"the checkpoint {path} cannot be loaded safely: it holds more than tensors and plain values, which could "
            "run code, and nothing of it was used"
        ) from None
    if not isinstance(found, dict) or not isinstance(found.get("state_dict"), Mapping):
        what = f"lacks {'state_dict'!r}" if isinstance(found, dict) else f"is of the type {type(found).__name__}"
        raise ValueError(f"{path} is no checkpoint of a run: what lies in it {what}")
    return found


def read_shards(folder: Path) -> dict[str, Tensor]:
    """Name -> tensor of a folder that ``torch.distributed.checkpoint`` has written as safetensors: nothing there can
    be made to run code, which its other format, of pickles, can.

    Raises:
        Damaged: a file is missing, or is not what was written.
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
        raise Damaged(f"the checkpoint's tensors in {folder} cannot be loaded: {reason}", reason) from error
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


def prefix_of(run: RunFolder, tower: str | None = None) -> str:
    """What the names of the student's backbone begin with in a run's checkpoint: of several towers that of the
    modality, where there is one, else of the main one.

    The config says which one that is: tensors that ranks have written in shares come in the order of their names.
    """
    student = below(read_config(run.config_file), "student")
    main = student.get("main") or next(iter(below(student, "towers")), None)
    if main is None:
        return "student.backbone.net."
    there = {**below(student, "others"), **below(student, "towers")}
    return f"student.towers.{tower if tower in there else main}.backbone.net."


def read_weights(path: Path, tower: str | None = None) -> dict[str, Any]:
    """What holds the weights of a network: a run folder's student, of several towers that of the modality or else the
    main one, or a file of any layout (see ``layouts``).

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it is damaged, or cannot be read without running code.
    """
    if path.is_dir():
        state, prefix = load_newest(RunFolder(path))["state_dict"], prefix_of(RunFolder(path), tower)
        return folded(below_prefix(state, prefix), below_prefix(state, prefix.removesuffix("net.") + "tuning."))
    if not path.is_file():
        raise FileNotFoundError(f"backbone.weights is {path}, which does not exist{by_name(str(path))}")
    try:
        return read_content(path)
    except ValueError as error:
        raise ValueError(f"backbone.weights: {error}") from error


def read_head(path: Path, tower: str, name: str) -> dict[str, Tensor]:
    """The weights of a head of one of a run's towers.

    Args:
        path: folder of the run.
        tower: modality of the tower.
        name: of the head.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is a file, is damaged, or the run has no such head.
    """
    if path.is_file():
        raise ValueError(
            f"backbone.weights is {path}, a file of a backbone alone, but heads of both towers are read, too: name the "
            "folder of the run"
        )
    found = below_prefix(load_newest(RunFolder(path))["state_dict"], f"student.towers.{tower}.heads.{name}.")
    if not found:
        raise ValueError(
            f"backbone.weights is {path}, a run without a head {name} of a tower for {tower}: name the folder of a run "
            "of two towers"
        )
    return found


def read_objective(path: Path) -> dict[str, Tensor]:
    """What a run's objective has learnt or keeps, by the names that it has there.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is damaged.
    """
    return below_prefix(load_newest(RunFolder(path))["state_dict"], "objective.")


def below_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def by_name(text: str) -> str:
    """How timm fetches what was meant for one of its models, ``hf-hub:timm/resnet18.a1_in1k``; or nothing."""
    found = re.fullmatch(r"(?:hf[-_]hub:|timm:)?(?:timm/)?([\w.]+)", text)
    if found is None or not timm.is_model(found[1]):
        return ""
    return f": timm fetches its own by name, backbone=timm backbone.name={found[1]} backbone.pretrained=true"


def has_weights(backbone: BackboneProtocol) -> bool:
    """Whether a new run's backbone begins with weights from elsewhere."""
    return backbone.weights is not None or (isinstance(backbone, Public) and backbone.pretrained)


def begin(backbone: BackboneProtocol, tower: str | None = None) -> str:
    """Gives a backbone the weights that its config names; the line that says what that is, "" where it names none.

    Args:
        backbone: of a student or a teacher.
        tower: its modality, where the student has several.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: they cannot be got, read safely, or do not fit.
    """
    if isinstance(backbone, Public) and backbone.pretrained:
        return load_into(backbone, *backbone.public())
    if backbone.weights is None:
        return ""
    content = read_weights(Path(backbone.weights).expanduser(), tower)
    return load_into(backbone, content, f"backbone.weights={backbone.weights}")


def load_into(backbone: BackboneProtocol, content: dict[str, Any], source: str) -> str:
    """Gives a backbone what there is of it, all of its weights but norms and biases; the line that says what that is.

    Args:
        backbone: whose weights they become.
        content: as ``read_weights`` gives it.
        source: what messages call it.

    Raises:
        ValueError: a name is missing or left over, a shape differs, or a number is not finite.
    """
    try:
        found = fitted(content, backbone.net, backbone.name)
    except ValueError as error:
        raise ValueError(
            f"{source}: {error}: choose the backbone, the size and the channels of views "
            "that these weights were trained with"
        ) from error
    refuse_non_finite_weights(found.state, source)
    backbone.net.load_state_dict(found.state)
    return f"{source}: {found.said}"


def refuse_non_finite_weights(state: Mapping[str, Tensor], where: str) -> None:
    """Raises ValueError if a weight or statistic is not finite; ``where`` says whose they are."""
    if bad := [name for name, x in state.items() if x.is_floating_point() and not x.isfinite().all()]:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ValueError(
            f"{where} holds NaN or infinity in {bad[0]}{more}: nothing was done with it; choose weights of a run that "
            "did not diverge"
        )
