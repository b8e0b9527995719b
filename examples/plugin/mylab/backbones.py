"""A backbone."""

from pathlib import Path

from torch import Tensor, nn


class ColumnNet(nn.Module):
    """Two convolutions over whole columns of a picture: for pictures that are alike from top to bottom.

    Args:
        channels: of the views.
        width: D, of the features.
        weights: run folder or file of weights that a new run begins with; ``None``: random ones.
    """

    sample_dims = 3  # C, H, W

    def __init__(self, channels: int, width: int, weights: str | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, None)),  # [B, C, 1, w]
            nn.Conv2d(channels, width, (1, 5), stride=(1, 2), padding=(0, 2)),  # [B, D, 1, w / 2]
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, (1, 5), stride=(1, 2), padding=(0, 2)),  # [B, D, 1, w / 4]
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.channels, self.dim, self.weights = channels, width, weights
        self.name = f"column_net_{width}"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Views [B, C, H, W] -> "pooled" [B, D] and "map" [B, D, 1, w]."""
        found = self.net(x)  # [B, D, 1, w]
        return {"pooled": found.mean(dim=(2, 3)), "map": found}

    def about(self) -> dict[str, str]:
        """What an exported file says of it."""
        return {"network": "mylab.backbones.ColumnNet", "settings": f"channels={self.channels}, width={self.dim}"}

    def load_line(self, path: Path) -> str:
        """Python that makes the network with the weights of such a file, outside a run."""
        return (
            "from safetensors.torch import load_file\n"
            "from mylab.backbones import ColumnNet\n"
            f"net = ColumnNet({self.channels}, {self.dim}).net\n"
            f"net.load_state_dict(load_file({str(path)!r}))"
        )
