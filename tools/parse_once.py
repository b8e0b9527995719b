"""A file of configs that has not changed is parsed once in a process, not for every config that Hydra composes of it:
for tests and campaigns, which compose thousands."""

import copy
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import ConfigRepository

parse = ConfigRepository.load_config
parsed: dict[tuple[Any, ...], Any] = {}


def load_config(self: ConfigRepository, config_path: str) -> Any:
    """What Hydra's own makes of the files of a name as they are now; the caller may change it."""
    files = [Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml") for source in self.sources]
    key = tuple((str(file), file.is_file() and file.stat().st_mtime_ns) for file in files)
    if key not in parsed:
        parsed[key] = parse(self, config_path)
    return copy.deepcopy(parsed[key])


def parse_once() -> None:
    """From now on."""
    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
