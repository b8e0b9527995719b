"""GOPro: Singha et al., GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning, BMVC 2023
(arXiv:2308.11605), section 3: prompts for a frozen CLIP that follow from the picture.

The texts of a clean view's prompt name the class. Those of altered views have to be the same texts, and the clean
view's embedding has to find that of an altered one. What makes the texts are heads (``models.prompts``).

B samples of this rank, C classes, D the width of the embeddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, NonNegative, Positive, PositiveFraction, guarded
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.ctp_tft import class_loss
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class GOPro(Objective):
    """Cross-entropy of the first view's classes, squared distances of texts, and NT-Xent of the first two views.

    Args:
        temperature: of NT-Xent.
        weight: of NT-Xent.
        num_classes: C.
        known: share of the classes that samples come from, the first ones, rounded up: the others are not scored
            against.
        head: name of the projection of pictures, [B, D'].
        texts: name of the texts, [B, C, D].
        classifier: name of the scores, [B, C].
    """

    requires = frozenset({"label"})
    num_views = (2, None)

    def __init__(
        self,
        temperature: Positive,
        weight: NonNegative,
        num_classes: Classes,
        known: PositiveFraction,
        head: str = "projector",
        texts: str = "texts",
        classifier: str = "classifier",
    ) -> None:
        super().__init__()
        self.contrast = SimCLR(temperature, head)
        self.weight = weight
        self.num_classes = num_classes
        self.known = known
        self.texts = texts
        self.classifier = classifier
        self.reads = (classifier, texts, head)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        named, right = class_loss(outputs_of(student, self.classifier)[0], batch.label, self.known)
        clean, *altered = outputs_of(student, self.texts)  # [B, C, D] each
        steady = torch.stack([F.mse_loss(clean, each) for each in altered]).sum()
        seen = [view for view in student if view is not None]
        contrast = self.contrast([*seen[:2]], None, batch, clock)["loss"]
        return {
            "loss": named + steady + self.weight * contrast,
            "class_loss": named.detach(),
            "text_distance": steady.detach(),
            "contrast_loss": contrast.detach(),
            "accuracy": right,
        }
