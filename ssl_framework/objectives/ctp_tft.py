"""CTP-TFT: class-aware text prompts and text-guided feature tuning of a frozen CLIP (known by its abstract).

The text of every class looks at the picture, so that each picture has texts of its own, and the picture's places look
at the texts (``models.prompts.PromptTuning``). Cross-entropy compares what comes of both, picture by picture.

B samples of this rank, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, PositiveFraction, guarded
from ssl_framework.data.labels import num_known
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CTPTFT(Objective):
    """Mean cross-entropy of the classes that samples come from, over all views.

    Args:
        num_classes: C.
        known: share of the classes that samples come from, the first ones, rounded up: the others are not scored
            against.
        classifier: name of the scores, [B, C].
    """

    requires = frozenset({"label"})
    num_views = (1, None)

    def __init__(self, num_classes: Classes, known: PositiveFraction, classifier: str = "classifier") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.known = known
        self.classifier = classifier
        self.reads = (classifier,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        found = [class_loss(logits, batch.label, self.known) for logits in outputs_of(student, self.classifier)]
        loss, right = (torch.stack(each).mean() for each in zip(*found, strict=True))
        return {"loss": loss, "accuracy": right}


def class_loss(logits: Tensor, label: Tensor, known: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy among the first classes, and the share of right answers: [B, C] and [B] int64 -> two scalars."""
    base = logits[:, : num_known(logits.shape[1], known)]  # [B, K]
    return F.cross_entropy(base, label), (base.detach().argmax(dim=1) == label).float().mean()
