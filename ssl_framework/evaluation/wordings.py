"""Evaluation of texts against texts: how the features of two wordings lie to each other; likewise of the two series of
a pair.

N samples of the test split, K wordings of each, of which the first two are read; D dimensions, P graded pairs.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.data.base import Graded, Split
from ssl_framework.evaluation.cross_modal import equal_rows
from ssl_framework.functional import unit


class Wordings(NamedTuple):
    """Unit rows of the wordings of one split."""

    z: Tensor  # [N, K, D] float32, K 1 or 2
    group: Tensor  # [N] int64: samples of equal groups are right answers to each other
    graded: Graded | None  # pairs of the N * K texts and how alike they are
    items: Mapping[str, Tensor] = MappingProxyType({})  # factor -> [classes, P, D] unit rows: ways to name each class
    label: Mapping[str, Tensor] = MappingProxyType({})  # factor -> [N] int64
    kind: Tensor | None = None  # [N] int64: the class of each sample, by its number among ``kinds``
    kinds: tuple[str, ...] = ()  # names of the classes; none where the data have no classes


class WordingProbe(Protocol):
    """Scores features of texts against each other; nothing is fitted."""

    def __call__(self, test: Wordings) -> dict[str, float]:
        """Metric (with its protocol in its name) -> value; nothing where the split has not what it reads."""
        ...

    def chance(self, test: Wordings) -> dict[str, float]:
        """What guesses would score, under the same names."""
        ...


@guarded
class AcrossWordings:
    """Features of the first two wordings of every test sample, and what probes say of them.

    Args:
        probes: name -> probe.
        items: whether ways to name classes (``Split.prompts``) are embedded, too, for probes that read them.
    """

    def __init__(self, probes: Mapping[str, WordingProbe | None], items: bool = False) -> None:
        self.probes = {name: probe for name, probe in probes.items() if probe is not None}
        self.items = items
        self.read: tuple[object, list[Split]] = (None, [])  # the rows read last, and their columns
        self.named: tuple[object, dict[str, Split]] = (None, {})  # likewise of ways to name classes

    def check_split(self, split: Split) -> None:
        """Raises ValueError if samples are neither texts nor pairs of series."""
        texts = len(split.shape) == 3 and split.rows.dtype == torch.int32  # [N, K, L]
        if not texts and not (len(split.shape) == 4 and split.rows.dtype.is_floating_point):  # [N, K, C, T]
            raise ValueError(
                "evaluation.wordings compares wordings of texts, which the data have not: choose evaluation=frozen, or "
                "data of texts such as data=caption_texts"
            )

    def columns(self, split: Split) -> list[Split]:
        """The first wording of every sample as a split of its own, and the second where there is one; the same objects
        when called again."""
        if self.read[0] is not split.rows:
            rows = split.rows[torch.arange(len(split.rows), device=split.rows.device)]  # [N, K, L]
            self.read = split.rows, [Split(rows[:, k].contiguous()) for k in range(min(2, rows.shape[1]))]
        return self.read[1]

    def embedded(self, features: Callable[[Split], dict[str, Tensor]], split: Split) -> dict[str, Wordings]:
        """Of each layer that ``features`` gives, "" the backbone's; every rank takes part."""
        self.check_split(split)
        found = [features(column) for column in self.columns(split)]
        items = {factor: features(each) for factor, each in self.prompts(split).items()}
        label = {factor: (split.numbers or {})[factor].cpu() for factor in items}
        return {
            layer: Wordings(
                torch.stack([unit(each[layer].float()) for each in found], dim=1),  # [N, K, D]
                self.group(split),
                split.graded,
                {f: unit(x[layer].float()).unflatten(0, (split.prompts[f].shape[0], -1)) for f, x in items.items()},  # type: ignore[index]
                label,
                *self.kinds(split),
            )
            for layer in found[0]
        }

    def prompts(self, split: Split) -> dict[str, Split]:
        """Factor -> ways to name its classes, [classes * P, L], if they are asked for; as ``columns``."""
        if not self.items or split.prompts is None:
            return {}
        if self.named[0] is not split.prompts:
            self.named = split.prompts, {factor: Split(x.flatten(0, 1)) for factor, x in split.prompts.items()}
        return self.named[1]

    def group(self, split: Split) -> Tensor:
        """What the data say, or a number for each first wording: [N] int64."""
        numbers = split.numbers or {}
        return numbers["group"].cpu() if "group" in numbers else equal_rows(self.columns(split)[0].rows[:].cpu())  # type: ignore[index]

    def kinds(self, split: Split) -> tuple[Tensor | None, tuple[str, ...]]:
        """The class of each sample [N], and their names, where the labels are classes that have names."""
        if split.label is None or not split.classes or split.label.is_floating_point():
            return None, ()
        return split.label.cpu(), split.classes

    def score(self, test: Wordings) -> dict[str, float]:
        """What all probes say."""
        return {name: value for probe in self.probes.values() for name, value in probe(test).items()}

    def chance(self, split: Split) -> dict[str, float]:
        """What guesses would score."""
        empty = torch.zeros(len(split.rows), len(self.columns(split)), 0)  # [N, K, 0]
        items = {f: x.new_zeros(*x.shape[:2], 0) for f, x in (split.prompts or {}).items() if self.items}
        test = Wordings(empty, self.group(split), split.graded, items, {}, *self.kinds(split))
        return {name: value for probe in self.probes.values() for name, value in probe.chance(test).items()}
