"""The table of paths in configs (``runs.paths``) names every argument that is one, and its rules hold."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm

import ssl_framework
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.paths import (
    FETCHING,
    NO_PATHS,
    ONLY,
    OPENERS,
    OTHER_OPTIONS,
    RULES,
    confined,
    leads_elsewhere,
)
from ssl_framework.runs.plugins import within
from ssl_framework.runs.trust import OTHERS, PARTS, is_trusted

NAMED = re.compile(
    r"(^|_)(paths?|roots?|dirs?|folders?|files?|store|cache|urls?|shards?|sizes|download|pretrained|weights|previous|"
    r"options|targets|place|checkpoint\w*|id|experiment|version)($|_)"
)
"""What arguments are called that may lead somewhere."""


def classes() -> Iterator[tuple[str, type]]:
    """Every class that a stored config may name, with its address."""
    for info in pkgutil.walk_packages(ssl_framework.__path__, "ssl_framework."):
        if any(within(part, [info.name]) or within(info.name, [part]) for part in PARTS):
            for name, found in vars(importlib.import_module(info.name)).items():
                address = f"{info.name}.{name}"
                if inspect.isclass(found) and found.__module__ == info.name and is_trusted(address):
                    yield address, found
    for address in OTHERS:
        module, _, name = address.rpartition(".")
        yield address, getattr(importlib.import_module(module), name)


def is_path(name: str, parameter: inspect.Parameter) -> bool:
    """Whether an argument may lead somewhere, by its annotation or its name."""
    return "Path" in str(parameter.annotation) or (parameter.annotation is not int and bool(NAMED.search(name)))


def test_every_argument_that_is_called_like_a_path_is_in_the_table() -> None:
    found, without = dict(classes()), []
    assert len(found) > 200 and set(RULES) <= set(found) and not OPENERS & set(found)
    for address, kind in found.items():
        if getattr(kind, "_is_protocol", False):
            continue
        for name, parameter in inspect.signature(kind).parameters.items():
            known = name in RULES.get(address, {}) or (address, name) in NO_PATHS or address in ONLY
            if is_path(name, parameter) and not known:
                without.append(f"{address}({name}: {parameter.annotation})")
            if parameter.kind is parameter.VAR_KEYWORD:
                assert address in ONLY or not address.startswith("lightning"), f"{address} takes anything"
    assert not without, "no rule in runs/paths.py"


def test_every_class_of_the_shipped_configs_is_trusted() -> None:
    text = "\n".join(path.read_text() for path in CONFIGS.rglob("*.yaml"))
    named = set(re.findall(r"_target_: *([\w.]+)", text)) - {"ssl_framework.commands.sweep.SweepTable"}
    named -= set(re.findall(r"_target_: *([\w.]+)", (CONFIGS / "hydra" / "sweeper" / "search.yaml").read_text()))
    assert len(named) > 150 and not [name for name in named if not name.startswith("hydra") and not is_trusted(name)]


def test_openers_are_classes_of_this_package() -> None:
    for address in OPENERS:
        module, _, name = address.rpartition(".")
        assert inspect.isclass(getattr(importlib.import_module(module), name)) and not is_trusted(address)


def test_a_class_under_another_name_is_not_trusted() -> None:
    assert is_trusted("ssl_framework.models.backbone.Backbone")
    assert not is_trusted("ssl_framework.evaluation.foreign.Backbone")  # of which no rule would be found


def test_arguments_of_timm_are_known() -> None:
    own = set(inspect.signature(timm.create_model).parameters) - {"kwargs"}
    assert own <= FETCHING | OTHER_OPTIONS
    assert all(map(leads_elsewhere, ("pretrained_cfg_overlay", "hf_hub_id", "cache_dir", "my_file", "url")))
    assert not any(map(leads_elsewhere, ("img_size", "drop_path_rate", "patch_size", "global_pool", "embed_dim")))


def test_no_module_of_the_package_reads_yaml_another_way() -> None:
    for path in Path(ssl_framework.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
        loads = [f"{node.value.id}.{node.attr}" for node in calls if isinstance(node.value, ast.Name)]
        assert "yaml.safe_load" not in loads and "yaml.load" not in loads
        if path.name not in ("suggestions.py", "show.py"):  # which read shipped files
            assert "OmegaConf.load" not in loads, path


FOLDER = "ssl_framework.data.images.folder.FolderSource"
LOGGER = "lightning.pytorch.loggers.TensorBoardLogger"


@pytest.mark.parametrize(
    ("content", "said", "expected"),
    [
        ({"x": {"_target_": LOGGER, "save_dir": "/etc"}}, (), {"x": {"_target_": LOGGER, "save_dir": "/run"}}),
        (
            {"data": {"root": "a", "source": {"_target_": FOLDER, "root": "a"}}},
            (),
            {"data": {"root": "a", "source": {"_target_": FOLDER, "root": "a", "make_store": False}}},
        ),
        (
            {"data": {"store": "a", "source": {"_target_": FOLDER, "store": "a"}}},
            ("data.store",),
            {"data": {"store": "a", "source": {"_target_": FOLDER, "store": "a"}}},
        ),
        (
            {"data": {"root": "s3:a", "source": {"_target_": FOLDER, "root": "s3:a", "store": None}}},
            ("data.root",),
            {"data": {"root": "s3:a", "source": {"_target_": FOLDER, "root": "s3:a", "store": None,
                                                 "make_store": False}}},
        ),
        (
            {"b": {"_target_": "ssl_framework.models.backbone.Backbone", "options": {"pretrained": True, "a": 1}}},
            (),
            {"b": {"_target_": "ssl_framework.models.backbone.Backbone", "options": {"a": 1}}},
        ),
        (
            {"data": {"download": True, "source": {"_target_": "ssl_framework.data.images.arrays.TorchvisionSource",
                                                   "download": True}}},
            (),
            {"data": {"download": False, "source": {"_target_": "ssl_framework.data.images.arrays.TorchvisionSource",
                                                    "download": False}}},
        ),
    ],
)  # fmt: skip
def test_what_the_rules_make_of_a_config(content: dict[str, Any], said: tuple[str, ...], expected: Any) -> None:
    assert confined(content, "config.yaml", Path("/run"), said) == expected


def test_what_the_command_line_says_of_another_key_is_no_word_for_the_sources_own() -> None:
    content = {"data": {"root": "a", "source": {"_target_": FOLDER, "root": "pipe:touch ran"}}}
    with pytest.raises(ValueError, match=r"data\.source\.root='pipe:touch ran', and a stored config reads plain paths"):
        confined(content, "config.yaml", Path("/run"), ("data.root",))
