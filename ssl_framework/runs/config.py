"""A run's config: where the shipped files lie, its hash, its command line, and what it may be compared with."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from ssl_framework.runs import composition, suggestions
from ssl_framework.runs.added_keys import without_added
from ssl_framework.runs.addresses import as_first_published, as_now
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import choices, files, groups
from ssl_framework.runs.messages import command_line
from ssl_framework.runs.overrides import key_of
from ssl_framework.runs.suggestions import towers_of

PICTURES = "ssl_framework.views.image.Views"
"""What makes views of pictures, in a config."""

EMBEDDED = "shapes"
"""The data set of pictures that needs no file."""


def hosted(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """The config with the data's own views (``data.views``) where the method has chosen views of pictures.

    The method says how many views there are; data that are no pictures say what may be changed about a sample. Has to
    come before anything is resolved, for the views of pictures read keys that such data have not. Changes ``cfg``.

    Args:
        cfg: as Hydra has composed it.
        overrides: of the command, which must not ask for views of pictures.

    Raises:
        ValueError: the command or the method asks for what the data's own views cannot do, or a part reads a key that
            the data have not.
    """
    own = OmegaConf.select(cfg, "data.views")
    if own is not None and cfg.views.get("_target_") == PICTURES:
        asked = [item for item in overrides if re.match(r"\+*views[=.]", item) and not re.search(r"\.count=", item)]
        said = f"data={cfg.data.name} has no pictures"
        if asked:
            raise ValueError(f"{asked[0]} is about pictures, but {said}: leave it out, or set keys of data.views")
        if cfg.views.get("noise") or cfg.views.get("geometry"):
            kind = own["_target_"] if ".pretext." in str(cfg.views.get("noise")) else None
            instead = suggestions.choices("views", lambda node: bool(node.get("question")) and node["_target_"] == kind)
            raise ValueError(
                f"the method has noise or geometry of pictures (views), but {said}: choose {instead}another method"
            )
        count = sum(group.get("count", 1) for group in cfg.views.groups)
        cfg.views = own
        cfg.views["num_views" if "num_views" in own else "count"] = count
    cross = OmegaConf.select(cfg, "evaluation.cross")
    if cross is not None and "_target_" not in cross:  # a method may set keys of an evaluation that was not chosen
        with open_dict(cfg):
            del cfg.evaluation.cross
    refuse_missing_data(cfg)
    return cfg


def refuse_missing_data(cfg: DictConfig) -> None:
    """Raises ValueError where a part of the config reads a key of the data that these data have not."""
    for key, value in leaves(OmegaConf.to_container(cfg, resolve=False)):
        for wanted in re.findall(r"\$\{data\.([\w.]+)\}", value) if isinstance(value, str) else ():
            above, _, name = f"data.{wanted}".rpartition(".")
            if name not in (OmegaConf.select(cfg, above) or {}):
                own = list(cfg.data.get("modalities", ["image"]))
                refuse_towers(cfg, own)
                group = key.split(".")[0]
                fitting = [f"{group}={choice}" for choice in choices(group) if reads(group, choice) <= set(cfg.data)]
                having = [choice for choice in choices("data") if has(choice, wanted)]
                having.sort(key=lambda choice: not re.search(r"^root: null", files("data")[choice].read_text(), re.M))
                other = EMBEDDED if EMBEDDED in having else next(iter(having), "")
                instead = [", ".join(fitting), other and f"other data, such as data={other}"]
                raise ValueError(
                    f"{key} reads data.{wanted}, which data={cfg.data.name} has not, being of modality "
                    f"{' and '.join(own)}: choose {' or '.join(filter(None, instead))}"
                )


def refuse_towers(cfg: DictConfig, modalities: Sequence[str]) -> None:
    """Raises ValueError where the method has a tower for what the data have not."""
    towers = towers_of(cfg)
    if lacking := [name for name in towers if name not in modalities]:
        fitting = suggestions.choices("data", lambda node: set(towers) <= set(node.get("modalities") or ["image"]))
        raise ValueError(
            f"the method has towers of {' and '.join(towers)}, but data={cfg.data.name} has no {lacking[0]}: choose "
            f"{fitting}a method of {' and '.join(modalities)}"
        )


def reads(group: str, choice: str) -> set[str]:
    """The keys of the data that a choice of a group reads."""
    return set(re.findall(r"\$\{(?:oc\.select:)?data\.(\w+)", files(group)[choice].read_text()))


def has(data: str, key: str) -> bool:
    """Whether data have a key, such as ``image_size``."""
    return re.search(rf"^{key.partition('.')[0]}:", files("data")[data].read_text(), re.MULTILINE) is not None


@functools.cache
def as_shipped() -> DictConfig:
    """The config without any override; the jobs of a multirun share it."""
    return hosted(hydra.compose("train"))


def refuse_unread(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses a key that was added with ``+`` where nothing reads it: of the config itself or of ``trainer``.

    Args:
        cfg: the composed config.
        overrides: of the command.

    Raises:
        ValueError: the key is not in the shipped files, and no value refers to it.
    """
    added = [item for item in overrides if item.startswith("+") and "@" not in item.partition("=")[0]]
    for item in added:
        key = key_of(item)
        above, _, name = key.rpartition(".")
        if above not in ("", "trainer") or "/" in key or key in groups() or refers_to(cfg, name):
            continue
        shipped = as_shipped()
        known = OmegaConf.select(shipped, above) if above else shipped
        if name not in known:
            where = f"{above} has" if above else "the config has"
            raise ValueError(f"nothing reads {key}: leave {item} out; {where}: {', '.join(map(str, known))}")


