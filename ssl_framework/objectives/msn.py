"""MSN: Assran et al., Masked Siamese Networks for Label-Efficient Learning, ECCV 2022 (arXiv:2204.07141), eq. 1; and
PMSN: Assran et al., The Hidden Uniform Cluster Prior in Self-Supervised Learning, ICLR 2023 (arXiv:2210.07277).

Anchor views, from which patches were left out, are assigned to learned prototypes as the teacher assigns a whole view
of the same image. The mean of all assignments is drawn to the uniform distribution (MSN) or to a power law (PMSN).

B samples, W ranks, A anchor views, D dimensions, K prototypes.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, Natural, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows
from ssl_framework.functional import sinkhorn, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MSN(Objective):
    """Cross-entropy of anchors with sharpened targets, and the divergence of the mean assignment from a prior.

    Differs: a prior with an exponent of 0 is the uniform one, whose divergence is taken the other way round,
    ``KL(mean || uniform)``, as in MSN; any other is PMSN's ``KL(prior || mean)``.

    Args:
        dim: D of the head.
        num_prototypes: K; they are learned, and normalised in the loss.
        temperature: of the anchors' assignments.
        sharpen: T of the targets, ``p ** (1 / T)``.
        iterations: of Sinkhorn's algorithm on the targets; 0: none.
        weight: of the divergence.
        exponent: of the power law, ``k ** -exponent``; 0: uniform.
        head: name of the output of student and teacher.
    """

    requires = frozenset({"teacher", "masks"})
    num_views = (1, None)
    against_collapse = ("weight",)

    def __init__(
        self,
        dim: Count,
        num_prototypes: Count,
        temperature: Positive,
        sharpen: Positive,
        iterations: Natural,
        weight: NonNegative,
        exponent: NonNegative,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature, self.sharpen, self.iterations = temperature, sharpen, iterations
        self.weight, self.exponent, self.head = weight, exponent, head
        self.reads = self.teacher_reads = (head,)
        self.prototypes = nn.Parameter(unit(torch.randn(num_prototypes, dim)))  # [K, D]

    def log_assignment(self, z: Tensor) -> Tensor:
        """[B, D] -> [B, K] logarithms of probabilities."""
        return (unit(z) @ unit(self.prototypes).T / self.temperature).log_softmax(dim=1)  # [B, K]

    @torch.no_grad()
    def target(self, z: Tensor) -> Tensor:
        """The targets of this rank's samples, balanced over those of all ranks: [B, D] -> [B, K], rows sum to one."""
        logs = (self.log_assignment(z) / self.sharpen).log_softmax(dim=1)  # [B, K]
        return own_rows(sinkhorn(gather(logs), 1.0, self.iterations)) if self.iterations else logs.exp()  # [B, K]

    def divergence(self, mean: Tensor) -> Tensor:
        """Of the mean assignment [K] from the prior; at least 0."""
        logs = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # [K]
        if self.exponent == 0:
            return logs.new_tensor(len(mean)).log() + (mean * logs).sum()
        rank = torch.arange(1, len(mean) + 1, device=mean.device, dtype=mean.dtype)  # [K]
        prior = rank.pow(-self.exponent) / rank.pow(-self.exponent).sum()  # [K]
        return (prior * (prior.log() - logs)).sum()

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        anchors = [self.log_assignment(z) for z in outputs_of(student, self.head)]  # A x [B, K]
        targets = [self.target(z) for z in outputs_of(teacher, self.head)]  # [B, K] each, mostly one
        pairs = [-(target * logs).sum(dim=1).mean() for target in targets for logs in anchors]
        mean = gather_with_grad(torch.cat(anchors).exp().mean(dim=0, keepdim=True)).mean(dim=0)  # [K]
        cross_entropy, divergence = torch.stack(pairs).mean(), self.divergence(mean)
        loss = cross_entropy + self.weight * divergence
        return {"loss": loss, "cross_entropy": cross_entropy.detach(), "divergence": divergence.detach()}
