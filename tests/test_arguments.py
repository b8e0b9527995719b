"""What constructors take: one guard over their annotations, for classes and for configs."""

import collections.abc
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
import torch
from annotated_types import Len
from omegaconf import OmegaConf

from ssl_framework.arguments import (
    PART,
    BelowOne,
    Classes,
    Count,
    Fraction,
    Positive,
    Seed,
    bare,
    guarded,
    refuse_value,
    wanted_by,
)
from ssl_framework.build import build, located
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.settings import OfData, OfTrainer, refuse_settings
from tests.small_runs import config

FITTING = [
    *[(Positive, value) for value in (1, 0.5, 1e9)],
    *[(Positive | None, value) for value in (None, 2)],
    *[(Fraction, value) for value in (0, 1, 0.5)],
    *[(Count, value) for value in (1, 10**9)],
    *[(Seed, value) for value in (0, 2**32 - 1)],
    *[(tuple[float, float], value) for value in ([1, 2.5], (1, 2.5))],
    *[(Annotated[Sequence[Count], Len(1)], value) for value in ([1], (1, 2))],
    *[(Mapping[str, Callable[..., Any]], value) for value in ({}, {"a": PART}, {"a": math.sin})],
    *[(Literal["a", "b"], value) for value in ("a", "b")],
    (bool, True),
    (torch.nn.Module, torch.nn.Identity()),
    (Any, None),
]


@pytest.mark.parametrize(("hint", "value"), FITTING)
def test_what_fits_passes(hint: Any, value: object) -> None:
    refuse_value("key", value, hint)


REFUSED = [
    (Positive, math.nan, "nan: it must be a number above 0"),
    (Positive, math.inf, "inf: it must be a number above 0"),
    (Positive, True, "true: it must be a number above 0"),
    (Positive, None, "null: it must be a number above 0"),
    (Positive, "abc", "'abc': it must be a number above 0"),
    (Positive, 0, "0: it must be above 0"),
    (Positive | None, -1, "-1: it must be above 0, or null"),
    (BelowOne, 1.0, "1.0: it must be at least 0 and below 1"),
    (Fraction, 1.5, "1.5: it must be between 0 and 1"),
    (Count, 1.5, "1.5: it must be a whole number, at least 1"),
    (Count, 1e9, "1000000000.0: it must be a whole number, at least 1"),
    (Count, True, "true: it must be a whole number, at least 1"),
    (Count | None, "1", "'1': it must be a whole number, at least 1, or null"),
    (Seed, 2**32, "4294967296: it must be at least 0 and below 4294967296"),
    (bool, 1, "1: it must be true or false"),
    (bool, None, "null: it must be true or false"),
    (str, 3, "3: it must be a text"),
    (Literal["a", "b"], "c", "'c': it must be one of a, b"),
    (Classes, None, "null: it must be a whole number, at least 2: set data.num_classes to the number of classes"),
    (tuple[float, float], [1], "[1]: it must be a list of 2 numbers"),
    (tuple[float, float], [1, math.nan], "[1, nan]: it must be a list of 2 numbers"),
    (Annotated[Sequence[Count], Len(1)], [], "[]: it must be a list of one or more whole numbers, each at least 1"),
    (Annotated[Sequence[Count], Len(1)], "12", "'12': it must be a list of one or more whole numbers, each at least 1"),
    (Annotated[Sequence[Count], Len(2, 2)], [1, 0], "[1, 0]: it must be a list of 2 whole numbers, each at least 1"),
    (Count | Sequence[Count], 0, "0: it must be at least 1, or a list of whole numbers, each at least 1"),
    (torch.nn.Module, None, "null: it must be a part of its own (a node with _target_, or a choice of its group)"),
    (torch.nn.Module, 3, "3: it must be a part of its own (a node with _target_, or a choice of its group)"),
]


