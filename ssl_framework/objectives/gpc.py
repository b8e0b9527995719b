"""GPC: Zhao et al., Learning Semi-supervised Gaussian Mixture Models for Generalized Category Discovery, ICCV 2023
(arXiv:2305.06144): SimCLR of all samples, SupCon of the labelled ones, and of the unlabelled ones a cross-entropy with
the prototypes of a semi-supervised k-means, whose clusters may be split and merged.

``L = (1 - l) InfoNCE + l SupCon(labelled) + 1/2 (CE(view 0) + CE(view 1))``, the last of the backbone's features.

B samples of this rank, W ranks, D dimensions of the features, K prototypes, N training samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, Natural, NonNegative, Positive, guarded
from ssl_framework.distributed import from_first_rank, mean_of
from ssl_framework.functional import full_precision, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.grouping import semi_supervised_kmeans
from ssl_framework.objectives.infonce import nt_xent
from ssl_framework.objectives.partial import labelled_supcon
from ssl_framework.objectives.pcl import concentration
from ssl_framework.objectives.split_merge import SplitMerge
from ssl_framework.types import Batch, Clock, Outputs

SMOOTHING = 10.0
"""Of the prototypes' concentrations, PCL's alpha in its authors' code."""


@guarded
class GPC(Objective):
    """Contrastive learning from the start, prototypes from the epoch ``warmup`` on.

    Args:
        num_clusters: of the k-means, known and new classes together.
        most: K, prototypes there is room for; ``moves`` alone makes more than ``num_clusters``.
        moves: splits and merges clusters after the k-means; ``None``: there are as many as ``num_clusters``.
        dim: D.
        temperature: of InfoNCE.
        label_temperature: of SupCon.
        balance: l.
        prototype_weight: of the prototypes' term.
        prototype_temperature: the mean temperature of the prototypes; that of each grows with its cluster's spread.
        warmup: epochs without prototypes, at least one.
        iterations: of the k-means, at most.
        head: name of the student's projection.
    """

    requires = frozenset({"label", "partial labels", "index"})
    prototypes: Tensor  # [K, D] unit rows; 0 where there is none
    temperatures: Tensor  # [K] float32
    cluster: Tensor  # [N] int64; -1: in none

    def __init__(
        self,
        num_clusters: Count,
        most: Count,
        moves: SplitMerge | None,
        dim: Count,
        temperature: Positive,
        label_temperature: Positive,
        balance: Fraction,
        prototype_weight: NonNegative,
        prototype_temperature: Positive,
        warmup: Natural,
        iterations: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        if most < num_clusters:
            raise ValueError(f"objective.most is {most}, but objective.num_clusters is {num_clusters}: raise most")
        self.num_clusters, self.most, self.moves, self.dim, self.head = num_clusters, most, moves, dim, head
        self.temperature, self.label_temperature, self.balance = temperature, label_temperature, balance
        self.prototype_weight, self.prototype_temperature = prototype_weight, prototype_temperature
        self.warmup, self.iterations = warmup, iterations
        self.reads = (head, "pooled")
        self.register_buffer("prototypes", torch.zeros(most, dim))  # [K, D]
        self.register_buffer("temperatures", torch.full((most,), prototype_temperature))  # [K]

    def allocate(self, num_samples: int) -> None:
        """Makes the features, label and cluster of every training sample."""
        features, label = torch.zeros(num_samples, self.dim), torch.full((num_samples,), -1.0)
        self.bank = SampleBank({"features": features, "label": label})
        self.register_buffer("cluster", torch.full((num_samples,), -1))  # [N]

    def on_epoch(self, clock: Clock) -> None:
        if clock.epoch >= max(1, self.warmup):
            from_first_rank([self.prototypes, self.temperatures, self.cluster], lambda: self.clustered(clock))

    def clustered(self, clock: Clock) -> tuple[Tensor, Tensor, Tensor]:
        """New buffers, made of the features that the last epoch has left: [K, D], [K] and [N]."""
        seen = self.bank.visited.nonzero()[:, 0]  # [n]
        x, label = self.bank.read("features", seen), self.bank.read("label", seen).long()  # [n, D], [n]
        generator = clock.generator()
        found = semi_supervised_kmeans(x, label, self.num_clusters, self.iterations, generator)
        if self.moves is not None:
            found = self.moves(x, found, len(label[label >= 0].unique()), self.most, generator)
        temperatures = concentration(x, found, SMOOTHING, self.prototype_temperature)
        cluster = torch.full_like(self.cluster, -1)  # [N]
        cluster[seen] = found.assigned
        rest = self.most - len(found.centres)
        temperatures = F.pad(temperatures, (0, rest), value=self.prototype_temperature)  # [K]
        return F.pad(found.centres, (0, 0, 0, rest)), temperatures, cluster  # [K, D]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = (unit(z) for z in outputs_of(student, self.head))  # [B, D'] each
        x0, x1 = (unit(x) for x in outputs_of(student, "pooled"))  # [B, D] each
        assert batch.label is not None
        simclr = nt_xent(z0, z1, self.temperature)
        supervised = labelled_supcon(torch.cat([z0, z1]), batch.label.repeat(2), self.label_temperature)
        target = self.cluster[batch.index]  # [B]
        scored = (batch.label < 0) & (target >= 0)  # [B]
        per_view = [self.prototype_loss(x, target.clamp(min=0)) for x in (x0, x1)]  # 2 x [B]
        prototype = mean_of((per_view[0] + per_view[1]) / 2, scored)
        self.bank.write(batch.index, {"features": x0.detach(), "label": batch.label.float()})
        loss = (1 - self.balance) * simclr + self.balance * supervised + self.prototype_weight * prototype
        clusters = (self.prototypes != 0).any(dim=1).sum().to(loss.dtype)
        terms = {"simclr": simclr, "supcon": supervised, "prototype": prototype, "clusters": clusters}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def prototype_loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of unit rows [B, D] with their prototypes [B] int64: [B]."""
        prototypes = self.prototypes.clone().to(full_precision(x).dtype)  # [K, D]
        scores = x @ prototypes.T / self.temperatures.clone()  # [B, K]
        return F.cross_entropy(scores.masked_fill((prototypes == 0).all(dim=1), -1e4), target, reduction="none")
