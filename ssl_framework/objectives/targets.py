"""How a teacher's outputs become targets: centred and sharpened (DINO, arXiv:2104.14294), or balanced by Sinkhorn's
algorithm (DINOv2, arXiv:2304.07193, section 4).

R rows of this rank, W ranks, K outputs.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, guarded
from ssl_framework.distributed import gather, own_rows
from ssl_framework.functional import balanced, full_precision
from ssl_framework.memory import Centre


@guarded
class Centred(nn.Module):
    """Targets as DINO's: outputs without their moving average, sharpened.

    Args:
        centre: of all rows, also those that do not count; it moves after it was used.
    """

    def __init__(self, centre: Centre) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, outputs: Tensor, temperature: float, counts: Tensor) -> Tensor:
        """[R, K] of this rank, and which rows count, [R] bool -> [R, K], rows sum to one. Changes the centre."""
        targets = ((outputs - self.centre.read()) / temperature).softmax(dim=1)
        self.centre.update(outputs)
        return targets


@guarded
class Balanced(nn.Module):
    """Targets that use all outputs alike, over the rows of all ranks that count (Sinkhorn-Knopp).

    Args:
        iterations: of the algorithm.
    """

    def __init__(self, iterations: Count) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, outputs: Tensor, temperature: float, counts: Tensor) -> Tensor:
        """As ``Centred``; rows that do not count are 0. Holds the outputs of all ranks meanwhile."""
        rows, chosen = gather(outputs), gather(counts)  # [W * R, K], [W * R]
        targets = torch.zeros_like(rows)
        if chosen.any():
            logs = full_precision(rows[chosen]).T / temperature  # [K, rows]; in logarithms nothing underflows
            targets[chosen] = balanced(logs, self.iterations).exp().T.to(rows.dtype)
        return own_rows(targets)
