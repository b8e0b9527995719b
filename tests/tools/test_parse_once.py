"""What tests compose configs with is what everybody composes them with, only sooner."""

import copy
from typing import Any

from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf

from tools import parse_once


def test_the_tests_use_it() -> None:
    assert {kind.__deepcopy__ for kind in (AnyNode, DictConfig, ListConfig)} == {parse_once.copied}  # type: ignore[comparison-overlap]


def test_a_copy_has_the_values_the_flags_and_the_parent_and_nothing_else_in_common() -> None:
    cfg: Any = OmegaConf.create({"a": {"b": [1, {"c": "${d}"}, None], "e": "???"}, "d": 2.5, "f": None, "g": {}})
    OmegaConf.set_struct(cfg.a, True)
    new = copy.deepcopy(cfg)
    assert new == cfg and OmegaConf.to_yaml(new) == OmegaConf.to_yaml(cfg) and new.a.b[1].c == 2.5
    assert OmegaConf.is_struct(new.a) and OmegaConf.is_missing(new.a, "e") and not OmegaConf.is_struct(new.g)
    new.d, new.a.b[0] = 3, 7
    new.a.b.append(8)
    OmegaConf.set_struct(new.a, False)
    OmegaConf.set_readonly(new.g, True)
    new.a.h = 9
    assert new.a.b[1].c == 3 and cfg.a.b[1].c == 2.5 and list(cfg.a.b) == [1, {"c": 2.5}, None]
    assert OmegaConf.is_struct(cfg.a) and "h" not in cfg.a and not OmegaConf.is_readonly(cfg.g)
    part = copy.deepcopy(cfg.a)
    assert part.b[1].c == 2.5 and part._get_parent() is cfg  # so that it still finds what it refers to
    text = copy.deepcopy(cfg._get_node("d"))
    assert type(text) is AnyNode and text == 2.5