@pytest.mark.parametrize(("hint", "value", "words"), REFUSED)
def test_what_does_not_is_refused_in_one_sentence(hint: Any, value: object, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        refuse_value("key", value, hint)
    assert str(refused.value) == f"key is {words}"


def test_classes_refuse_wherever_they_are_called() -> None:
    for value in (math.nan, math.inf, True, None, "0.1", 0, -1):
        with pytest.raises(ValueError, match=r"^SimCLR's temperature is .*: it must be (a number )?above 0$"):
            SimCLR(value)
    assert SimCLR(temperature=1).temperature == 1


@guarded
class Base:
    """With a part."""

    def __init__(self, part: torch.nn.Module, share: Fraction = 0.5) -> None:
        self.part, self.share = part, share


class Derived(Base):
    """With more."""

    def __init__(self, more: int) -> None:
        super().__init__(torch.nn.Identity(), more)


def test_a_base_class_looks_at_what_its_subclass_hands_on() -> None:
    assert Derived(1).share == 1
    with pytest.raises(ValueError, match="Base's share is 2: it must be between 0 and 1"):
        Derived(2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"objective.temperature": math.nan}, "objective.temperature is nan: it must be a number above 0"),
        ({"objective.queue.size": 1.5}, "objective.queue.size is 1.5: it must be a whole number, at least 1"),
        ({"objective.queue": None}, "objective.queue is null: it must be a part of its own"),
        (
            {"objective.tempratur": 1},
            "objective.tempratur is no argument of MoCo (did you mean temperature?)",
        ),
        (
            {"optimizer.algorithm.momentum": math.nan},
            "optimizer.algorithm.momentum is nan: it must be a number",
        ),
        ({"optimizer.algorithm.nesterov": 1}, "optimizer.algorithm.nesterov is 1: it must be true or false"),
        ({"student.heads.projector.out": 0}, "student.heads.projector.out is 0: it must be at least 1"),
        (
            {"student.heads.projector.hidden": [8, -1]},
            "student.heads.projector.hidden is [8, -1]: it must be a list of",
        ),
        (
            {"student.heads.projector": None},
            "student.heads is {'projector': None}: it must be a mapping",
        ),
        ({"teacher.shuffle_bn": math.nan}, "teacher.shuffle_bn is nan: it must be a whole number, at least 2, or null"),
        ({"evaluation.probes.knn.temperature": math.inf}, "evaluation.probes.knn.temperature is inf: it must be"),
        (
            {"evaluation.probes.linear.max_iter": 1.5},
            "evaluation.probes.linear.max_iter is 1.5: it must be a whole",
        ),
        ({"report.seed": -1}, "report.seed is -1: it must be at least 0 and below 4294967296"),
        (
            {"objective._target_": "ssl_framework.nothing.No"},
            "objective._target_ is 'ssl_framework.nothing.No', but Python finds no module ssl_framework.nothing",
        ),
    ],
)
def test_a_config_is_refused_by_its_key_before_anything_is_built(overrides: dict[str, Any], words: str) -> None:
    cfg = config("method=mocov2")
    for key, value in overrides.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    group = next(iter(overrides)).split(".")[0]
    with pytest.raises(ValueError) as refused:
        build(cfg[group])
    assert words in str(refused.value)