def refers_to(cfg: DictConfig, name: str) -> bool:
    """Whether an interpolation somewhere names a key."""
    values = (value for _, value in leaves(OmegaConf.to_container(cfg, resolve=False)))
    return any(isinstance(value, str) and re.search(rf"\$\{{[^}}]*\b{re.escape(name)}\b", value) for value in values)


MAY_CHANGE = (
    *("trainer", "logger", "evaluation", "report", "resume"),
    *("data.root", "data.table", "data.download", "data.num_workers", "data.resident_share", "data.store"),
)
"""Keys that may differ when a run is resumed: they say how and how long it runs, not what it learns from."""


def may_change(key: str) -> bool:
    """Whether a run that is resumed may have another value of ``key``."""
    return any(key == free or key.startswith(free + ".") for free in MAY_CHANGE)


began = [datetime.now()]
"""When the command was called, alike in all processes of a run."""


def begin(at: str) -> None:
    """Says when the command was called (ISO 8601)."""
    began[0] = datetime.fromisoformat(at)


OmegaConf.register_new_resolver("began", lambda pattern: began[0].strftime(pattern), replace=True)


def common_folder(folder: str, mode: str) -> str:
    """The folder of a run, or that of the multirun (``hydra.mode``) of which it is a job."""
    return os.path.dirname(folder) if "MULTIRUN" in str(mode) else folder


OmegaConf.register_new_resolver("common_folder", common_folder, replace=True)

LONGEST_NAME = 120
"""Characters of a job folder's name; file systems take 255 bytes."""

SWEPT = "SSL_FRAMEWORK_SWEPT"
"""Variable of the environment: the keys that differ between the jobs of this multirun, with commas between them."""


def job_folder(overrides: Sequence[str], sweep: str | None = None) -> str:
    """Name of a job's folder: a function of its overrides alone, in whatever order and whichever others run beside it.

    ``data-shapes+method-simclr+seed-0``: only characters that need no quotes in Hydra's grammar or in a shell. A hash
    takes the place of what is too long, and tells apart what differs in other characters only; what is swept comes
    first there, so that it can be read. The hash alone says which job it is: a folder that ends with it is the job's.

    Args:
        overrides: of the job.
        sweep: the folder of the multirun, in which the job's may lie under a name of other order.
    """
    text = "+".join(sorted(overrides))
    if len(name := spelled(sorted(overrides))) <= LONGEST_NAME and name.count("_") == text.count("_"):
        return name or "default"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    found = sorted(Path(sweep).glob(f"*-{digest}")) if sweep is not None and len(name) > LONGEST_NAME else []
    swept = os.environ.get(SWEPT, "").split(",")
    name = spelled(sorted(overrides, key=lambda item: (key_of(item) not in swept, item)))
    return found[0].name if found else f"{name[: LONGEST_NAME - 9]}-{digest}"


def spelled(overrides: Sequence[str]) -> str:
    """Overrides in characters of folders' names."""
    return re.sub(r"[^\w.+-]", "_", "+".join(item.replace("=", "-", 1) for item in overrides), flags=re.ASCII)


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)  # also where a launcher unpickles a job


