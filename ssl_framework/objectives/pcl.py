"""PCL: Li et al., Prototypical Contrastive Learning of Unsupervised Representations, ICLR 2021 (arXiv:2005.04966), eq.
10 to 12.

MoCo's loss, and beside it every query has to find the prototype of its sample among all prototypes, in several
clusterings of different fineness. A prototype's temperature is its concentration: the tighter the cluster, the lower.
The teacher's keys of the last epoch are clustered, once an epoch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, Positive, Several, guarded
from ssl_framework.distributed import from_first_rank, mean_of
from ssl_framework.functional import Clusters, kmeans, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.deepcluster_v2 import refuse_more_clusters
from ssl_framework.objectives.moco import MoCo
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class PCL(Objective):
    """A host's InfoNCE plus ProtoNCE, the mean over the clusterings. The memory takes 4 N D bytes on every rank.

    Args:
        host: MoCo, with its queue.
        num_clusters: K of each clustering, at most N each.
        iterations: of k-means, by Euclidean distances of unit keys.
        temperature: tau, the mean concentration of a clustering's prototypes.
        smoothing: alpha; it keeps small clusters from being called tight.
        warmup: share of the run in which the host trains alone, in [0, 1].
        dim: D, width of the head's output.
    """

    requires = frozenset({"teacher", "index"})
    num_views = (1, 1)
    bank: SampleBank

    def __init__(
        self,
        host: MoCo,
        num_clusters: Sequence[Several],
        iterations: Count,
        temperature: Positive,
        smoothing: NonNegative,
        warmup: Fraction,
        dim: Count,
    ) -> None:
        super().__init__()
        self.host = host
        self.requires = self.requires | host.requires
        self.reads, self.teacher_reads = host.reads, host.teacher_reads
        self.num_clusters = list(num_clusters)
        self.iterations = iterations
        self.temperature = temperature
        self.smoothing = smoothing
        self.warmup = warmup
        self.dim = dim

    def allocate(self, num_samples: int) -> None:
        refuse_more_clusters(max(self.num_clusters), num_samples)
        self.bank = SampleBank({"key": torch.zeros(num_samples, self.dim)})
        for m, count in enumerate(self.num_clusters):
            self.register_buffer(f"prototypes_{m}", unit(torch.randn(count, self.dim)))  # [K, D] unit rows
            self.register_buffer(f"phi_{m}", torch.full((count,), self.temperature))  # [K] concentrations
            self.register_buffer(f"assigned_{m}", torch.full((num_samples,), -1))  # [N] int64, -1: to no prototype

    def clustering(self, m: int) -> list[Tensor]:
        """The buffers of one clustering: [K, D], [K] and [N]"""
        return [self.get_buffer(f"{name}_{m}") for name in ("prototypes", "phi", "assigned")]

    def on_epoch(self, clock: Clock) -> None:
        if clock.epoch == 0 or clock.progress < self.warmup:
            return  # the prototypes have no samples yet, and their term is zero
        buffers = [x for m in range(len(self.num_clusters)) for x in self.clustering(m)]
        from_first_rank(buffers, lambda: self.clusterings(clock))

    def clusterings(self, clock: Clock) -> list[Tensor]:
        """New buffers of every clustering, made of the keys in the bank."""
        generator, seen = clock.generator(), self.bank.visited.nonzero()[:, 0]  # [M]
        rows, buffers = self.bank.read("key", seen), list[Tensor]()  # [M, D]
        for count in self.num_clusters:
            found = kmeans(rows, count, self.iterations, spherical=False, generator=generator)
            assigned = torch.full_like(self.bank.visited, -1, dtype=torch.long)  # [N]
            assigned[seen] = found.assigned
            buffers += [unit(found.centres), concentration(rows, found, self.smoothing, self.temperature), assigned]
        return buffers

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        out = self.host(student, teacher, batch, clock)
        (q,) = map(unit, outputs_of(student, self.host.head))  # [B, D]
        (k,) = map(unit, outputs_of(teacher, self.host.head))  # [B, D]
        self.bank.write(batch.index, {"key": k})
        terms = [proto_nce(q, batch.index, *self.clustering(m)) for m in range(len(self.num_clusters))]
        prototypical = torch.stack(terms).mean()
        return {**out, "loss": out["loss"] + prototypical, "instance_loss": out["loss"], "prototype_loss": prototypical}


def proto_nce(q: Tensor, index: Tensor, prototypes: Tensor, phi: Tensor, assigned: Tensor) -> Tensor:
    """Cross-entropy of finding the own prototype among all of a clustering, the mean over the assigned queries.

    The authors' code has a column for every sample of the batch, where samples of one cluster are negatives.

    Args:
        q: [B, D] unit rows of the samples ``index`` [B] int64.
        prototypes: [K, D] unit rows.
        phi: [K] temperature of each.
        assigned: [N] int64, -1: to none.
    """
    own = assigned[index]  # [B]
    costs = F.cross_entropy(q @ prototypes.T / phi, own.clamp(min=0), reduction="none")  # [B]
    return mean_of(costs, own >= 0)


def concentration(rows: Tensor, found: Clusters, smoothing: float, temperature: float) -> Tensor:
    """phi of every cluster [K], eq. 12: mean distance to the centre / log(n + smoothing), the largest for one row or
    none, between the percentiles 10 and 90 of all, scaled to the mean ``temperature``, at least a twentieth of it."""
    count = found.assigned.bincount(minlength=len(found.centres))  # [K]
    distance = (rows - found.centres[found.assigned]).norm(dim=1)  # [M]
    total = torch.zeros_like(found.centres[:, 0]).index_add_(0, found.assigned, distance)  # [K]
    phi = total / count.clamp(min=1) / (count + smoothing).log()  # [K]
    phi = torch.where(count > 1, phi, phi.max())
    phi = phi.clamp(*torch.quantile(phi, phi.new_tensor([0.1, 0.9])))
    return temperature * torch.where(phi.mean() > 0, phi / phi.mean(), 1.0).clamp(min=1 / 20)  # [K]