def test_a_missing_argument_is_named() -> None:
    cfg = config("method=simclr")
    del cfg.objective.temperature
    with pytest.raises(ValueError, match=r"objective\.temperature is missing: SimCLR needs a number above 0"):
        build(cfg.objective)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", -1, "at least 0"),
        ("seed", 1.5, "a whole number"),
        ("student", None, "a mapping"),
        ("trainer.max_epochs", True, "a whole number, at least 1"),
        ("trainer.max_steps", 0, "-1, or at least 1"),
        ("trainer.accumulate_grad_batches", 1.5, "a whole number, at least 1"),
        ("trainer.log_every_n_steps", -1, "at least 1"),
        ("trainer.checkpoint_every_n_epochs", math.nan, "a whole number, at least 1"),
        ("trainer.gradient_clip_val", -1, "at least 0, or null"),
        ("trainer.num_threads", 100_000_000, "between 1 and 4096, or null"),
        ("trainer.devices", 0, "auto, or between 1 and 4096"),
        ("trainer.precision", "8-true", "one of auto, 32-true, 64-true, bf16-mixed, 16-mixed"),
        ("trainer.accelerator", "mps", "one of auto, cpu, gpu"),
        ("trainer.strategy", "zero", "one of ddp, fsdp"),
        ("data.batch_size", 1, "at least 2"),
        ("data.micro_batch_size", math.nan, "a whole number, at least 1, or null"),
        ("data.resident_share", 1.5, "between 0 and 1"),
        ("data.image_size", 0, "between 2 and 65536"),
        ("logger", None, "a mapping of names to values"),
    ],
)
def test_keys_that_no_constructor_takes(key: str, value: object, words: str) -> None:
    cfg = config("method=simclr")
    refuse_settings(cfg)
    OmegaConf.update(cfg, key, value, merge=False)
    with pytest.raises(ValueError) as refused:
        refuse_settings(cfg)
    assert str(refused.value).startswith(f"{key} is ") and f"it must be {words}" in str(refused.value)


FREE = {
    ("GRAM", "anchor"),  # held against the number of views
    ("SigLIP", "bias"),
    ("MultiSimilarity", "base"),  # a cosine, or beyond
    ("MultiSimilarity", "mining_margin"),
    ("ProxyAnchor", "margin"),
    ("ManifoldMixup", "layers"),  # -1 is the last block
    ("AlignMix", "layers"),
    ("Layers", "blocks"),
    ("LearnedMask", "layer"),
    ("SeriesViews", "mean"),
    ("FragmentViews", "mean"),
    ("AudioViews", "mean"),
    ("AlteredAudio", "mean"),
    ("OverlapViews", "mean"),
    ("AudioViews", "noise"),  # dB
    ("SpokenDigits", "snr"),
    ("SpokenWords", "snr"),
}
"""Numbers that may be any."""


def classes_of_configs() -> list[type]:
    """The classes of this package that the shipped configs name."""
    names = {
        name
        for file in CONFIGS.rglob("*.yaml")
        for name in re.findall(r"_target_: (ssl_framework\.[\w.]+)", file.read_text())
    }
    return [located(name, "") for name in sorted(names) if not name.startswith("ssl_framework.commands")]


def bare_numbers(hint: Any) -> bool:
    """Whether an annotation holds an int or a float without a range."""
    if get_origin(hint) is Annotated:
        inner = hint.__origin__
        return get_origin(inner) is not None and bare_numbers(inner)
    if get_origin(hint) is not None and bare(hint) is not Any:
        return get_origin(hint) is not collections.abc.Callable and any(map(bare_numbers, get_args(hint)))
    return hint in (int, float)


@pytest.mark.parametrize("target", classes_of_configs(), ids=lambda target: target.__name__)
def test_every_number_of_every_class_of_the_configs_has_a_range(target: type) -> None:
    own = {
        name: wanted.hint for name, wanted in wanted_by(target).items() if name not in ("params", "dims", "features")
    }
    open_ended = {name for name, hint in own.items() if bare_numbers(hint) and (target.__name__, name) not in FREE}
    assert open_ended == set()
    if any(bare(hint) in (int, float) for hint in own.values()):
        assert hasattr(target.__init__, "__wrapped__"), "give it @guarded"


def test_every_key_of_trainers_and_data_sets_has_a_record() -> None:
    for group, record in (("trainer", OfTrainer), ("data", OfData)):
        for file in (CONFIGS / group).glob("*.yaml"):
            node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
            own = node.get(group, {}) if "@package _global_" in file.read_text() else node
            unknown = own.keys() - record.__annotations__.keys() - {"defaults", "views", "hydra"}
            assert unknown == set(), file.name
