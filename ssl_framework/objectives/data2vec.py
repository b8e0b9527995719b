"""data2vec: Baevski et al., data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language,
ICML 2022 (arXiv:2202.03555), eq. 2 and section 3.3.

The student, from whom patches are hidden, predicts at their places what the last blocks of a teacher make of the whole
image. The teacher is a moving average of the student.

B samples, N patches, D features, L blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs


def target_of(layers: Tensor) -> Tensor:
    """Mean of the blocks, each layer-normalised without scale, and normalised again: [B, L, N, D] -> [B, N, D]"""
    layers = full_precision(layers)
    mean = F.layer_norm(layers, layers.shape[-1:]).mean(dim=1)  # [B, N, D]
    return F.layer_norm(mean, mean.shape[-1:])


@guarded
class Data2Vec(Objective):
    """Smooth L1 distance at hidden places.

    Logs ``target_std``, the mean deviation of a target's numbers over the batch: 0 if all images became one.

    Args:
        beta: below it the distance is squared.
        head: name of the student's output that predicts, [B, N, D].
    """

    requires = frozenset({"teacher", "masks", "masked_tokens=replace"})
    num_views = (1, None)

    def __init__(self, beta: Positive, head: str = "patch_predictor") -> None:
        super().__init__()
        self.beta, self.head = beta, head
        self.reads, self.teacher_reads = (head, "mask"), ("layers",)
        self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert teacher is not None
        losses, spreads = [], []
        for seen, whole in zip(student, teacher, strict=True):
            if seen is None or whole is None:
                continue
            target = target_of(whole["layers"])  # [B, N, D]
            errors = F.smooth_l1_loss(seen[self.head], target, beta=self.beta, reduction="none").mean(dim=2)  # [B, N]
            losses.append(mean_of(errors, seen["mask"]))
            spreads.append(target.std(dim=0, correction=0).mean())
        return {"loss": torch.stack(losses).mean(), "target_std": torch.stack(spreads).mean()}
