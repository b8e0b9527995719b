"""Teaching CLIP to count: Paiss et al., Teaching CLIP to Count to Ten, ICCV 2023 (arXiv:2302.12066), eq. 1 to 3.

Beside CLIP's loss a picture has to be nearer to its caption than to the same caption with another number in it, which
for CLIP's loss alone is nearly the same text.
"""

import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class Counting(Objective):
    """CLIP's loss of view 0 and view 1, and ``weight`` times that of the pairs with the counterfactual texts of view 2.

    A sample of class 0 shows one thing, and its caption has no number to be changed: it does not count.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        weight: lambda.
        scaled: whether the learnt scale counts for cosines with counterfactual texts, too.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    requires = frozenset({"label"})
    num_views = (3, 3)

    def __init__(
        self, temperature: Positive, largest_scale: Positive, weight: NonNegative, scaled: bool, head: str = "projector"
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.weight = weight
        self.scaled = scaled
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        assert batch.label is not None
        self.clip.bound()
        picture, caption, other = rows_of(student, self.head)  # [B, D] each
        pairs = self.clip.both_ways(picture, caption).mean()
        lead = (picture * (other - caption)).sum(dim=1)  # [B], by which the wrong number is nearer
        if self.scaled:
            lead = lead / self.clip.temperature.to(lead.dtype)
        counted = mean_of(F.softplus(lead), batch.label > 0)
        logged = {"clip_loss": pairs.detach(), "count_loss": counted.detach()}
        return {"loss": pairs + self.weight * counted, **logged, "scale": self.clip.log_scale.detach().exp()}
