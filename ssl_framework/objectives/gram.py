"""GRAM: Cicchetti et al., Gramian Multimodal Representation Learning and Alignment, ICLR 2025 (arXiv:2412.11959),
eq. 3 to 6.

How well k modalities of a sample agree is the volume of the parallelotope that their unit embeddings span, 0 where all
are one direction: one number for all of them at once, where cosines compare two at a time.

B samples of this rank, M of all ranks.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import rows_of
from ssl_framework.types import Batch, Clock, Outputs

MOST = 4  # modalities: the determinant is written out, k! products


@guarded
class GRAM(Objective):
    """Mean of both cross-entropies: an anchor finds the tuple of its other modalities by the volume, and back.

    Args:
        temperature: of minus the volume, in the first step; its logarithm is trained.
        largest_scale: what 1 / temperature may grow to.
        label_smoothing: share of the target that is spread over all candidates, in [0, 1).
        anchor: position of the view that the others are compared with, from the end as well (-1: the last).
        epsilon: added to the squared volume, whose root has no slope at 0.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    num_views = (2, MOST)

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        label_smoothing: BelowOne,
        anchor: int,
        epsilon: Positive,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))  # no dimensions: no weight decay
        self.largest = math.log(largest_scale)
        self.label_smoothing = label_smoothing
        self.anchor = anchor
        self.epsilon = epsilon
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: widths of towers differ, or no view is at ``anchor``."""
        with torch.no_grad():
            self.log_scale.clamp_(max=self.largest)
        rows = rows_of(student, self.head)  # k x [B, D]
        if not -len(rows) <= self.anchor < len(rows):
            raise ValueError(f"objective.anchor is {self.anchor}, but there are {len(rows)} views: name one of them")
        anchor = rows.pop(self.anchor)  # [B, D]
        everyone = [gather_with_grad(z) for z in (anchor, *rows)]  # k x [M, D]
        own = rank() * len(anchor) + torch.arange(len(anchor), device=anchor.device)  # [B]
        there = volumes(anchor, everyone[1:], self.epsilon)  # [B, M]
        back = volumes(everyone[0], rows, self.epsilon).T  # [B, M]
        scale = self.log_scale.to(anchor.dtype).exp()
        loss = sum(
            nn.functional.cross_entropy(-scale * found, own, label_smoothing=self.label_smoothing)
            for found in (there, back)
        )
        mean = there.detach().gather(1, own[:, None]).mean()
        return {"loss": torch.as_tensor(loss) / 2, "scale": scale.detach(), "volume": mean}


def volumes(anchors: Tensor, others: list[Tensor], epsilon: float) -> Tensor:
    """Volume of the parallelotope of each anchor and each tuple of unit rows (eq. 3): the root of the determinant of
    their inner products, which is written out (Leibniz), as a polynomial has a slope everywhere.

    Args:
        anchors: [N, D] unit rows.
        others: k - 1 x [M, D], the tuples.
        epsilon: added below the root.

    Returns:
        [N, M]
    """
    inner = {(0, b): anchors @ z.T for b, z in enumerate(others, 1)}  # [N, M] each
    inner |= {
        (a, b): (others[a - 1] * others[b - 1]).sum(dim=1)
        for a in range(1, MOST)
        for b in range(a + 1, MOST)
        if b <= len(others)
    }  # [M] each
    total = torch.zeros(len(anchors), len(others[0]), dtype=anchors.dtype, device=anchors.device)  # [N, M]
    for order in itertools.permutations(range(len(others) + 1)):
        product = total.new_tensor((-1.0) ** sum(a > b for a, b in itertools.combinations(order, 2)))
        for a, b in enumerate(order):
            product = product if a == b else product * inner[min(a, b), max(a, b)]  # a unit row with itself: 1
        total = total + product
    return (total.clamp(min=0.0) + epsilon).sqrt()
