"""CleanCLIP: Bansal et al., CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning, ICCV 2023
(arXiv:2303.03323), eq. 3.

Beside CLIP's loss every modality has to find its own altered view: what a picture shows then counts by itself, and a
patch that poisoned pairs have tied to one caption comes loose from it. Meant for fine-tuning on clean pairs.
"""

from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CleanCLIP(Objective):
    """CLIP's loss of view 0 and view 2, and the mean of the cross-entropies of view 0 finding view 1 and 2 finding 3.

    Views 0 and 1 are of the main modality, 2 and 3 of the other one; all share one learnt scale.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        within: weight of what happens inside a modality (lambda_2).
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    num_views = (4, 4)

    def __init__(
        self, temperature: Positive, largest_scale: Positive, within: NonNegative, head: str = "projector"
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.within = within
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        self.clip.bound()
        main, main_altered, other, other_altered = rows_of(student, self.head)  # [B, D] each
        across = self.clip.both_ways(main, other).mean()
        within = (self.clip.one_way(main, main_altered) + self.clip.one_way(other, other_altered)).mean() / 2
        logged = {"clip_loss": across.detach(), "within_loss": within.detach()}
        return {"loss": across + self.within * within, **logged, "scale": self.clip.log_scale.detach().exp()}
