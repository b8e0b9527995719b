"""M3CoL: Kumar, Singhal et al., Harnessing Shared Relations via Multimodal Mixup Contrastive Learning for Multimodal
Classification, TMLR 2025 (arXiv:2409.17777), eq. 1 to 6.

Every modality and both together name the class. Beside it mixed embeddings of one modality have to find both their
sources in the other one; later in the run, a sample's neighbours in its own modality say whom it should find.

B samples of this rank, N of all ranks, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Classes, Count, Fraction, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, own_rows
from ssl_framework.functional import log_sum_exp, nce, unit
from ssl_framework.mixers.base import beta
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class M3CoL(Objective):
    """Cross-entropies of both towers' classifiers and of one on both embeddings, and a contrastive term.

    Args:
        num_classes: C.
        dim: D, width of the head.
        temperature: of the mixtures.
        soft_temperature: of the soft targets, and of what is compared with them.
        alpha: of Beta(alpha, alpha), from which each share is drawn.
        probability: of a sample to be mixed at all.
        switch: share of the run after which soft targets take the place of mixtures.
        weight: of the contrastive term.
        head: name of the head that is compared.
        classifier: name of the head that names the class.
    """

    requires = frozenset({"label"})

    def __init__(
        self,
        num_classes: Classes,
        dim: Count,
        temperature: Positive,
        soft_temperature: Positive,
        alpha: Positive,
        probability: Fraction,
        switch: Fraction,
        weight: NonNegative,
        head: str = "projector",
        classifier: str = "classifier",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fused = nn.Linear(2 * dim, num_classes)
        self.temperature = temperature
        self.soft_temperature = soft_temperature
        self.alpha = alpha
        self.probability = probability
        self.switch = switch
        self.weight = weight
        self.head = head
        self.classifier = classifier
        self.reads = (head, classifier)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        assert batch.label is not None
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        fused = self.fused(torch.cat([z0, z1], dim=1))  # [B, C]
        scores = [fused, *outputs_of(student, self.classifier)]  # 3 x [B, C]
        named = torch.stack([F.cross_entropy(each, batch.label) for each in scores]).sum()
        if clock.progress < self.switch:
            x0, x1 = outputs_of(student, self.head)  # [B, D] each
            contrast = self.of_mixtures(x0, x1, clock)
        else:
            contrast = (soft_clip(z0, z1, self.soft_temperature) + soft_clip(z1, z0, self.soft_temperature)) / 2
        right = (fused.argmax(dim=1) == batch.label).float().mean()
        loss = named + self.weight * contrast
        return {"loss": loss, "class_loss": named.detach(), "contrast_loss": contrast.detach(), "accuracy": right}

    def of_mixtures(self, x0: Tensor, x1: Tensor, clock: Clock) -> Tensor:
        """The mean of both modalities mixed against the clean other one: [B, D] each -> scalar."""
        draws = clock.generator()
        everyone = gather_with_grad(x0), gather_with_grad(x1)  # [N, D] each
        count = len(everyone[0])
        partner = torch.randperm(count, generator=draws).to(x0.device)  # [N]
        share = beta(self.alpha, self.alpha, (count,), x0, draws)  # [N]
        drawn = torch.rand(count, generator=draws).to(x0.device)  # [N]
        share = torch.where(drawn < self.probability, share, torch.ones_like(share)).to(x0.dtype)  # [N]
        losses = []
        for mixed, clean in (everyone, everyone[::-1]):
            rows = unit(share[:, None] * mixed + (1 - share)[:, None] * mixed[partner])  # [N, D]
            losses.append(mixture_loss(rows, unit(clean), share, partner, self.temperature).mean())
        return torch.stack(losses).mean()


def mixture_loss(mixed: Tensor, clean: Tensor, share: Tensor, partner: Tensor, temperature: float) -> Tensor:
    """Cross-entropies with the targets ``T_ii = share_i``, ``T_i,partner(i) += 1 - share_i`` (eq. 3): rows with T, and
    columns with its transpose, whose rows need not sum to one.

    Args:
        mixed, clean: [N, D] unit rows of all ranks, which all compute the same: each takes the mean of its own rows.
        share: [N] in [0, 1].
        partner: [N] a permutation.
        temperature: above 0.

    Returns:
        [B], the mean of both directions for this rank's samples.
    """
    back = partner.argsort()  # [N]: whose partner each is
    total = share + (1 - share)[back]  # [N]
    own_share, own_partner, own_back, own_total = map(own_rows, (share, partner, back, total))  # [B] each
    x, y = own_rows(mixed), own_rows(clean)  # [B, D] each
    wanted = own_share[:, None] * y + (1 - own_share)[:, None] * clean[own_partner]  # [B, D]
    wanting = own_share[:, None] * x + (1 - share[own_back])[:, None] * mixed[own_back]  # [B, D]
    there = log_sum_exp(x, clean, temperature)[0] - (x * wanted).sum(dim=1) / temperature  # [B]
    return (there + own_total * log_sum_exp(y, mixed, temperature)[0] - (y * wanting).sum(dim=1) / temperature) / 2


def soft_clip(z: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Each of z and of the targets finds what is near its target: ``T = softmax(t . t / temperature)``, the same both
    ways, without gradient (eq. 5). Two [B, D] of unit rows -> scalar."""
    zs, ts = gather_with_grad(z), gather_with_grad(targets)  # [N, D] each
    near = (targets @ ts.T / temperature).softmax(dim=1).detach()  # [B, N]
    return (nce(z, ts, near, temperature) + nce(targets, zs, near, temperature)).mean() / 2
