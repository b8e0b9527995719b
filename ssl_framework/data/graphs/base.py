"""What a source of a graph is, and how the edges of one are written."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ssl_framework.data.base import Split, check_split


class Whole(NamedTuple):
    """A graph of n nodes."""

    x: Tensor  # [n, F] float32
    edges: Tensor  # [2, E] int64: from, to; first every edge one way, then all of them back in the same order
    relations: Mapping[str, Tensor] = MappingProxyType(
        {}
    )  # kinds of edges by name, as ``edges``, which are all of them


class GraphSource(Protocol):
    """A source whose samples are nodes of one graph, by their numbers: rows [N] int64."""

    def load(self, split: str) -> Split:
        """As of every source; the nodes of one split are not those of another."""
        ...

    def graph(self) -> Whole:
        """The graph, with the nodes of all splits; the same object when called again."""
        ...


def numbered(split: str, count: Mapping[str, int], classes: int, name: str) -> Split:
    """[N] int64 numbers of the nodes of a split, those of "test" behind all others, with the classes that take turns.

    Args:
        split: "pretrain", "train" or "test"; ValueError for another.
        count: of nodes, of "train" and "test".
        classes: how many take turns.
        name: what a class is called, before its number.
    """
    check_split(split)
    number = torch.arange(count["train"])  # [N]
    if split == "test":
        number = count["train"] + torch.arange(count["test"])
    return Split(number, number % classes, tuple(f"{name} {k}" for k in range(classes)))


def faint(
    own: Tensor, classes: int, features: int, noises: tuple[float, float, float], draws: torch.Generator
) -> Tensor:
    """Features around the mean of the own class, the first ones the noisiest: [n] int64 -> [n, F] float32.

    Args:
        own: class of each node.
        classes: K.
        features: F.
        noises: standard deviation of the means, that of the noisiest feature, and the least one's share of it.
        draws: the randomness.
    """
    signal, most, least = noises
    mean = signal * torch.randn(classes, features, generator=draws)  # [K, F]
    noise = most * torch.linspace(1, least, features)  # [F]
    return mean[own] + noise * torch.randn(len(own), features, generator=draws)  # [n, F]


def both_ways(pairs: Tensor, nodes: int) -> Tensor:
    """Undirected edges: pairs [2, P] of node numbers -> [2, E], every edge once one way, then once back, without
    double ones and without edges of a node to itself."""
    low, high = pairs.min(0).values, pairs.max(0).values  # [P] each
    key = (low * nodes + high)[low < high].unique()  # [E / 2]
    low, high = key // nodes, key % nodes
    return torch.stack([torch.cat([low, high]), torch.cat([high, low])])
