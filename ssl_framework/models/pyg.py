"""Encoders of graphs of the package torch_geometric: attention (GAT, Velickovic et al., ICLR 2018, arXiv:1710.10903)
and isomorphism networks (GIN, Xu et al., ICLR 2019, arXiv:1810.00826)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ssl_framework.arguments import Count, Several, guarded
from ssl_framework.models.graph import refuse_other_nodes
from ssl_framework.types import Graph, Outputs

MODELS = ("GAT", "GIN")


@guarded
class PyGNet(nn.Module):
    """A network of ``torch_geometric.nn.models`` as a backbone, with batch normalisation over all nodes and ReLU
    between its layers.

    Args:
        model: "GAT" or "GIN".
        features: F.
        width: of the hidden layers.
        depth: layers; a node sees as many steps far.
        dim: D.
        options: further arguments of the class, such as ``{heads: 4}`` of GAT.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.

    Raises:
        ValueError: the package is not installed, or its class does not take the options.
    """

    def __init__(
        self,
        model: str,
        features: Several,
        width: Count,
        depth: Count,
        dim: Count,
        options: Mapping[str, Any],
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if model not in MODELS:
            raise ValueError(f"backbone.model is {model}: choose one of {', '.join(MODELS)}")
        try:
            from torch_geometric.nn import models
        except ImportError as error:
            raise ValueError(
                "backbone=pyg needs the package torch_geometric: pip install -e '.[graph]', or choose backbone=gcn"
            ) from error
        self.settings: dict[str, Any] = {
            **{"in_channels": features, "hidden_channels": width, "num_layers": depth, "out_channels": dim},
            **{"act": "relu", "norm": "batch_norm", **options},
        }
        try:
            self.net = getattr(models, model)(**self.settings)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"backbone.options is {dict(options)}, which {model} does not take: {error}") from error
        self.model, self.features, self.dim, self.weights = model, features, dim, weights
        self.name = f"{model.lower()}_{depth}x{width}"

    def forward(self, x: Graph) -> Outputs:
        """A graph of B nodes -> "pooled" [B, D].

        Raises:
            ValueError: what comes in is no graph of such nodes.
        """
        refuse_other_nodes(x, self.features, self.name)
        return {"pooled": self.net(x.x, x.edges)[x.nodes]}

    def about(self) -> dict[str, str]:
        """The class and its settings."""
        return {"network": f"torch_geometric.nn.models.{self.model}", "settings": self._arguments()}

    def load_line(self, path: Path) -> str:
        """Builds the network and reads its weights."""
        return (
            "from safetensors.torch import load_file\n"
            f"from torch_geometric.nn.models import {self.model}\n"
            f"net = {self.model}({self._arguments()})\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )

    def _arguments(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
