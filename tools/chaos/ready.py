"""Imports what a run imports, and runs nothing: a process forked from one that has imported this becomes the command at
once. A file of configs that has not changed is parsed once, which a new interpreter would do in each start."""

import copy
import importlib
import pkgutil
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401
import timm  # noqa: F401
from hydra._internal.config_repository import ConfigRepository

import ssl_framework

LEFT_OUT = ("ssl_framework.commands", "ssl_framework.study", "ssl_framework.data", "ssl_framework.configs")
"""Not of a run, or imported only where data need what may not be installed."""

for module in pkgutil.walk_packages(ssl_framework.__path__, "ssl_framework."):
    if not module.name.startswith(LEFT_OUT):
        importlib.import_module(module.name)

parse = ConfigRepository.load_config
parsed: dict[tuple[Any, ...], Any] = {}


def load_config(self: ConfigRepository, config_path: str) -> Any:
    """What Hydra's own makes of the files of a name as they are now; the caller may change it."""
    files = [Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml") for source in self.sources]
    key = tuple((str(file), file.is_file() and file.stat().st_mtime_ns) for file in files)
    if key not in parsed:
        parsed[key] = parse(self, config_path)
    return copy.deepcopy(parsed[key])


ConfigRepository.load_config = load_config  # type: ignore[method-assign]
