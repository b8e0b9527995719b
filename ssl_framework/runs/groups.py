"""Where config files lie: the shipped ones and those of plugins, which groups they form, and how they are composed."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ssl_framework import __version__
from ssl_framework.runs.plugins import Plugin, of_command_line, plugins, remember, split_plugins, trusted

HERE = Path(__file__).resolve().parents[1]  # the package

CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # installed, or a source tree


def admit(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without those that name plugins, which are known from here on.

    Ends the process with one sentence where one of them, or an installed plugin, is refused; and with our version where
    that is asked for.
    """
    if "--version" in arguments:
        print(f"ssl_framework {__version__}")
        sys.exit(0)
    try:
        return admitted(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")


def admitted(arguments: Sequence[str]) -> list[str]:
    """As ``admit``, for a process that goes on.

    Raises:
        ValueError: no such folder, a name that is there already, or a prefix that cannot be trusted.
    """
    new, prefixes, others = split_plugins(arguments)
    trusted()
    refuse_doubles([*plugins(), *map(of_command_line, new)])
    remember(new, prefixes)
    use_plugins()
    return others


def folders() -> list[Path]:
    """The shipped config files, then those of plugins."""
    return [CONFIGS, *dict.fromkeys(plugin.folder for plugin in plugins())]


def files(group: str) -> dict[str, Path]:
    """The choices of a group in the order of their names, ``dcl/batch_size`` where they lie deeper, and their files."""
    found: dict[str, Path] = {}
    for top in (folder / group for folder in folders()):
        for where, _, names in os.walk(top):
            below = Path(where).relative_to(top)
            found |= {(below / name[:-5]).as_posix(): Path(where, name) for name in names if name.endswith(".yaml")}
    return dict(sorted(found.items()))


def choices(group: str) -> list[str]:
    """The names that ``group=<name>`` can have, sorted."""
    return list(files(group))


def groups() -> list[str]:
    """The names of all groups, sorted."""
    return sorted({path.name for folder in folders() for path in folder.iterdir() if path.is_dir()} - {"hydra"})


def refuse_doubles(found: Sequence[Plugin]) -> None:
    """Raises ValueError where a plugin has a file that is there already: nobody could say which of the two is meant."""
    owner: dict[str, str] = {}
    names = {CONFIGS: "this package", **{plugin.folder: plugin.name for plugin in found}}
    for folder, name in names.items():
        for path in folder.rglob("*.yaml"):
            file = path.relative_to(folder).as_posix()
            if owner.setdefault(file, name) != name:
                raise ValueError(f"{name} has a file {file}, but {owner[file]} has one, too: give yours another name")


class PluginPath(SearchPathPlugin):
    """Has Hydra look for config files in the folders of plugins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds them behind the shipped files."""
        for folder in folders()[1:]:
            search_path.append("ssl_framework.plugins", f"file://{folder}")


def use_plugins() -> None:
    """Has every later composition of this process see the config files of plugins."""
    Plugins.instance().register(PluginPath)


@contextlib.contextmanager
def composing() -> Iterator[None]:
    """Meanwhile ``hydra.compose`` finds the shipped config files and those of plugins; afterwards all is as before."""
    use_plugins()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield
