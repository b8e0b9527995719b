"""Composing a config costs a part of what it does otherwise: for tests and campaigns, which compose thousands.

A file of configs that has not changed is parsed once in a process. Copies of nodes are made by hand: OmegaConf has
Python's ``copy`` look at every field of what describes a node, though only two of them can be changed in place.
"""

import copy
import os
from collections import defaultdict
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from omegaconf import AnyNode, DictConfig, ListConfig
from omegaconf.base import Metadata

parse = ConfigRepository.load_config
parsed: dict[tuple[Any, ...], Any] = {}


def load_config(self: ConfigRepository, config_path: str) -> Any:
    """What Hydra's own makes of the files of a name as they are now; the caller may change it."""
    name = f"{config_path.removesuffix('.yaml')}.yaml"
    files = [os.path.join(source.path, name) for source in self.sources]
    key = tuple((file, modified(file)) for file in files)
    if key not in parsed:
        parsed[key] = parse(self, config_path)
    return copy.deepcopy(parsed[key])


def modified(file: str) -> int | None:
    """When a file was changed, in nanoseconds; ``None`` if there is none."""
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return None


def copied(node: Any, memo: dict[int, Any]) -> Any:
    """What ``copy.deepcopy`` makes of a node: its values and its description are new, its parent is the same."""
    new = object.__new__(type(node))
    new.__dict__.update(node.__dict__, _metadata=described(node._metadata), _flags_cache=None)
    if "_content" in node.__dict__:
        within(new, node.__dict__["_content"], memo)
    return new


def within(new: Any, content: Any, memo: dict[int, Any]) -> None:
    """Gives a copied container copies of its nodes; what is none, missing or an interpolation has none."""
    if isinstance(content, dict):
        new.__dict__["_content"] = {key: below(new, node, memo) for key, node in content.items()}
    elif isinstance(content, list):
        new.__dict__["_content"] = [below(new, node, memo) for node in content]


def below(parent: Any, node: Any, memo: dict[int, Any]) -> Any:
    """A copy of a node for another parent."""
    new = copied(node, memo) if type(node) in (AnyNode, DictConfig, ListConfig) else copy.deepcopy(node, memo)
    new.__dict__["_parent"] = parent
    return new


def described(metadata: Metadata) -> Metadata:
    """A copy of what describes a node: its flags and what resolvers have answered may change, the rest is replaced."""
    new = object.__new__(type(metadata))
    new.__dict__.update(metadata.__dict__)
    new.flags = None if metadata.flags is None else dict(metadata.flags)
    new.resolver_cache = copy.deepcopy(metadata.resolver_cache) if metadata.resolver_cache else defaultdict(dict)
    return new


def parse_once() -> None:
    """From now on."""
    ConfigRepository.load_config = load_config  # type: ignore[method-assign]
    for kind in (AnyNode, DictConfig, ListConfig):
        kind.__deepcopy__ = copied  # type: ignore[method-assign]
