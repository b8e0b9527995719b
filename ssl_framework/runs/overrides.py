"""Which protocols and data sets an evaluation is made of: the stored ones by name, and ``key=value`` on top of them.

What is stored in files Hydra composes, and its grammar reads every value. Setting it is ours: Hydra's begins with a
defaults list, which the resolved config of a run has no more, and sets a key in one config, where here each of several
protocols takes the keys that it has.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import choices, composing
from ssl_framework.runs.messages import nearest
from ssl_framework.runs.typed_paths import with_paths_quoted


def stored(group: str) -> list[str]:
    """The names that ``group=<name>`` can have, sorted."""
    return choices(group)


def names_of(group: str, value: str) -> list[str]:
    """The names in ``group=a,b``, in their order, each once.

    Raises:
        ValueError: none, or one that is not stored.
    """
    names = list(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not names:
        raise ValueError(f"{group}= names nothing: give one or more of {', '.join(stored(group))}")
    for name in names:
        if name not in stored(group):
            known = ", ".join(stored(group))
            raise ValueError(f"there is no {group}={name}{nearest(name, stored(group))}; {group} can be: {known}")
    return names


def composed(group: str, name: str) -> DictConfig:
    """``{group: its settings}`` as ``group=<name>`` brings them to a run, unresolved."""
    with composing():
        # A data set may choose parts of a run, so it is composed as one.
        whole = compose("train", [f"data={name}"]) if group == "data" else compose(overrides=[f"+{group}={name}"])
        found = OmegaConf.masked_copy(whole, group)
    OmegaConf.set_struct(found, False)
    return found


def key_of(item: str) -> str:
    """``data.batch_size`` of ``+data.batch_size=8``."""
    return item.partition("=")[0].lstrip("+~")


def latest_of(overrides: Sequence[str]) -> list[str]:
    """Overrides of which a later one takes an earlier one's place."""
    last: dict[str, str] = {}
    for item in overrides:
        last.pop(key_of(item), None)
        last[key_of(item)] = item
    return list(last.values())


def pair(item: str) -> tuple[str, str]:
    """``key=value`` in its two parts.

    Raises:
        ValueError: it is not of that form.
    """
    key, found, value = item.partition("=")
    if not found or not key:
        meant = f" (did you mean run={item}?)" if RunFolder(Path(item)).config_file.is_file() else ""
        raise ValueError(f"{item!r} is not of the form key=value{meant}")
    return key, value


def keys_of(overrides: Sequence[str]) -> set[str]:
    """The keys that overrides set."""
    return {item.lstrip("+~").partition("=")[0] for item in overrides}


def parsed(item: str) -> Any:
    """The value of ``key=value`` as ``train.py`` reads it: a number, a truth value, null, a list, a mapping or a text.

    Raises:
        ValueError: it does not end, holds what has to be quoted, or is several values.
    """
    try:
        override = OverridesParser.create().parse_override(with_paths_quoted([item])[0])
    except HydraException as error:
        raise ValueError(f"{item} cannot be read: {str(error).splitlines()[0]}") from error
    if override.is_sweep_override():
        raise ValueError(f"{item} gives several values: write one, or a list in brackets")
    return OmegaConf.create({"value": override.value()}).value


def overridden(cfg: DictConfig, item: str) -> bool:
    """Sets ``key=value`` in a config; returns whether it has that key. Changes ``cfg``.

    What a run has stored is resolved: there ``data.<key>`` also goes where the data's source had taken it from.

    Raises:
        ValueError: not of that form, or a value that cannot stand there.
    """
    key = pair(item)[0]
    above, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, above) if above else cfg
    there = isinstance(parent, DictConfig) and name in parent
    if not there and not (isinstance(parent, ListConfig) and name.isdigit() and int(name) < len(parent)):
        return False
    at: Any = int(name) if isinstance(parent, ListConfig) else name
    before = None if OmegaConf.is_interpolation(parent, at) else parent[at]
    try:
        value = parsed(item)
        refuse_other_type(key, before, value)
        # Into an empty mapping, such as backbone.options, nothing can be merged: it lists no keys.
        OmegaConf.update(cfg, key, value, merge=bool(before))
    except OmegaConfBaseException as error:
        raise ValueError(f"{item} cannot be set: {' '.join(str(error).split())}") from error
    let_source_follow(cfg, key, before)
    return True


def let_source_follow(cfg: DictConfig, key: str, before: Any) -> None:
    """Gives the data's source what ``data.<name>`` has become, where the source had its value ``before`` from there.
    Changes ``cfg``."""
    above, _, name = key.rpartition(".")
    source = cfg.data.get("source", {}) if above == "data" else {}
    if name in source and before is not None and source[name] == before:
        source[name] = cfg.data[name]


def refuse_other_type(key: str, before: Any, value: Any) -> None:
    """Raises ValueError for a text where there is a number, several numbers, or a truth value; null is let through."""
    values = list(value) if isinstance(value, ListConfig) else [value]
    kept = list(before) if isinstance(before, ListConfig) else [before]
    for kind, name in ((bool, "true or false"), ((int, float), "a number")):
        if kept and all(isinstance(x, kind) for x in kept):
            if value is not None and not all(isinstance(x, kind) for x in values):
                more = " or a list of such" if isinstance(before, ListConfig) else ""
                raise ValueError(f"{key} is {value!s}: it must be {name}{more} (it was {before})")
            return


def override_each(configs: Sequence[DictConfig], overrides: Sequence[str], where: str) -> list[list[str]]:
    """Sets every ``key=value`` in those of the configs that have its key. Changes ``configs``.

    Args:
        configs: of one command, such as several protocols.
        overrides: ``key=value``.
        where: where the keys are listed, for the error.

    Returns:
        For each config the overrides that it has taken.

    Raises:
        ValueError: none of the configs has the key, or see ``overridden``.
    """
    taken: list[list[str]] = [[] for _ in configs]
    for item in overrides:
        for own, cfg in zip(taken, configs, strict=True):
            with closed(cfg):
                if overridden(cfg, item):
                    own.append(item)
        if not any(item in own for own in taken):
            raise ValueError(
                f"the config has no key {pair(item)[0]}; {what_is_there(configs, pair(item)[0])}: see {where}"
            )
    return taken


@contextlib.contextmanager
def closed(cfg: DictConfig) -> Iterator[None]:
    """Meanwhile a config takes no new keys."""
    OmegaConf.set_struct(cfg, True)
    try:
        yield
    finally:
        OmegaConf.set_struct(cfg, False)


def what_is_there(configs: Sequence[DictConfig], key: str) -> str:
    """``evaluation.probes has: knn, linear``: what is beside the first part of ``key`` that none of the configs has."""
    parts = key.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        above = ".".join(parts[:depth])
        found = [OmegaConf.select(cfg, above) if above else cfg for cfg in configs]
        names = list(dict.fromkeys(str(name) for node in found if isinstance(node, DictConfig) for name in node))
        if names:
            return f"{above or 'it'} has: {', '.join(names)}{nearest(parts[depth], names)}"
    return "it is empty"


def merged(*configs: Any) -> DictConfig:
    """A new config in which later ones win; their interpolations stay, and are followed from the new root."""
    found = OmegaConf.merge(*configs)
    assert isinstance(found, DictConfig)
    return found


def resolved(cfg: DictConfig, where: str | Path) -> DictConfig:
    """The config with every interpolation resolved. Changes ``cfg``.

    Raises:
        ValueError: an interpolation without a target.
    """
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(f"{where} cannot be resolved: {' '.join(str(error).split())}") from error
    return cfg
