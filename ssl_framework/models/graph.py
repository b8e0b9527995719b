"""An encoder of graphs without dependencies: graph convolutions (Kipf and Welling, arXiv:1609.02907)."""

import inspect
import itertools
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.types import Graph, Outputs


def propagated(h: Tensor, edges: Tensor) -> Tensor:
    """Every node takes the sum of its neighbours and itself, each divided by the root of both degrees (equation 2).

    Args:
        h: [n, D].
        edges: [2, E] int64, from and to; a node without edges keeps what it has.

    Returns:
        [n, D].
    """
    start, end = edges
    degree = 1 + torch.bincount(end, minlength=len(h)).to(h.dtype)  # [n]: with itself
    scale = degree.rsqrt()[:, None]  # [n, 1]
    scaled = h * scale  # [n, D]
    return scale * scaled.index_add(0, end, scaled.index_select(0, start))  # not h itself, for its own share


class GraphNet(nn.Module):
    """Layers of graph convolution, batch normalisation over all nodes and PReLU, as BGRL's encoder (arXiv:2102.06514).

    Args:
        features, width, depth, dim: as in ``GCN``.
    """

    def __init__(self, features: int, width: int, depth: int, dim: int) -> None:
        super().__init__()
        widths = [features, *[width] * (depth - 1), dim]
        pairs = list(itertools.pairwise(widths))
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=False) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(after) for _, after in pairs)
        self.activations = nn.ModuleList(nn.PReLU() for _ in pairs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """[n, F], [2, E] int64 -> [n, D]"""
        for layer, norm, activation in zip(self.layers, self.norms, self.activations, strict=True):
            x = activation(norm(propagated(layer(x), edges)))  # [n, D]
        return x


@guarded
class GCN(nn.Module):
    """``GraphNet`` as a backbone.

    Args:
        features: F.
        width: of the hidden layers.
        depth: layers; a node sees as many steps far.
        dim: D.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.
    """

    def __init__(self, features: Several, width: Count, depth: Count, dim: Count, weights: str | None = None) -> None:
        super().__init__()
        self.settings = {"features": features, "width": width, "depth": depth, "dim": dim}
        self.net = GraphNet(**self.settings)
        self.features = features
        self.dim = dim
        self.weights = weights
        self.name = f"gcn_{depth}x{width}"

    def forward(self, x: Graph) -> Outputs:
        """A graph of B nodes -> "pooled" [B, D].

        Raises:
            ValueError: what comes in is no graph of such nodes.
        """
        refuse_other_nodes(x, self.features, self.name)
        return {"pooled": self.net(x.x, x.edges)[x.nodes]}

    def about(self) -> dict[str, str]:
        """The class and its settings."""
        return {"network": "ssl_framework.models.graph.GraphNet", "settings": self._arguments()}

    def load_line(self, path: Path) -> str:
        """Builds the network and reads its weights."""
        return (
            "from safetensors.torch import load_file\n"
            "from ssl_framework.models.graph import GraphNet\n"
            f"net = GraphNet({self._arguments()})\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )

    def _arguments(self) -> str:
        return ", ".join(f"{name}={self.settings[name]}" for name in inspect.signature(GraphNet).parameters)


def refuse_other_nodes(x: Graph, features: int, name: str) -> None:
    """Refuses what is no graph whose nodes have so many features.

    Raises:
        ValueError: it is not; the sentence names the backbone.
    """
    if not isinstance(x, Graph) or x.x.shape[1] != features:
        shape = " x ".join(map(str, x.shape[1:]))
        raise ValueError(
            f"backbone {name} takes a graph whose nodes have {features} features, but the views have samples of "
            f"{shape}: choose another backbone, or data=sbm"
        )
