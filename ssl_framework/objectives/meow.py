"""MEOW: Yu et al., Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples, SDM
2023 (arXiv:2212.13847).

A node by one relation has to find itself by another. A negative counts as often as clusterings put it into another
cluster than the anchor, so likely false ones do not; and the anchor finds the prototype of its cluster.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Natural, NonNegative, Positive, Several, guarded
from ssl_framework.distributed import from_first_rank, gather, gather_with_grad, mean_of, rank
from ssl_framework.functional import kmeans, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.deepcluster_v2 import refuse_more_clusters
from ssl_framework.objectives.pcl import concentration, proto_nce
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MEOW(Objective):
    """InfoNCE with weighted negatives, without the positive in its denominator, and the mean of ProtoNCE.

    View 0 asks, view 1 answers. The keys of the last epoch are clustered, once an epoch; before, every negative counts
    alike and there is no prototype.

    Args:
        num_clusters: K of each clustering, at most N each.
        iterations: of k-means, by Euclidean distances of unit keys.
        temperature: tau.
        density: mean temperature of a clustering's prototypes.
        smoothing: keeps small clusters from being called tight, as in PCL.
        prototype_weight: of ProtoNCE.
        warmup: epochs without clusterings, at least one.
        dim: D, width of the head's output.
        head: name of the student's output that is compared.
    """

    requires = frozenset({"index"})

    def __init__(
        self,
        num_clusters: Sequence[Several],
        iterations: Count,
        temperature: Positive,
        density: Positive,
        smoothing: NonNegative,
        prototype_weight: NonNegative,
        warmup: Natural,
        dim: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.num_clusters, self.iterations, self.temperature = list(num_clusters), iterations, temperature
        self.density, self.smoothing, self.prototype_weight = density, smoothing, prototype_weight
        self.warmup, self.dim, self.head = warmup, dim, head
        self.reads = (head,)

    def allocate(self, num_samples: int) -> None:
        """Makes the key of every training sample, and the clusterings."""
        refuse_more_clusters(max(self.num_clusters), num_samples)
        self.bank = SampleBank({"key": torch.zeros(num_samples, self.dim)})
        self.register_buffer("assigned", torch.full((len(self.num_clusters), num_samples), -1))  # [C, N] int64
        for c, count in enumerate(self.num_clusters):
            self.register_buffer(f"prototypes_{c}", unit(torch.randn(count, self.dim)))  # [K, D] unit rows
            self.register_buffer(f"phi_{c}", torch.full((count,), self.density))  # [K]

    def on_epoch(self, clock: Clock) -> None:
        if clock.epoch >= max(1, self.warmup):
            names = [f"{name}_{c}" for c in range(len(self.num_clusters)) for name in ("prototypes", "phi")]
            buffers = [self.get_buffer(name) for name in ("assigned", *names)]
            from_first_rank(buffers, lambda: self.clusterings(clock))

    def clusterings(self, clock: Clock) -> list[Tensor]:
        """New buffers, made of the keys in the bank."""
        seen, generator = self.bank.visited.nonzero()[:, 0], clock.generator()  # [M]
        rows, assigned, found = self.bank.read("key", seen), torch.full_like(self.get_buffer("assigned"), -1), []
        for c, count in enumerate(self.num_clusters):
            clusters = kmeans(rows, count, self.iterations, spherical=False, generator=generator)
            assigned[c, seen] = clusters.assigned
            found += [unit(clusters.centres), concentration(rows, clusters, self.smoothing, self.density)]
        return [assigned, *found]

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        anchors, keys = map(unit, outputs_of(student, self.head))  # [B, D] each
        assigned = self.get_buffer("assigned").clone()  # [C, N]
        weight = disagreement(assigned[:, batch.index], assigned[:, gather(batch.index)], rank() * len(keys))
        instance = weighted_nce(anchors, keys, gather_with_grad(keys), weight, self.temperature)
        self.bank.write(batch.index, {"key": keys.detach()})
        terms = []
        for c, own in enumerate(assigned):
            centres, phi = self.get_buffer(f"prototypes_{c}").clone(), self.get_buffer(f"phi_{c}").clone()
            terms.append(proto_nce(anchors, batch.index, centres, phi, own))
        prototypes = torch.stack(terms).mean()
        loss = instance + self.prototype_weight * prototypes
        return {"loss": loss, "instance_loss": instance.detach(), "prototype_loss": prototypes.detach()}


def disagreement(own: Tensor, everyone: Tensor, first: int) -> Tensor:
    """How many of C clusterings put two samples apart; one without a cluster is apart from all others.

    Args:
        own, everyone: int64 clusters of this rank's samples [C, B] and of all ranks' [C, W * B], -1: none.
        first: position of the first own one among all.

    Returns:
        [B, W * B] float32, 0 of a sample with itself.
    """
    apart = (own[:, :, None] != everyone[:, None]) | (own[:, :, None] < 0)  # [C, B, W * B]
    place = torch.arange(own.shape[1], device=own.device)  # [B]
    return apart.sum(dim=0).float().index_put((place, first + place), torch.zeros((), device=own.device))


def weighted_nce(anchors: Tensor, keys: Tensor, everyone: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """``-log(e^{s_ii / tau} / sum_j W_ij e^{s_ij / tau})``, the mean over anchors with a negative that counts.

    Args:
        anchors, keys, everyone: unit rows of this rank [B, D] each, and keys of all ranks [W * B, D].
        weight: W [B, W * B], none below 0.
        temperature: tau.
    """
    similar = anchors @ everyone.T / temperature + weight.to(anchors.dtype).log()  # [B, W * B]
    counts = (weight > 0).any(dim=1)  # [B]
    negatives = similar.masked_fill(~counts[:, None], 0.0).logsumexp(dim=1)  # [B]
    return mean_of(negatives - (anchors * keys).sum(dim=1) / temperature, counts)
