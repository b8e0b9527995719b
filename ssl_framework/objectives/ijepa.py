"""I-JEPA: Assran et al., Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture, CVPR 2023
(arXiv:2301.08243), section 3.

From the patches of a context block a narrow transformer predicts what the teacher, who sees the whole image, makes of
each of several target blocks. The teacher is a moving average of the student; there are no negatives and no pixels.

B samples, N patches, n of a context or target block, T target blocks, D features.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, guarded
from ssl_framework.functional import full_precision
from ssl_framework.models.patch_heads import Decoder, positions
from ssl_framework.models.patches import rows_at, visible
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class IJEPA(Objective):
    """Smooth L1 distance (beta 1) to the teacher's layer-normalised patches, mean over all target blocks.

    Args:
        width, depth, num_heads: of the predictor.
        head: name of the student's output that is the context, [B, n, D].
    """

    requires = frozenset({"teacher", "masks", "masked_tokens=drop", "targets"})
    num_views = (1, 1)

    def __init__(self, width: Count, depth: Count, num_heads: Count, head: str = "patch_features") -> None:
        super().__init__()
        self.head = head
        self.reads, self.teacher_reads = (head, "mask"), ("patches",)
        self.token_reads = (head,)
        self.width, self.depth, self.num_heads = width, depth, num_heads

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes the predictor, D -> D."""
        dim = teacher["patches"]
        self.predictor = Decoder(dim, self.width, self.depth, self.num_heads, dim)
        self.token = nn.Parameter(0.02 * torch.randn(self.width))  # [width]

    def predict(self, context: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """What the predictor says of target blocks, each from the context alone.

        Args:
            context: [B, n, D] visible patches.
            mask: [B, N] bool, True where a patch is not in the context.
            target: [B, T, n] int64 positions.

        Returns:
            [B, T, n, D]
        """
        place = positions(mask.shape[1], self.width, self.token)  # [N, width]
        x = self.predictor.read(context) + place[visible(mask)]  # [B, n, width]
        asked = self.token + place[target]  # [B, T, n', width]
        blocks = target.shape[1]
        joint = torch.cat([x.repeat_interleave(blocks, dim=0), asked.flatten(0, 1)], dim=1)  # [B * T, n + n', width]
        return self.predictor(joint)[:, x.shape[1] :].unflatten(0, (-1, blocks))  # [B, T, n', D]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (context,), (mask,) = outputs_of(student, self.head), outputs_of(student, "mask")  # [B, n, D], [B, N]
        (whole,) = outputs_of(teacher, "patches")  # [B, N, D]
        assert batch.targets is not None
        (where,) = batch.targets  # [B, T, n']
        whole = full_precision(whole)
        target = rows_at(F.layer_norm(whole, whole.shape[-1:]), where.flatten(1)).unflatten(1, where.shape[1:])
        found = self.predict(context, mask, where)  # [B, T, n', D]
        return {"loss": F.smooth_l1_loss(found, target), "target_std": whole.std(dim=0, correction=0).mean()}
