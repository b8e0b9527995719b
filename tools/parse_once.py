"""Composing a config costs a small part of what it does otherwise: for tests and campaigns, which compose thousands.

A file of configs that has not changed is parsed once in a process, and what files of one order merge to is merged once.
Copies of nodes are made by hand: OmegaConf has Python's ``copy`` look at every field of what describes a node, though
only two of them can be changed in place. What kind of value one is, which OmegaConf asks of every value several times,
is answered without an import in each call.
"""

import copy
import functools
import os
import sys
from abc import ABCMeta
from collections import defaultdict
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

import omegaconf._utils
import omegaconf.base
import yaml
from hydra import version
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra.core.default_element import ConfigDefault, GroupDefault, InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import (
    AnyNode,
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
    flag_override,
)
from omegaconf.base import Box, Container, Metadata, Node
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

KINDS: tuple[Any, ...] = (AnyNode, BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, StringNode)

STATES = 64
"""How many configs are kept that others may begin with."""

MARK = "HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"

parse = ConfigRepository.load_config
choices_for_interpolations = defaults_list._create_interpolation_map
parse_text = omegaconf.base.parse
parse_word = OverridesParser.parse_rule
merge_all = ConfigLoaderImpl._compose_config_from_defaults_list
embed = ConfigLoaderImpl._load_single_config
adopt = Container._re_parent
read_version = version._get_version
yaml_loader = omegaconf._utils.get_yaml_loader
parsed: dict[tuple[Any, ...], Any] = {}
embedded: dict[tuple[Any, ...], Any] = {}
words: dict[tuple[str, str], Any] = {}
numbers: dict[tuple[Any, ...], int] = {}  # of files
merged: dict[tuple[int, ...], DictConfig] = {}  # by the numbers of its files
last: tuple[int, ...] = ()  # of the files that were merged last

NO_CHOICES = OmegaConf.create()


def load_config(self: ConfigRepository, config_path: str) -> Any:
    """What Hydra's own makes of the files of a name as they are now; the caller may change it."""
    return copy.deepcopy(as_it_is(self, config_path))


def as_it_is(self: ConfigRepository, config_path: str) -> Any:
    """Likewise, not to be changed: Hydra itself only looks at it before it merges a copy."""
    key = files_of(self, config_path)
    if key not in parsed:
        parsed[key] = parse(self, config_path)
    return parsed[key]


def files_of(repo: ConfigRepository, config_path: str) -> tuple[tuple[str, int | None], ...]:
    """The files that may be meant by a name, and when each was changed."""
    name = f"{config_path.removesuffix('.yaml')}.yaml"
    files = [os.path.join(source.path, name) for source in repo.sources]
    return tuple((file, modified(file)) for file in files)


def modified(file: str) -> int | None:
    """When a file was changed, in nanoseconds; ``None`` if there is none."""
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return None


def load_in_repository(self: CachingConfigRepository, config_path: str) -> Any:
    """Once for each composition, as Hydra's own, and without a copy."""
    key = f"config_path={config_path}"
    if key not in self.cache:
        self.cache[key] = as_it_is(self.delegate, config_path)  # type: ignore[arg-type]
    return self.cache[key]


def interpolation_map(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig:
    """What the names of files may refer to, if any of them does."""
    if any(not item.is_self() and item.is_interpolation() for item in defaults):
        return choices_for_interpolations(overrides, defaults, self_added)
    return NO_CHOICES


def load_single_config(self: ConfigLoaderImpl, default: ResultDefault, repo: Any) -> Any:
    """A file at its place in the config; the caller may change it."""
    assert default.config_path is not None
    key = (*files_of(repo.delegate, default.config_path), default.package, default.primary)
    if key not in embedded:
        embedded[key] = embed(self, default, repo)
    return copy.deepcopy(embedded[key])


def merge(self: ConfigLoaderImpl, defaults: list[ResultDefault], repo: Any) -> DictConfig:
    """What the files merge to in this order. Where other configs began with the same files, theirs go on from there."""
    global last
    keys = [(*files_of(repo.delegate, str(one.config_path)), one.package, one.primary) for one in defaults]
    these = tuple(numbers.setdefault(key, len(numbers)) for key in keys)
    known = next((n for n in range(len(these), 0, -1) if these[:n] in merged), 0)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(these, last, strict=False)))
    last = these
    cfg = copy.deepcopy(merged[these[:known]]) if known else OmegaConf.create()
    try:
        if known < shared:
            add(self, cfg, defaults[known:shared], repo)
            merged[these[:shared]] = copy.deepcopy(cfg)
            if len(merged) > STATES:
                del merged[next(iter(merged))]
        add(self, cfg, defaults[max(known, shared) :], repo)
    except OmegaConfBaseException:
        return merge_all(self, defaults, repo)  # says in which file it is
    strip_defaults(cfg)
    return cfg


def add(self: ConfigLoaderImpl, cfg: DictConfig, defaults: list[ResultDefault], repo: Any) -> None:
    """Merges files into a config."""
    with flag_override(cfg, "no_deepcopy_set_nodes", True):
        for default in defaults:
            cfg.merge_with(self._load_single_config(default, repo).config)


def strip_defaults(cfg: Any) -> None:
    """Removes the lists of files, wherever Hydra has marked a node."""
    if not isinstance(cfg, DictConfig) or cfg._is_missing() or cfg._is_none():
        return
    if cfg._get_flag(MARK):
        with flag_override(cfg, ["readonly", "struct"], False):
            cfg._set_flag(MARK, None)
            cfg.pop("defaults", None)
    for _, value in cfg.items_ex(resolve=False):
        strip_defaults(value)


