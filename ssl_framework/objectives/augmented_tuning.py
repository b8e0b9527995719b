"""Few labels, augmented texts and a contrastive term: Obadinma, Guo and Zhu, Effectiveness of Data Augmentation for
Parameter Efficient Tuning with Limited Data, RepL4NLP 2023 (arXiv:2303.02577), known by its abstract.

Cross-entropy of the samples that have a label, and beside it each sample finds its altered form. Mixtures are of pooled
features (Guo et al., Augmenting Data with Mixup for Sentence Classification, arXiv:1905.08941, senMixup).

B samples of this rank, N of all ranks, D features, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Classes, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of, own_rows
from ssl_framework.mixers.base import beta
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class AugmentedTuning(Objective):
    """``CE + weight * NT-Xent``: the first over labelled samples, the mean of both views, or of the first view and
    mixtures of it; the second over all samples.

    Args:
        num_classes: C.
        temperature: of NT-Xent.
        weight: of NT-Xent; 0: without.
        mixup: alpha of the Beta distribution of the shares; ``None``: no mixtures.
        head: what is compared.
        classifier: name of the class scores, a head on the pooled features.
    """

    requires = frozenset({"label", "partial labels", "heads"})

    def __init__(
        self,
        num_classes: Classes,
        temperature: Positive,
        weight: NonNegative,
        mixup: Positive | None,
        head: str = "pooled",
        classifier: str = "classifier",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.contrast = SimCLR(temperature, head)
        self.weight = weight
        self.mixup = mixup
        self.classifier = classifier
        self.reads = ("pooled", head, classifier)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        logits, label = outputs_of(student, self.classifier), batch.label  # 2 x [B, C], [B]
        labelled = label >= 0  # [B]
        first = F.cross_entropy(logits[0], label.clamp(min=0), reduction="none")  # [B]
        if self.mixup is None:
            second = F.cross_entropy(logits[1], label.clamp(min=0), reduction="none")  # [B]
        else:
            second = self.of_mixtures(outputs_of(student, "pooled")[0], label, clock)  # [B]
        named = mean_of((first + second) / 2, labelled)
        right = (logits[0].detach().argmax(dim=1) == label).float()  # [B]
        logged = {"class_loss": named.detach(), "accuracy": mean_of(right, labelled)}
        if not self.weight:
            return {"loss": named, **logged}
        contrast = self.contrast(student, None, batch, clock)["loss"]
        return {"loss": named + self.weight * contrast, **logged, "contrast_loss": contrast.detach()}

    def of_mixtures(self, pooled: Tensor, label: Tensor, clock: Clock) -> Tensor:
        """Cross-entropy of each sample mixed with a labelled one of any rank, with both classes: [B, D], [B] -> [B];
        what it gives of a sample without a label does not count."""
        assert self.through_heads is not None and self.mixup is not None
        everyone, classes = gather_with_grad(pooled), gather(label)  # [N, D], [N]
        draws, count = clock.generator(pooled.device), len(classes)
        order = torch.rand(count, generator=draws, device=pooled.device).add((classes < 0) * 2).argsort()  # [N]
        place = torch.rand(count, generator=draws, device=pooled.device) * (classes >= 0).sum()  # [N]
        share = beta(self.mixup, self.mixup, (count,), pooled, draws).to(pooled.dtype)  # [N]
        partner, own = own_rows(order[place.long()]), own_rows(share)  # [B], [B]
        mixed = own[:, None] * pooled + (1 - own)[:, None] * everyone[partner]  # [B, D]
        log_p = self.through_heads(mixed)[self.classifier].log_softmax(dim=1)  # [B, C]
        pair = torch.stack([label, classes[partner]], dim=1).clamp(min=0)  # [B, 2]
        return -(torch.stack([own, 1 - own], dim=1) * log_p.gather(1, pair)).sum(dim=1)  # [B]
