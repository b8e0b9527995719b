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

from ssl_framework.runs.plugins import FOLDERS, TRUST, plugins, remember, split_plugins, trusted

HERE = Path(__file__).resolve().parents[1]  # the package

CONFIGS = HERE / "configs" if (HERE / "configs").is_dir() else HERE.parent / "configs"  # installed, or a source tree


def admit(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without those that name plugins, which are known from here on.

    Ends the process with one sentence where one of them, or an installed plugin, is refused.
    """
    try:
        folders, prefixes, others = split_plugins(arguments)
        remember(folders, prefixes)
        trusted()
        refuse_doubles()
    except ValueError as error:
        sys.exit(f"error: {error}")
    use_plugins()
    return others


@contextlib.contextmanager
def admitted(config_dir: str | Path | None, trust: Sequence[str]) -> Iterator[None]:
    """Meanwhile a plugin is known, as ``--config-dir`` and ``trust`` would make it.

    Raises:
        ValueError: no such folder, or a prefix that cannot be trusted.
    """
    before = {variable: os.environ.get(variable) for variable in (FOLDERS, TRUST)}
    words = ["--config-dir", str(config_dir)] if config_dir is not None else []
    remember(*split_plugins([*words, *(f"trust={prefix}" for prefix in trust)])[:2])
    try:
        refuse_doubles()
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            os.environ.update({} if value is None else {variable: value})


def folders() -> list[Path]:
    """The shipped config files, then those of plugins."""
    return [CONFIGS, *dict.fromkeys(plugin.folder for plugin in plugins())]


def files(group: str) -> dict[str, Path]:
    """The choices of a group in the order of their names, ``dcl/batch_size`` where they lie deeper, and their files."""
    found = {
        path.relative_to(folder / group).with_suffix("").as_posix(): path
        for folder in folders()
        for path in (folder / group).rglob("*.yaml")
    }
    return dict(sorted(found.items()))


def choices(group: str) -> list[str]:
    """The names that ``group=<name>`` can have, sorted."""
    return list(files(group))


def groups() -> list[str]:
    """The names of all groups, sorted."""
    return sorted({path.name for folder in folders() for path in folder.iterdir() if path.is_dir()} - {"hydra"})


def refuse_doubles() -> None:
    """Raises ValueError where a plugin has a file that is there already: nobody could say which of the two is meant."""
    owner: dict[str, str] = {}
    names = {CONFIGS: "this package", **{plugin.folder: plugin.name for plugin in plugins()}}
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
