"""Random views of a graph: edges are left out and features hidden (GRACE, Zhu et al., arXiv:2006.04131, section 3.2.2).

A sample is a node's number. A view is the whole graph, changed once for all nodes of the batch, and says which nodes it
is of; so a step of few nodes costs as much as one of all.

B samples, n nodes, F features, E edges.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Natural, Several, guarded
from ssl_framework.types import Batch, Graph, Samples

SHOWN = 12
"""Neighbours in the picture of a node."""

REACH = 3.5
"""Features from minus to plus this are drawn, white to black."""


@guarded
class GraphViews(nn.Module):
    """Makes V views of a graph.

    Args:
        count: V.
        source: the data, which have the graph; it is drawn or read at the first use.
        features: F.
        drop_edges: of each view, probability of every edge, both ways of it, of being left out; the last one of all
            further views.
        mask_features: likewise, of every feature of being zero at all nodes.
        shuffled: positions of views whose nodes get each other's features, in random order.
        relations: of each view, the kind of edges it has; ``None``, and views beyond the list: all kinds.

    Raises:
        ValueError: a number out of its range, or data without a graph.
    """

    channels = None  # no pictures
    crops = None  # which loaders could cut
    raw_name = "raw_input"

    def __init__(
        self,
        count: Annotated[int, Interval(ge=1, le=1024)],
        source: object,
        features: Several,
        drop_edges: Annotated[Sequence[BelowOne], Len(1)] = (0.0,),
        mask_features: Annotated[Sequence[BelowOne], Len(1)] = (0.0,),
        shuffled: Sequence[Natural] = (),
        relations: Sequence[str | None] = (),
    ) -> None:
        super().__init__()
        if not callable(getattr(source, "graph", None)):
            raise ValueError("views of graphs need data that have one: choose data=sbm or graph_table")
        self.num_views = count
        self.read: Callable[[], tuple[Tensor, Tensor, Mapping[str, Tensor]]] = source.graph  # type: ignore[attr-defined]
        self.features = features
        self.drop_edges, self.mask_features = (
            [*shares[:count], *[shares[-1]] * (count - len(shares))] for shares in (drop_edges, mask_features)
        )
        self.shuffled = tuple(shuffled)
        self.relations = [*relations, *[None] * count][:count]
        self.modality = ("node",) * count
        self.there: dict[tuple[torch.device, str | None], tuple[Tensor, Tensor]] = {}

    def on(self, device: torch.device, relation: str | None = None) -> tuple[Tensor, Tensor]:
        """Features [n, F], and edges [2, E] of a kind or all, first all one way and then all back, on a device. They
        are no buffers, for they are no part of the weights.

        Raises:
            ValueError: they have another number of features, or no such kind of edges.
        """
        if (device, relation) not in self.there:
            x, edges, relations = self.read()
            if relation is not None and relation not in relations:
                raise ValueError(
                    f"views.relations names {relation}, but the edges of the data have "
                    f"{', '.join(relations) or 'no kinds'}: choose data=hetero, or set views.relations=[]"
                )
            if x.shape[1] != self.features:
                raise ValueError(
                    f"views take nodes of {self.features} features, but the data have {x.shape[1]}: set views.features "
                    "to the data's"
                )
            there = edges if relation is None else relations[relation]
            self.there[device, relation] = x.to(device), there.to(device)
        return self.there[device, relation]

    @torch.no_grad()
    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        """Node numbers [B] -> V graphs of these nodes. A CPU generator draws the same whatever the device."""
        nodes = self.checked(samples.inputs)  # type: ignore[arg-type]  # [B]
        views = [self.view(nodes, v, generator) for v in range(self.num_views)]
        return Batch(list(views), samples.index, samples.label)

    def of(self, raw: Tensor, generator: torch.Generator | None = None) -> list[Graph]:
        """Views of plain samples, in a loop of one's own: node numbers [B] -> V graphs."""
        return self(Samples(raw, torch.arange(len(raw), device=raw.device)), generator).views

    def view(self, nodes: Tensor, number: int, generator: torch.Generator | None) -> Graph:
        """The graph once more, as the view of this number has it."""
        x, edges = self.on(nodes.device, self.relations[number])
        where = nodes.device if generator is None else generator.device
        if share := self.drop_edges[number]:
            drawn = torch.rand(edges.shape[1] // 2, generator=generator, device=where).to(x.device)  # [E / 2]
            edges = edges[:, (drawn >= share).repeat(2)]  # [2, E']: both ways share a draw
        if share := self.mask_features[number]:
            hidden = torch.rand(x.shape[1], generator=generator, device=where).to(x.device) < share  # [F]
            x = x.masked_fill(hidden, 0.0)  # [n, F]
        if number in self.shuffled:
            x = x[torch.randperm(len(x), generator=generator, device=where).to(x.device)]  # [n, F]
        return Graph(x, edges, nodes)

    def clean(self, raw: Tensor, modality: str | None = None) -> Graph:
        """The graph as it is, of node numbers [B].

        Raises:
            ValueError: they are no numbers of nodes.
        """
        nodes = self.checked(raw)
        return Graph(*self.on(nodes.device), nodes)

    def checked(self, raw: Tensor) -> Tensor:
        """Node numbers [B] as int64; a ValueError for anything else."""
        if not isinstance(raw, Tensor) or raw.ndim != 1 or raw.is_floating_point():
            raise ValueError("views of graphs take node numbers [B], but the data have other samples: choose data=sbm")
        return raw.long()

    def raw(self, rows: Tensor) -> Tensor:
        """The features of the nodes alone: [B] -> [B, F] float32."""
        return self.on(torch.device("cpu"))[0][rows.cpu()]

    def further(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The mean over a node, its neighbours and theirs: what a graph convolution does before it has learnt anything
        (Wu et al., Simplifying Graph Convolutional Networks, arXiv:1902.07153)."""
        x, edges = self.on(torch.device("cpu"))

        def smoothed(rows: Tensor) -> Tensor:
            start, end = edges
            degree = 1 + torch.bincount(end, minlength=len(x)).to(x.dtype)[:, None]  # [n, 1]
            found = x  # [n, F]
            for _ in range(2):
                found = (found.index_add(0, end, found[start])) / degree
            return found[rows.cpu()]

        return {"smoothed": smoothed}

    def example(self, view: int) -> tuple[int, ...]:
        """F."""
        return (self.features,)

    def picture(self, view: Graph, modality: str | None = None) -> Tensor:
        """The features of one node, and below a line those of its first neighbours, one row each: [1, h, F]."""
        node = view.nodes[0]
        near = view.edges[0, view.edges[1] == node][:SHOWN]  # [k]
        rows = torch.cat([view.x[node][None], view.x[near]]).cpu()  # [1 + k, F]
        shade = ((REACH - rows) / (2 * REACH)).clamp(0, 1)
        canvas = torch.ones(SHOWN + 2, rows.shape[1])  # [h, F]
        canvas[0], canvas[2 : 2 + len(near)] = shade[0], shade[1:]
        return canvas.repeat_interleave(4, 0).repeat_interleave(2, 1)[None]

    def describe(self) -> str:
        """What ``clean`` does."""
        return "the whole graph as it is, every edge and feature"

    def compile_parts(self) -> None:
        """Nothing: a few operations."""
