"""A run's config: where the shipped files lie, its hash, its command line, and what it may be compared with."""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.addresses import as_first_published, as_now

HERE = Path(__file__).resolve().parents[1]  # the package


CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # installed, or a source tree


def quoted(text: str) -> str:
    """A path as a value of Hydra's override grammar."""
    return "'" + text.replace("'", r"\'") + "'"


@functools.cache
def as_shipped(*groups: str) -> DictConfig:
    """The config of these choices without any other override; the jobs of a multirun share most of them."""
    return hydra.compose("train", overrides=list(groups))


def refuse_other_types(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses a value that is no number (or no truth value) where the shipped config has one."""
    split = [item.partition("=") for item in overrides if not item.startswith(("+", "~"))]
    shipped = as_shipped(*(f"{key}={value}" for key, _, value in split if (CONFIGS / key).is_dir()))
    for key, _, _ in split:
        if (CONFIGS / key).is_dir():
            continue
        default, value = OmegaConf.select(shipped, key), OmegaConf.select(cfg, key)
        for kind, name in ((bool, "true or false"), ((int, float), "a number")):
            if isinstance(default, kind) and not isinstance(value, kind) and value is not None:
                raise ValueError(f"{key} is {value!r}: it must be {name} (as shipped: {default})")


began = [datetime.now()]
"""When the command was called, alike in all processes of a run."""


def begin(at: str) -> None:
    """Says when the command was called (ISO 8601)."""
    began[0] = datetime.fromisoformat(at)


OmegaConf.register_new_resolver("began", lambda pattern: began[0].strftime(pattern), replace=True)

LONGEST_NAME = 120
"""Characters of a job folder's name; file systems take 255 bytes."""


def job_folder(overrides: Sequence[str]) -> str:
    """Name of a job's folder: a function of its overrides alone, in whatever order and whichever others run beside it.

    ``data-shapes+method-simclr+seed-0``: only characters that need no quotes in Hydra's grammar or in a shell. A hash
    takes the place of what is too long, and tells apart what differs in other characters only.
    """
    text = "+".join(sorted(overrides))
    name = re.sub(r"[^\w.+-]", "_", "+".join(item.replace("=", "-", 1) for item in sorted(overrides)), flags=re.ASCII)
    if len(name) <= LONGEST_NAME and name.count("_") == text.count("_"):
        return name or "default"
    return f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)  # also where a launcher unpickles a job


def refuse_other_config(cfg: DictConfig, folder: Path) -> None:
    """Refuses to take a run for this job's that was configured otherwise. Settles ``trainer.precision: auto`` as there.

    Loggers and places, which change no number, may differ.

    Raises:
        ValueError: a key of the folder's config.yaml and of ``cfg`` differ.
    """
    stored, now = OmegaConf.load(folder / "config.yaml"), OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True))
    if now.trainer.precision == "auto":
        now.trainer.precision = cfg.trainer.precision = stored.trainer.precision
    before, after = (dict(leaves(without_places(as_now(OmegaConf.to_container(c))))) for c in (stored, now))
    for key in sorted(before.keys() | after.keys()):
        here, there = (values.get(key, "absent") for values in (after, before))
        if here != there:
            raise ValueError(
                f"{folder} holds a run with {key}={there}, but here it is {here}: choose another hydra.sweep.dir, or "
                "remove that folder"
            )


def config_hash(cfg: DictConfig) -> str:
    """Short hash of what determines a result up to chance: all but seed, places, loggers, report and alarm."""
    content = without_places(OmegaConf.to_container(cfg, resolve=True))
    content.pop("seed", None)
    content["data"]["source"].pop("seed", None)
    return hashlib.sha256(json.dumps(as_first_published(content), sort_keys=True).encode()).hexdigest()[:12]


def without_places(content: Any) -> dict[str, Any]:
    """A config without what changes no number: where things lie, how they are fetched, loggers, report and alarm.

    Changes ``content``.
    """
    for key in ("resume", "logger", "report", "hparams_search", "previous"):  # the last: of an earlier version
        content.pop(key, None)
    (content.get("pseudo_labels") or {}).pop("previous", None)
    data = content.get("data", {})
    for node in (data, data.get("source", {})):
        for key in ("root", "download", "resident_share", "store", "num_workers", "num_threads", "cache"):
            node.pop(key, None)
    content = without_later_keys(content)
    for key in ("num_threads", "collapse_below"):
        content.get("trainer", {}).pop(key, None)
    generated = content.get("generated") or {}
    for node in (generated, generated.get("source", {})):
        for key in ("root", "path"):
            node.pop(key, None)
    return content


LATER = {"strategy": "ddp", "checkpoint_activations": False}
"""Keys that configs have had only since a later version, and the value that says what was so before."""


def without_later_keys(node: Any) -> Any:
    """A copy of a nested config without the keys of ``LATER`` where they have that value."""
    if isinstance(node, dict):
        return {
            key: without_later_keys(value) for key, value in node.items() if key not in LATER or value != LATER[key]
        }
    return [without_later_keys(value) for value in node] if isinstance(node, list) else node


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b.0`` and value for everything in a nested config that is neither mapping nor list, or is an empty one."""
    if isinstance(node, (dict, list)) and node:
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def command_line(overrides: Sequence[str], *options: str) -> str:
    """The command that a user types for these overrides."""
    quoted = (item if re.fullmatch(r"[\w=.,:/+~@%-]+", item) else f'"{item}"' for item in overrides)
    return " ".join(["python train.py", *options, *quoted])
