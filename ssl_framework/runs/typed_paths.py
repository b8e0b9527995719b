"""Paths as they are typed. Hydra's grammar takes few of them bare, and a path may have any character."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ssl_framework.runs.paths import RULES, local

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Keys whose values are paths that may be made of interpolations."""

NAMES = {name for rules in RULES.values() for name, rule in rules.items() if rule is local} | {"mirror"}
"""What keys are called whose values are paths."""


def quoted(text: str) -> str:
    """A text as a value of Hydra's override grammar, of which nothing is interpolated."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def unquoted(text: str) -> str:
    """What ``quoted`` was given; another text stays as it is."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    inner = re.sub(rf"(\\*)({text[0]}|$)", lambda found: found[1][: len(found[1]) // 2] + found[2], text[1:-1])
    return re.sub(r"(\\*)\\\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", inner)


def folder_override(key: str, folder: object) -> str:
    """``key=folder`` as it can be typed: what looks like an interpolation has to be quoted."""
    return f"{key}={quoted(str(folder))}" if "${" in str(folder) else f"{key}={folder}"


def path_of(text: str) -> Path:
    """The path that was typed, bare or in quotes of Hydra's grammar."""
    return Path(text) if Path(text).exists() else Path(unquoted(text))


def with_paths_quoted(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command as Hydra reads them, where folders were typed bare."""
    found = []
    for item in arguments:
        key, _, value = item.partition("=")
        if key == "resume" and value not in ("null", ""):
            item = f"resume={quoted(str(path_of(value)))}"
        elif value and is_bare_path(key, value):
            item = f"{key}={quoted(value)}"
        found.append(item)
    return found


def is_bare_path(key: str, value: str) -> bool:
    """Whether what was typed for a key is a path that Hydra would take for something else, or could not read.

    A key of the data or the weights may also have several values, a list or an interpolation: where no file or folder
    is called so, what Hydra can read is left to it.
    """
    item = f"{key}={value}"
    if key in FOLDERS:
        return not is_text(item)
    if key.rpartition(".")[2] not in NAMES:
        return False
    there = os.path.exists(os.path.expanduser(value))
    return (there and ("${" in value or not is_text(item))) or not is_read(item)


def is_read(item: str) -> bool:
    """Whether Hydra can read an override at all."""
    with contextlib.suppress(HydraException):
        return OverridesParser.create().parse_override(item) is not None
    return False


def is_text(item: str) -> bool:
    """Whether Hydra reads the value of an override as the one text that was typed."""
    try:
        override = OverridesParser.create().parse_override(item)
    except HydraException:
        return False
    if override.is_sweep_override():
        return False
    value, typed = override.value(), item.partition("=")[2]
    return isinstance(value, str) if typed[0] in "'\"" else str(value) == typed
