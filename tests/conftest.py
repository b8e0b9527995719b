"""One thread a test process: the tests' tensors are small, and two processes share the work (``make test``). And a file
of configs that has not changed is parsed once, not for every config that Hydra composes of it."""

import contextlib
import copy
import signal
from pathlib import Path
from typing import Any

import torch
from hydra._internal.config_repository import ConfigRepository

torch.set_num_threads(1)

for number in (signal.SIGHUP, signal.SIGQUIT):  # as in a terminal, whatever has started the tests: nohup ignores them
    if signal.getsignal(number) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)

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
