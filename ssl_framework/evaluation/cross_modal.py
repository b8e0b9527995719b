"""Evaluation across towers: what the embeddings of two modalities in their common space say of each other.

N samples of the test split, D dimensions, P prompts of a class.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.data.base import Split
from ssl_framework.evaluation.features import Bare, extract_in_eval, refuse_non_finite
from ssl_framework.functional import unit
from ssl_framework.models.towers import Towers
from ssl_framework.module import SSLModule
from ssl_framework.runs.suggestions import choices, towers_of


class Pairs(NamedTuple):
    """Unit rows of the samples of one split, as both towers see them, and of the prompts of its factors."""

    main: Tensor  # [N, D] float32, of the modality that comes first
    other: Tensor  # [N, D] float32, of the other one
    names: tuple[str, str]  # of the two modalities
    group: Tensor  # [N] int64: samples of equal groups are right answers to each other
    prompts: Mapping[str, Tensor]  # factor -> [classes, P, D] float32, of the other modality
    label: Mapping[str, Tensor]  # factor -> [N] int64
    swapped: Mapping[str, Tensor] = MappingProxyType({})  # factor -> [N, D]: the text with that factor changed
    scale: float | None = None  # that the objective has learnt for cosines
    further: Mapping[str, Tensor] = MappingProxyType({})  # more modalities, or other forms of one -> [N, D]


class CrossProbe(Protocol):
    """Scores the embeddings of two towers; nothing is fitted on the test split that is scored on it."""

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Metric (with its protocol in its name) -> value."""
        ...

    def chance(self, test: Pairs) -> dict[str, float]:
        """What guesses would score, under the same names; what has no such value is left out."""
        ...


class Crossing(Protocol):
    """What ``evaluation.cross`` may be: it scores a whole student on a test split, in metrics of its own."""

    def check(self, module: SSLModule | Bare) -> object:
        """Raises ValueError if the student lacks what is read."""
        ...

    def check_split(self, split: Split) -> list[Tensor]:
        """The further columns that are read; a ValueError if the split lacks one."""
        ...

    def score(self, module: SSLModule | Bare, split: Split) -> dict[str, float]:
        """Metric (with its protocol in its name) -> value, the same on every rank."""
        ...

    def chance(self, module: SSLModule | Bare, split: Split) -> dict[str, float]:
        """What guesses would score, under the same names."""
        ...


@guarded
class CrossModal:
    """Embeds a test split by both towers and asks every probe.

    Args:
        other: the modality beside the main one, as the data and ``student.towers`` name it.
        head: whose outputs the towers are compared by.
        probes: name -> probe.
        further: more columns beside the samples -> the tower that embeds each; only some probes read them.
    """

    def __init__(
        self, other: str, head: str, probes: Mapping[str, CrossProbe | None], further: Mapping[str, str] | None = None
    ) -> None:
        self.other = other
        self.further = dict(further or {})
        self.head = head
        self.probes = {name: probe for name, probe in probes.items() if probe is not None}

    def check(self, module: SSLModule | Bare) -> Towers:
        """The student, with a tower for either modality and the head that is compared.

        Raises:
            ValueError: it lacks one of them.
        """
        student = module.student
        wanted = [self.other, *self.further.values()]
        missing = [name for name in wanted if not isinstance(student, Towers) or name not in student.towers]
        if not isinstance(student, Towers) or missing:
            others = choices("method", lambda node: set(wanted) <= set(towers_of(node)))
            raise ValueError(
                f"evaluation.cross compares embeddings of {missing[0]} with those of another modality, but the student "
                f"has no tower for {missing[0]}: choose {others}evaluation=frozen"
            )
        for name in (student.main, *wanted):
            if self.head not in student.tower(name).heads:
                raise ValueError(f"evaluation.cross.head is {self.head}, but the tower for {name} has no such head")
        return student

    def check_split(self, split: Split) -> list[Tensor]:
        """The other modality of a split, and the further columns.

        Raises:
            ValueError: the data lack one.
        """
        beside = split.beside or {}
        if missing := [name for name in (self.other, *self.further) if name not in beside]:
            raise ValueError(f"evaluation.cross reads {missing[0]}, which the data lack: choose evaluation=frozen")
        return [beside[name] for name in (self.other, *self.further)]

    def pairs(self, module: SSLModule | Bare, split: Split) -> Pairs:
        """The embeddings of a split; every rank takes part.

        Raises:
            ValueError: the model has no such towers, or the data lack the other modality.
        """
        student = self.check(module)
        main, (texts, *further) = split._replace(beside=None), self.check_split(split)
        prompts, label = split.prompts or {}, split.numbers or {}
        return Pairs(
            self.embedded(module, main, student.main),
            self.embedded(module, Split(texts), self.other),
            (student.main, self.other),
            label["group"].cpu() if "group" in label else equal_rows(texts.cpu()),
            {factor: self.embedded_prompts(module, each) for factor, each in prompts.items()},
            {factor: label[factor].cpu() for factor in prompts},
            {factor: self.embedded(module, Split(rows), self.other) for factor, rows in (split.swapped or {}).items()},
            scale_of(module),
            {
                name: self.embedded(module, Split(x), tower)
                for (name, tower), x in zip(self.further.items(), further, strict=True)
            },
        )

    def embedded(self, module: SSLModule | Bare, split: Split, modality: str) -> Tensor:
        """Unit rows of samples of the test split, or of prompts, which are of that modality: [N, D].

        Raises:
            ValueError: one of them is not finite.
        """
        tower = self.check(module).tower(modality)
        z = extract_in_eval(module, lambda x: tower.encode(x)[self.head], split, torch.float32, modality)  # [N, D]
        return unit(refuse_non_finite(z, f"the outputs of the head {self.head} on {modality}", "test"))

    def embedded_prompts(self, module: SSLModule | Bare, prompts: Tensor) -> Tensor:
        """[classes, P, ...] -> unit rows [classes, P, D]"""
        rows = self.embedded(module, Split(prompts.flatten(0, 1)), self.other)  # [classes * P, D]
        return rows.unflatten(0, prompts.shape[:2])

    def score(self, module: SSLModule | Bare, split: Split) -> dict[str, float]:
        """What all probes say of a split, the same on every rank."""
        pairs = self.pairs(module, split)
        return {name: value for probe in self.probes.values() for name, value in probe(pairs).items()}

    def chance(self, module: SSLModule | Bare, split: Split) -> dict[str, float]:
        """What guesses would score."""
        pairs = self.pairs(module, split)
        return {name: value for probe in self.probes.values() for name, value in probe.chance(pairs).items()}


def scale_of(module: SSLModule | Bare) -> float | None:
    """The first ``log_scale`` among the parameters of a module, as a scale; ``None`` where it has none."""
    found = [p for name, p in module.named_parameters() if name.rpartition(".")[2] == "log_scale"]
    return found[0].detach().exp().item() if found else None


def equal_rows(rows: Tensor) -> Tensor:
    """A number of each row, equal where rows are: [N, ...] -> [N] int64."""
    return rows.flatten(1).unique(dim=0, return_inverse=True)[1]
