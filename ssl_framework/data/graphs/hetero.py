"""A graph of papers with two kinds of relations, drawn from a seed, no files and no network.

Papers have authors and subjects. Two papers are related if they share one: by an author, which says the class well and
relates few, or by a subject, which says it badly and relates many. These are the meta-paths paper-author-paper and
paper-subject-paper of a heterogeneous graph (Sun et al., PathSim, VLDB 2011); the features are faint, as in data=sbm.

n papers, K classes, F features.
"""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, Seed, Several, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.graphs.base import Whole, both_ways, faint, numbered
from ssl_framework.types import step_seed


@guarded
class Papers:
    """Papers, and which of them share an author or a subject.

    Args:
        num_train, num_test: papers, which are of one graph; every class has equally many as far as the number allows.
        classes: K.
        features: F.
        authors: of all papers together; each is of a class, in turns.
        subjects: likewise.
        loyalty: probability that an author of a paper is of its class; otherwise any author writes it.
        purity: likewise, of its subject.
        signal: standard deviation of the classes' means, per feature.
        noise: standard deviation of the first feature around the mean of its class; that of the last is ``least`` of
            it, and those between fall evenly.
        least: see ``noise``.
        seed: of the drawing.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        classes: Annotated[int, Interval(ge=2, le=4096)],
        features: Several,
        authors: Count,
        subjects: Count,
        loyalty: Fraction,
        purity: Fraction,
        signal: NonNegative,
        noise: NonNegative,
        least: Fraction,
        seed: Seed,
    ) -> None:
        for key, value in (("authors", authors), ("subjects", subjects)):
            if value < classes:
                raise ValueError(
                    f"data.source.{key} is {value}, but there are {classes} classes: give each one or more"
                )
        self.count = {"train": num_train, "test": num_test}
        self.classes = classes
        self.features = features
        self.shared = {"author": (authors, loyalty), "subject": (subjects, purity)}
        self.signal = signal
        self.noise = noise
        self.least = least
        self.seed = seed
        self.drawn: Whole | None = None

    def load(self, split: str) -> Split:
        """[N] int64 numbers of papers with their class; ValueError for an unknown split."""
        return numbered(split, self.count, self.classes, "class")

    def graph(self) -> Whole:
        """Drawn when it is asked for first."""
        if self.drawn is None:
            self.drawn = self.draw()
        return self.drawn

    def draw(self) -> Whole:
        """The graph, a function of the seed: its edges are all relations together."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 0))
        nodes = sum(self.count.values())
        own = torch.arange(nodes) % self.classes  # [n]
        x = faint(own, self.classes, self.features, (self.signal, self.noise, self.least), generator)  # [n, F]
        pairs = {}
        for name, (number, faithful) in self.shared.items():
            any_one = torch.randint(number, (nodes,), generator=generator)  # [n]
            of_class = any_one - (any_one % self.classes - own) % self.classes
            of_class = of_class.where(of_class >= 0, own)
            stays = torch.rand(nodes, generator=generator) < faithful  # [n]
            pairs[name] = sharing(torch.where(stays, of_class, any_one))
        edges = both_ways(torch.cat(list(pairs.values()), dim=1), nodes)
        return Whole(x, edges, {name: both_ways(each, nodes) for name, each in pairs.items()})


def sharing(what: Tensor) -> Tensor:
    """All pairs of nodes that have the same: [n] int64 -> [2, P]."""
    groups = what.argsort(stable=True).split(what.bincount().tolist())
    return torch.cat([torch.combinations(group) for group in groups if len(group) > 1] or [torch.zeros(0, 2).long()]).T
