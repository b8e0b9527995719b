"""A user's own package: the folder of its config files, and whose classes a stored config may name.

A package that is installed declares it by entry points, one for each module prefix that is to be trusted::

    [project.entry-points."ssl_framework.plugins"]
    mylab = "mylab.configs"  # classes of mylab are trusted; its config files lie in the folder mylab/configs

One that is not installed is named on the command line, ``--config-dir DIR trust=[mylab]``, which every command takes.
What was said there lies in the environment, so that the processes of a run know it, too. Nothing of a package is
imported to find this out, and no stored config can say it.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

GROUP = "ssl_framework.plugins"
"""Of the entry points."""

FOLDERS, TRUST = "SSL_FRAMEWORK_CONFIG_DIRS", "SSL_FRAMEWORK_TRUST"
"""Variables of the environment: folders, with the system's separator of paths between them; prefixes, with commas."""

INTERPRETERS = {"hydra", "importlib_metadata", "lightning", "numpy", "omegaconf", "pkg_resources", "torch"}
"""Packages that, like the standard library, have classes that read, write or run whatever their arguments say."""


class Plugin(NamedTuple):
    """An entry point, or a folder of the command line."""

    name: str  # what an error calls it
    folder: Path  # of config files, laid out as the shipped ones
    trusted: tuple[str, ...]  # module prefixes


def plugins() -> list[Plugin]:
    """The installed ones in the order of their names, then what the command line named.

    Raises:
        ValueError: an entry point or folder leads nowhere, or a prefix cannot be trusted.
    """
    return [*installed(tuple(sys.path)), *map(of_command_line, entries(FOLDERS, os.pathsep))]


def of_command_line(folder: str) -> Plugin:
    """A folder that the command line named."""
    return Plugin(f"--config-dir {typed(Path(folder))}", Path(folder), ())


def trusted() -> tuple[str, ...]:
    """The module prefixes that plugins declare and the command line named."""
    declared = (prefix for plugin in installed(tuple(sys.path)) for prefix in plugin.trusted)
    return tuple(dict.fromkeys([*declared, *map(trustworthy, entries(TRUST, ","))]))


def entries(variable: str, separator: str) -> list[str]:
    """What a variable of the environment lists."""
    return [entry for entry in os.environ.get(variable, "").split(separator) if entry]


@functools.cache
def installed(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """The plugins of the packages that lie on ``path``, which is ``sys.path``.

    Raises:
        ValueError: an entry point leads nowhere, or names what cannot be trusted.
    """
    found = {(point.name, point.value) for point in importlib.metadata.entry_points(group=GROUP)}
    prefixes = {name: (declared(name),) for name, _ in sorted(found)}
    return tuple(Plugin(name, folder_of(name, value), prefixes[name]) for name, value in sorted(found))


def declared(prefix: str) -> str:
    """``prefix`` itself, or a ValueError that names the entry point."""
    try:
        return trustworthy(prefix)
    except ValueError as error:
        raise ValueError(f"the entry point {prefix} of {GROUP} is refused: {error}") from error


def folder_of(name: str, value: str) -> Path:
    """The folder that a dotted path names, without importing anything.

    Raises:
        ValueError: there is none.
    """
    package, *below = value.split(".")
    spec = importlib.util.find_spec(package) if all(part.isidentifier() for part in (package, *below)) else None
    for place in (spec and spec.submodule_search_locations) or ():
        if (folder := Path(place, *below)).is_dir():
            return folder
    raise ValueError(
        f"the entry point {name} of {GROUP} says its config files are in {value}, but there is no such folder: put "
        "them into the package, or uninstall it"
    )


def trustworthy(prefix: str) -> str:
    """``prefix`` itself.

    Raises:
        ValueError: it is no module's name, or of a package whose classes run whatever their arguments say.
    """
    root = prefix.partition(".")[0]
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", prefix, re.ASCII):
        raise ValueError(f"trust={prefix}: it must be the name of a package, such as trust=[mylab]")
    if root == __name__.partition(".")[0]:
        raise ValueError(f"trust={prefix}: {root} is trusted as it is; name the package that holds your own classes")
    if root in INTERPRETERS or root in sys.stdlib_module_names:
        raise ValueError(
            f"trust={prefix}: {root} is never trusted, because its classes do whatever a stored config tells them; "
            "name the package that holds your own classes"
        )
    return prefix


def within(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted name is one of the prefixes or below it: ``mylab`` does not hold ``mylab_evil.Loss``."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def split_plugins(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """The folders of ``--config-dir DIR``, the prefixes of ``trust=[...]``, and the other arguments.

    Raises:
        ValueError: no folder, or a prefix that cannot be trusted.
    """
    folders, prefixes, others = [], [], []
    left = iter(arguments)
    for item in left:
        option, equals, value = item.partition("=")
        if option in ("--config-dir", "-cd"):
            folders.append(existing(value if equals else next(left, "")))
        elif option == "trust":
            prefixes += [trustworthy(name.strip()) for name in value.strip("[]").split(",") if name.strip()]
        else:
            others.append(item)
    return folders, prefixes, others


def existing(folder: str) -> str:
    """The whole path of a folder of config files, or a ValueError."""
    if not folder or not Path(folder).is_dir():
        raise ValueError(f"--config-dir {folder}: there is no such folder; name one that is laid out as configs/ is")
    return str(Path(folder).resolve())


def remember(folders: Sequence[str], prefixes: Sequence[str]) -> None:
    """Adds to what this process and those it starts know. Changes the environment."""
    for variable, separator, new in ((FOLDERS, os.pathsep, folders), (TRUST, ",", prefixes)):
        if new:
            os.environ[variable] = separator.join(dict.fromkeys([*entries(variable, separator), *new]))


def as_typed() -> list[str]:
    """The words that a command needs to know what this process was told; [] where it was told nothing."""
    folders = [word for folder in entries(FOLDERS, os.pathsep) for word in ("--config-dir", typed(Path(folder)))]
    prefixes = entries(TRUST, ",")
    return [*folders, *([f"trust=[{','.join(prefixes)}]"] if prefixes else [])]


def typed(folder: Path) -> str:
    """A path as a user would type it here: relative where it lies below."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
