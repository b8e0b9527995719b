"""An encoder of series without dependencies: dilated one-dimensional convolutions, as TS2Vec's."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Channels, Count, guarded
from ssl_framework.types import Outputs


class DilatedNet(nn.Module):
    """Residual blocks of two convolutions whose dilation doubles from block to block (TS2Vec, arXiv:2106.10466,
    section 3 and the authors' code: 10 blocks, width 64, 320 features, kernel 3).

    Args:
        channels: C of the series.
        width: channels of the hidden blocks.
        depth: hidden blocks; one more makes the features. A point sees 4 * 2^(depth + 1) points around it.
        dim: D, features.
        kernel: points of a convolution, odd.
    """

    def __init__(self, channels: int, width: int, depth: int, dim: int, kernel: int) -> None:
        super().__init__()
        self.read = nn.Conv1d(channels, width, 1)
        widths = [*[width] * depth, dim]
        pairs = zip([width, *widths[:-1]], widths, strict=True)
        self.blocks = nn.Sequential(
            *(DilatedBlock(before, after, kernel, 2**i) for i, (before, after) in enumerate(pairs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, D, T]"""
        return self.blocks(self.read(x))


class DilatedBlock(nn.Module):
    """GELU and convolution, twice, and what came in.

    Args:
        before, after: channels that come in and go out.
        kernel: points of a convolution, odd.
        dilation: steps between them.
    """

    def __init__(self, before: int, after: int, kernel: int, dilation: int) -> None:
        super().__init__()
        around = (kernel - 1) // 2 * dilation
        self.first = nn.Conv1d(before, after, kernel, padding=around, dilation=dilation)
        self.second = nn.Conv1d(after, after, kernel, padding=around, dilation=dilation)
        self.skip = nn.Identity() if before == after else nn.Conv1d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, T] -> [B, after, T]"""
        return self.second(F.gelu(self.first(F.gelu(x)))) + self.skip(x)


class OfSeries(nn.Module):
    """Base of backbones of series.

    Args:
        kind: class of the network, which has ``read`` [B, C, T] -> [B, width, T] and ``blocks`` -> [B, D, T].
        settings: its arguments, "channels" and "dim" among them.
        name: what messages call it.
        weights: run folder or .safetensors file that a new run begins with (see ``weights``); ``None``: random ones.
        hidden: probability of a point being hidden behind ``read``, in training only (TS2Vec, arXiv:2106.10466, section
            3.2: no value of a series could stand for "hidden", so this is no part of the views).
    """

    sample_dims = 2

    def __init__(
        self, kind: type[nn.Module], settings: dict[str, int], name: str, weights: str | None, hidden: float
    ) -> None:
        super().__init__()
        self.settings = settings
        self.net = kind(**settings)
        self.channels, self.dim = settings["channels"], settings["dim"]
        self.dense_dims = {"tokens": self.dim}
        self.weights = weights
        self.name = name
        self.hidden = hidden

    def forward(self, x: Tensor) -> Outputs:
        """[B, C, T] -> "tokens" [B, T, D], one a point, and "pooled" [B, D], the greatest over time (TS2Vec 4.1).

        Raises:
            ValueError: what comes in is no series of these channels.
        """
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise ValueError(
                f"backbone {self.name} takes series of {self.channels} channel(s), but the views have samples of "
                f"{' x '.join(map(str, x.shape[1:]))}: choose another backbone, or data=waves"
            )
        points = self.net.read(x)  # type: ignore[operator]  # [B, width, T]
        if self.training and self.hidden > 0:
            gone = torch.rand(len(x), 1, x.shape[2], device=x.device) < self.hidden  # [B, 1, T]
            points = points.masked_fill(gone, 0.0)
        features = self.net.blocks(points)  # type: ignore[operator]  # [B, D, T]
        return {"tokens": features.transpose(1, 2), "pooled": features.amax(dim=2)}

    def about(self) -> dict[str, str]:
        """The class and its settings."""
        kind = type(self.net)
        return {"network": f"{kind.__module__}.{kind.__name__}", "settings": self._arguments()}

    def load_line(self, path: Path) -> str:
        """Builds the network and reads its weights."""
        kind = type(self.net)
        return (
            "from safetensors.torch import load_file\n"
            f"from {kind.__module__} import {kind.__name__}\n"
            f"net = {kind.__name__}({self._arguments()})\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )

    def _arguments(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


@guarded
class SeriesBackbone(OfSeries):
    """``DilatedNet`` as a backbone.

    Args:
        channels, width, depth, dim, kernel: of the network.
        weights, hidden: as of ``OfSeries``.

    Raises:
        ValueError: a number below its least, or an even kernel.
    """

    def __init__(
        self,
        channels: Channels,
        width: Count,
        depth: Count,
        dim: Count,
        kernel: Count = 3,
        weights: str | None = None,
        hidden: BelowOne = 0.0,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"backbone.kernel is {kernel}: it must be odd, so that every point has its own place")
        settings = {"channels": channels, "width": width, "depth": depth, "dim": dim, "kernel": kernel}
        super().__init__(DilatedNet, settings, f"dilated_net_{depth + 1}x{width}", weights, hidden)
