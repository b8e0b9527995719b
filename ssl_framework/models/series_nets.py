"""Two further encoders of series, so that an objective can be tried on other nets than convolutions: a recurrent net,
and a transformer over points. B samples, C channels, T points, D features.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Channels, Count, guarded
from ssl_framework.models.series import OfSeries


class RecurrentNet(nn.Module):
    """A linear layer on each point and LSTMs over time (Hochreiter & Schmidhuber, 1997): a point knows its past alone.

    Args:
        channels: C of the series.
        width: of the first layer.
        depth: LSTMs, one behind the other.
        dim: D, features, and cells of each of them.
    """

    def __init__(self, channels: int, width: int, depth: int, dim: int) -> None:
        super().__init__()
        self.read = nn.Conv1d(channels, width, 1)
        self.lstm = nn.LSTM(width, dim, depth, batch_first=True)

    def blocks(self, x: Tensor) -> Tensor:
        """[B, width, T] -> [B, D, T]"""
        return self.lstm(x.transpose(1, 2))[0].transpose(1, 2)  # [B, D, T]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, D, T]"""
        return self.blocks(self.read(x))


class AttentionNet(nn.Module):
    """A linear layer on each point, fixed positions, and a transformer that normalises before each part.

    Args:
        channels: C of the series.
        width: of the blocks, even.
        depth: blocks.
        heads: of attention; they divide the width.
        dim: D, features.
    """

    def __init__(self, channels: int, width: int, depth: int, heads: int, dim: int) -> None:
        super().__init__()
        self.read = nn.Conv1d(channels, width, 1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.write = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))

    def blocks(self, x: Tensor) -> Tensor:
        """[B, width, T] -> [B, D, T]"""
        x = x.transpose(1, 2)  # [B, T, width]
        x = x + positions(x.shape[1], x.shape[2], x)
        for layer in self.layers:
            x = layer(x)
        return self.write(x).transpose(1, 2)  # [B, D, T]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, D, T]"""
        return self.blocks(self.read(x))


def positions(count: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the places on a line (Vaswani et al., arXiv:1706.03762, section 3.5): [T, width]."""
    rate = 10000.0 ** -(torch.arange(0, width, 2, device=like.device) / width)  # [width / 2]
    angle = torch.arange(count, device=like.device)[:, None] * rate  # [T, width / 2]
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(like.dtype)  # [T, width]


@guarded
class SeriesLSTM(OfSeries):
    """``RecurrentNet`` as a backbone.

    Args:
        channels, width, depth, dim: of the network.
        weights, hidden: as of ``OfSeries``.
    """

    def __init__(
        self,
        channels: Channels,
        width: Count,
        depth: Count,
        dim: Count,
        weights: str | None = None,
        hidden: BelowOne = 0.0,
    ) -> None:
        settings = {"channels": channels, "width": width, "depth": depth, "dim": dim}
        super().__init__(RecurrentNet, settings, f"lstm_{depth}x{dim}", weights, hidden)


@guarded
class SeriesTransformer(OfSeries):
    """``AttentionNet`` as a backbone.

    Args:
        channels, width, depth, heads, dim: of the network.
        weights, hidden: as of ``OfSeries``.

    Raises:
        ValueError: the heads do not divide the width, or it is odd.
    """

    def __init__(
        self,
        channels: Channels,
        width: Count,
        depth: Count,
        heads: Count,
        dim: Count,
        weights: str | None = None,
        hidden: BelowOne = 0.0,
    ) -> None:
        if width % heads or width % 2:
            raise ValueError(f"backbone.width is {width}: make it even and a multiple of backbone.heads={heads}")
        settings = {"channels": channels, "width": width, "depth": depth, "heads": heads, "dim": dim}
        super().__init__(AttentionNet, settings, f"transformer_{depth}x{width}", weights, hidden)
