"""DeepCluster-v2: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS
2020 (arXiv:2006.09882), appendix A.3 and the authors' code.

Once an epoch the embeddings of all samples, as the last epoch has left them, are grouped by spherical k-means, several
times from other starts; through the epoch every view predicts the group of its sample in each of these clusterings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, Positive, Several, guarded
from ssl_framework.distributed import from_first_rank, mean_of
from ssl_framework.functional import kmeans, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DeepClusterV2(Objective):
    """Classification into the clusters of the last epoch, by fixed weights: their centres.

    The memory takes 4 N D bytes for each remembered view, on every rank and in every checkpoint. In the first epoch
    classes and centres are drawn at random. Logged: the share of the assigned samples whose class is predicted.

    Args:
        temperature: tau.
        num_clusters: K of each clustering, at most N.
        num_clusterings: H; one after the other is made of the first, the second ... remembered view.
        iterations: of k-means.
        num_assign: so many first views are remembered (the large crops); all views predict.
        dim: D, width of the head's output.
        head: name of the student's head whose output is compared.
    """

    requires = frozenset({"index"})
    num_views = (1, None)
    bank: SampleBank
    centres: Tensor  # [H, K, D] unit rows
    assigned: Tensor  # [H, N] int64 cluster of each sample, -1 where it was never seen

    def __init__(
        self,
        temperature: Positive,
        num_clusters: Several,
        num_clusterings: Count,
        iterations: Count,
        num_assign: Count,
        dim: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.num_clusters = num_clusters
        self.iterations = iterations
        self.num_assign = num_assign
        self.dim = dim
        self.head = head
        self.reads = (head,)
        self.register_buffer("centres", unit(torch.randn(num_clusterings, num_clusters, dim)))  # [H, K, D]

    def allocate(self, num_samples: int) -> None:
        refuse_more_clusters(self.num_clusters, num_samples)
        self.bank = SampleBank({f"view_{v}": torch.zeros(num_samples, self.dim) for v in range(self.num_assign)})
        shape = len(self.centres), num_samples
        self.register_buffer("assigned", torch.randint(self.num_clusters, shape))  # [H, N]

    def on_epoch(self, clock: Clock) -> None:
        if clock.epoch > 0:
            from_first_rank([self.centres, self.assigned], lambda: self.cluster(clock))

    def cluster(self, clock: Clock) -> tuple[Tensor, Tensor]:
        """The clusterings of what the bank holds: [H, K, D] and [H, N]"""
        generator, seen = clock.generator(), self.bank.visited.nonzero()[:, 0]  # [M]
        centres, assigned = torch.empty_like(self.centres), torch.full_like(self.assigned, -1)
        for h in range(len(centres)):
            rows = self.bank.read(f"view_{h % self.num_assign}", seen)  # [M, D]
            found = kmeans(rows, self.num_clusters, self.iterations, spherical=True, generator=generator)
            centres[h], assigned[h, seen] = found
        return centres, assigned

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = [unit(x) for x in outputs_of(student, self.head)]  # V x [B, D]
        if len(z) < self.num_assign:
            raise ValueError(f"objective.num_assign is {self.num_assign}, but the student encodes only {len(z)} views")
        classes = self.assigned[:, batch.index]  # [H, B]
        logits = torch.stack([x @ self.centres.mT / self.temperature for x in z])  # [V, H, B, K]
        rows = {f"view_{v}": z[v].detach() for v in range(self.num_assign)}
        self.bank.write(batch.index, rows)
        hit = (logits.argmax(dim=-1) == classes).float()  # [V, H, B]
        return {"loss": classification(logits, classes), "predicted": over_clusterings(hit, classes >= 0)}


def classification(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of all views, the mean over the assigned samples of all ranks, then over the clusterings.

    Args:
        logits: [V, H, B, K].
        classes: [H, B] int64, -1: unassigned.
    """
    known, every = classes >= 0, classes.clamp(min=0).expand(logits.shape[:-1])  # [H, B], [V, H, B]
    costs = F.cross_entropy(logits.flatten(0, -2), every.flatten(), reduction="none").view(every.shape)  # [V, H, B]
    return over_clusterings(costs, known)


def over_clusterings(values: Tensor, known: Tensor) -> Tensor:
    """Mean over views [V, H, B] and the known samples [H, B] of all ranks, then over the clusterings."""
    return torch.stack([mean_of(own, where) for own, where in zip(values.mean(dim=0), known, strict=True)]).mean()


def refuse_more_clusters(num_clusters: int, num_samples: int) -> None:
    """Raises ValueError if there are fewer samples than clusters."""
    if num_clusters > num_samples:
        raise ValueError(
            f"objective.num_clusters is {num_clusters}, but the training set has only {num_samples} samples: lower it"
        )