@functools.cache
def parse_interpolation(value: str, *rule: str) -> Any:
    """The tree of what is written ``${...}``, at which OmegaConf only looks."""
    return parse_text(value, *rule)


def parse_rule(self: OverridesParser, text: str, rule: str) -> Any:
    """What a word of a command says; the caller may change it."""
    if (text, rule) not in words:
        words[text, rule] = parse_word(self, text, rule)
    return copy.deepcopy(words[text, rule])


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
    new = copied(node, memo) if type(node) in KINDS else copy.deepcopy(node, memo)
    new.__dict__["_parent"] = parent
    return new


def described(metadata: Metadata) -> Metadata:
    """A copy of what describes a node: its flags and what resolvers have answered may change, the rest is replaced."""
    new = object.__new__(type(metadata))
    new.__dict__.update(metadata.__dict__)
    new.flags = None if metadata.flags is None else dict(metadata.flags)
    new.resolver_cache = copy.deepcopy(metadata.resolver_cache) if metadata.resolver_cache else defaultdict(dict)
    return new


def re_parent(self: Any) -> None:
    """Makes a container the parent of its nodes, and each of them that of its own."""
    for node in nodes_in(self):
        if node is not None:
            node.__dict__["_parent"] = self
            node._invalidate_flags_cache()
            if type(node) in KINDS:
                re_parent(node)
            elif isinstance(node, Box):
                adopt(node)


def invalidate_flags_cache(self: Any) -> None:
    """A node and all below it that have looked up flags look them up again."""
    if self.__dict__["_flags_cache"] is not None:
        self.__dict__["_flags_cache"] = None
        for node in nodes_in(self):
            node._invalidate_flags_cache()


def nodes_in(node: Any) -> Iterable[Any]:
    """The nodes of a container; of a value, of what is none, missing or an interpolation: no node."""
    content = node.__dict__.get("_content")
    if isinstance(content, dict):
        return content.values()
    return content if isinstance(content, list) else ()


@functools.cache
def get_yaml_loader() -> Any:
    """OmegaConf's reader of files."""
    return yaml_loader()


@functools.cache
def get_version(text: str) -> Any:
    """What is written as a version, at which Hydra only looks."""
    return read_version(text)


def copied_default(self: InputDefault, memo: dict[int, Any]) -> InputDefault:
    """A line of a list of files: texts, truth values and a list of names."""
    new = object.__new__(type(self))
    new.__dict__.update({key: list(value) if isinstance(value, list) else value for key, value in vars(self).items()})
    return new


def is_interpolation(self: GroupDefault) -> bool:
    """Whether the name of a line's file is looked up, for which Hydra makes a node of each."""
    return self.is_name() and "${" in str(self.get_name())


def is_missing_value(value: Any) -> bool:
    """Whether a value, or that of a node, has to be given yet."""
    if isinstance(value, Node):
        value = value._value()
    return isinstance(value, str) and value == "???"


def is_interpolation_value(value: Any, strict_interpolation_validation: bool = False) -> bool:
    """Whether a value, or that of a node, refers to others."""
    if isinstance(value, Node):
        value = value._value()
    if not isinstance(value, str) or "${" not in value:
        return False
    return not strict_interpolation_validation or interpolates(value, True)


def is_structured_config(value: Any) -> bool:
    """Whether a value is a class with fields, or of one."""
    return type(value) not in PLAIN and structured(value)


def everywhere(name: str, own: Any) -> Iterable[tuple[Any, str, Any]]:
    """A function of OmegaConf in every module of its own that has it under its name."""
    known = getattr(omegaconf._utils, name)
    modules = [module for place, module in list(sys.modules.items()) if place.startswith("omegaconf.")]
    return [(module, name, own) for module in modules if getattr(module, name, None) is known]


class Kind(ABCMeta):
    """Of classes without instances but those of what inherits from them: Python need not look for others."""

    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__


interpolates = omegaconf._utils._is_interpolation
structured = omegaconf._utils.is_structured_config

PLAIN = frozenset({dict, list, tuple, str, int, float, bool, type(None), *KINDS})
"""Kinds of values that are no class with fields."""

ABSTRACT = (Node, Box, Container, BaseContainer, DictConfig, ListConfig)

REPLACEMENTS: tuple[tuple[Any, str, Any], ...] = (
    (ConfigRepository, "load_config", load_config),
    (CachingConfigRepository, "load_config", load_in_repository),
    (defaults_list, "_create_interpolation_map", interpolation_map),
    (ConfigLoaderImpl, "_load_single_config", load_single_config),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list", merge),
    (OverridesParser, "parse_rule", parse_rule),
    (omegaconf.base, "parse", parse_interpolation),
    *((kind, "__deepcopy__", copied) for kind in KINDS),
    (Container, "_re_parent", re_parent),
    (Container, "_invalidate_flags_cache", invalidate_flags_cache),
    (version, "_get_version", get_version),
    (yaml, "SafeLoader", getattr(yaml, "CSafeLoader", yaml.SafeLoader)),  # in C, where PyYAML has it
    (omegaconf._utils, "get_yaml_loader", get_yaml_loader),
    *((kind, "__deepcopy__", copied_default) for kind in (ConfigDefault, GroupDefault)),
    (GroupDefault, "is_interpolation", is_interpolation),
    *everywhere("_is_missing_value", is_missing_value),
    *everywhere("_is_interpolation", is_interpolation_value),
    *everywhere("is_structured_config", is_structured_config),
)
ORIGINALS = tuple((owner, name, getattr(owner, name, None)) for owner, name, _ in REPLACEMENTS)


def parse_once() -> None:
    """From now on."""
    for kind in ABSTRACT:
        kind.__class__ = Kind  # type: ignore[assignment]
    for owner, name, own in REPLACEMENTS:
        setattr(owner, name, own)
