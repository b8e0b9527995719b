"""What tests compose configs with is what everybody composes them with, only sooner."""

import copy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import AnyNode, OmegaConf

from ssl_framework.runs.groups import CONFIGS
from tools import parse_once


def test_the_tests_use_it() -> None:
    assert all(getattr(owner, name) == own for owner, name, own in parse_once.REPLACEMENTS)
    assert {type(kind) for kind in parse_once.ABSTRACT} == {parse_once.Kind}


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=mochi", "data=waves", "objective.temperature=0.3", "hydra.run.dir=run"],
        ["method=clip", "hydra/sweeper=search", "data.name='${data.root}'", "+trainer.note=[1,{a: b}]"],
        ["experiment=study_small", "hparams_search=mochi", "~mixer", "++seed=1", "method=mocov2"],
        ["method=byol", "method.nothing=1"],
    ],
)
def test_a_config_is_composed_as_by_hydra_alone(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the node of Hydra itself; what it refuses is refused in the same words."""

    def content() -> Any:
        try:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                cfg = compose("train", overrides, return_hydra_config=True)
        except Exception as refusal:
            return repr(refusal)
        told = {key: node._metadata.__dict__ for key, node in cfg._content.items()}  # type: ignore[union-attr]
        return OmegaConf.to_yaml(cfg), told, OmegaConf.to_yaml(cfg.student, resolve=True)

    once = [content(), content()]  # merged, and taken from what was merged
    for owner, name, own in parse_once.ORIGINALS:
        monkeypatch.setattr(owner, name, own)
    assert once == [content()] * 2


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