def refuse_other_config(cfg: DictConfig, folder: RunFolder, chooses: str = "hydra.sweep.dir") -> None:
    """Refuses to take a run for this command's that was configured otherwise. Settles ``trainer.precision: auto`` as
    there.

    Loggers and places, which change no number, may differ.

    Args:
        cfg: what the command composes. Changes it.
        folder: of the run.
        chooses: the key that chooses the folder, for the error.

    Raises:
        ValueError: a key of the folder's config.yaml and of ``cfg`` differ.
    """
    stored, now = folder.read_config(), OmegaConf.create(OmegaConf.to_yaml(cfg, resolve=True))
    if now.trainer.precision == "auto" and OmegaConf.select(stored, "trainer.precision"):
        now.trainer.precision = cfg.trainer.precision = stored.trainer.precision
    contents = (without_added(without_places(as_now(OmegaConf.to_container(c)))) for c in (stored, now))
    before, after = (dict(leaves(content)) for content in contents)
    for key in sorted(before.keys() | after.keys()):
        here, there = (values.get(key, "absent") for values in (after, before))
        if here != there:
            cure = f"choose another {chooses}, or remove that folder"
            if may_change(key):
                cure += f"; {command_line([f'resume={os.path.relpath(folder.path)}', f'{key}={here}'])} goes on there"
            raise ValueError(f"{folder} holds a run with {key}={there}, but here it is {here}: {cure}")


def config_hash(cfg: DictConfig) -> str:
    """Short hash of what determines a result up to chance: all but seed, places, loggers, report and alarm.

    It is that of the config as it was first written: an address that moved and a key that was added do not change it.
    Where weights lie in a folder that is called by the seed, it is chance which of them they are.
    """
    content = without_places(OmegaConf.to_container(cfg, resolve=True))
    name_weights_by_seed(content, str(content.pop("seed", None)))
    content["data"]["source"].pop("seed", None)
    written = as_first_published(without_added(content))
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:12]


def name_weights_by_seed(content: Any, seed: str) -> None:
    """Has ``weights=outputs/first/3`` be the same for every seed, where 3 is the run's own. Changes ``content``."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            name_weights_by_seed(value, seed)
        elif key == "weights" and isinstance(value, str):
            content[key] = "/".join("${seed}" if part == seed else part for part in value.split("/"))


SWITCHES = ("make_store", "keep_sizes")
"""Of data, that a loaded run turns off: see ``runs.paths``."""


BETTER = ("keep_best", "keep_best_mode")
"""Keys of ``trainer`` that say what is better, which also decides the end of a run with ``stop_early``."""


SAVING = ("checkpoint_every_n_steps", "checkpoint_every_minutes", "keep_best_k", "mirror")
"""Keys of ``trainer`` that say when and where the state is saved."""


def without_places(content: Any) -> dict[str, Any]:
    """A config without what changes no number: where things lie, how they are fetched, loggers, report and alarm.

    Changes ``content``.
    """
    for key in ("resume", "logger", "report", "hparams_search", "previous"):  # the last: of an earlier version
        content.pop(key, None)
    (content.get("pseudo_labels") or {}).pop("previous", None)
    data = content.get("data", {})
    for node in (data, data.get("source", {})):
        for key in ("root", "download", "resident_share", "store", "num_workers", "num_threads", "cache", *SWITCHES):
            node.pop(key, None)
    trainer = content.get("trainer", {})
    better = () if trainer.get("stop_early") else BETTER
    for key in ("num_threads", "compile_views", "collapse_below", "hang_after_minutes", *SAVING, *better):
        trainer.pop(key, None)
    generated = content.get("generated") or {}
    for node in (generated, generated.get("source", {})):
        for key in ("root", "path", "make_store"):
            node.pop(key, None)
    return content


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """``a.b.0`` and value for everything in a nested config that is neither mapping nor list, or is an empty one."""
    if isinstance(node, (dict, list)) and node:
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def names_of_run(choices: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What a run is called, its data set and chosen groups, the overrides, and a command that repeats the run.

    Args:
        choices: group -> the choice that was composed.
        overrides: of the command line.
    """
    chosen = {group: choices[group] for group in ("method", *composition.PARTS)}
    names = {"method": composition.called(chosen), "data": choices["data"], "choices": chosen}
    return {**names, "overrides": list(overrides), "command": command_line(overrides)}
