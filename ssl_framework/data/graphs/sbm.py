"""The default graph: a stochastic block model with features of its nodes, drawn from a seed, no files and no network.

Holland et al., Stochastic blockmodels: First steps, Social Networks 1983. The class of a node is its block. Neither its
features nor its edges say it alone: features are faint under noise that is far greater, and many edges lead elsewhere.
The graph has as many edges as its model has on average, but for those that are drawn twice.

n nodes, K blocks, F features.
"""

from typing import Annotated

import torch
from annotated_types import Interval

from ssl_framework.arguments import Count, Fraction, NonNegative, Positive, Seed, Several, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.graphs.base import Whole, both_ways, faint, numbered
from ssl_framework.types import step_seed


@guarded
class BlockModel:
    """Nodes of a graph, half of the time between friends.

    Args:
        num_train, num_test: nodes, which are of one graph; every block has equally many as far as the number allows.
        blocks: K.
        features: F.
        degree: edges of a node on average, before double ones are left out.
        within: share of the edges that stay in a block.
        signal: standard deviation of the blocks' means, per feature.
        noise: standard deviation of the first feature around the mean of its block; that of the last is ``least`` of
            it, and those between fall evenly.
        least: see ``noise``.
        seed: of the drawing.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        blocks: Annotated[int, Interval(ge=2, le=4096)],
        features: Several,
        degree: Positive,
        within: Fraction,
        signal: NonNegative,
        noise: NonNegative,
        least: Fraction,
        seed: Seed,
    ) -> None:
        self.count = {"train": num_train, "test": num_test}
        self.blocks = blocks
        self.features = features
        self.degree = degree
        self.within = within
        self.signal = signal
        self.noise = noise
        self.least = least
        self.seed = seed
        self.drawn: Whole | None = None

    def load(self, split: str) -> Split:
        """[N] int64 node numbers with the block as class; ValueError for an unknown split."""
        return numbered(split, self.count, self.blocks, "block")

    def graph(self) -> Whole:
        """Drawn when it is asked for first."""
        if self.drawn is None:
            self.drawn = self.draw()
        return self.drawn

    def draw(self) -> Whole:
        """The graph, a function of the seed."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 0))
        nodes = sum(self.count.values())
        block = torch.arange(nodes) % self.blocks  # [n]
        x = faint(block, self.blocks, self.features, (self.signal, self.noise, self.least), generator)  # [n, F]
        count = round(nodes * self.degree / 2)
        start, end = torch.randint(nodes, (2, count), generator=generator)  # [E / 2] each
        stays = torch.rand(count, generator=generator) < self.within  # [E / 2]
        away = (block[start] + torch.randint(1, self.blocks, (count,), generator=generator)) % self.blocks
        wanted = torch.where(stays, block[start], away)  # [E / 2]: the block of the other end
        end = end - (block[end] - wanted) % self.blocks  # blocks go around with the numbers of nodes
        return Whole(x, both_ways(torch.stack([start, end.where(end >= 0, end + self.blocks)]), nodes))
