"""PamC: Kulatilleke et al., Efficient block contrastive learning via parameter-free meta-node approximation, 2022
(arXiv:2209.14067).

A node is drawn to its neighbours; in the place of all nodes as negatives the clusters, each one meta node, the sum of
its nodes, push each other away. A target distribution sharpens the clusters, as in DEC (arXiv:1511.06335).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import from_first_rank, gather, gather_with_grad, rank
from ssl_framework.functional import class_sums, kmeans, nearest_centres, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Graph, Outputs


@guarded
class PamC(Objective):
    """Neighbours against meta nodes, over the edges among the nodes of the global batch.

    Args:
        num_clusters: K.
        dim: D.
        tau: factor of all cosines, which the paper multiplies by.
        clustering_weight: of KL(P || Q), from the second epoch on.
        iterations: of k-means, which makes the clusters anew at the start of every epoch.
        head: name of the student's output that is compared.
    """

    requires = frozenset({"index", "inputs"})
    num_views = (1, 1)
    centres: Tensor  # [K, D]
    frequency: Tensor  # [K]: nodes of each cluster, softly; 0 before the first clustering

    def __init__(
        self,
        num_clusters: Count,
        dim: Count,
        tau: Positive,
        clustering_weight: NonNegative,
        iterations: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.num_clusters, self.dim, self.tau, self.clustering_weight = num_clusters, dim, tau, clustering_weight
        self.iterations = iterations
        self.head = head
        self.reads = (head,)
        self.register_buffer("centres", torch.randn(num_clusters, dim))
        self.register_buffer("frequency", torch.zeros(num_clusters))

    def allocate(self, num_samples: int) -> None:
        """Makes the features of every training node."""
        self.bank = SampleBank({"features": torch.zeros(num_samples, self.dim)})

    def on_epoch(self, clock: Clock) -> None:
        if clock.epoch > 0:
            from_first_rank([self.centres, self.frequency], lambda: self.clustered(clock))

    def clustered(self, clock: Clock) -> tuple[Tensor, Tensor]:
        """Centres [K, D] and soft numbers of nodes [K] of what the last epoch has left."""
        x = self.bank.read("features", self.bank.visited.nonzero()[:, 0])  # [N, D]
        found = kmeans(x, self.num_clusters, self.iterations, spherical=False, generator=clock.generator())
        return found.centres, soft_clusters(x, found.centres).sum(dim=0)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (z,) = outputs_of(student, self.head)  # [B, D]
        everyone = gather_with_grad(z)  # [W * B, D]
        centres = self.centres.clone().to(z.dtype)  # [K, D]
        near = drawn_together(everyone, among(batch.views), self.tau, rank() * len(z), len(z))
        apart = meta_nodes(everyone, nearest_centres(everyone.detach(), centres), self.num_clusters, self.tau)
        q = soft_clusters(z, centres)  # [B, K]
        weight = q.detach().square() / self.frequency.to(z.dtype).clamp(min=1e-6)  # [B, K]
        target = weight / weight.sum(dim=1, keepdim=True)  # [B, K]
        begun = (self.frequency.sum() > 0).to(z.dtype)
        sharp = begun * F.kl_div(q.log(), target, reduction="batchmean")
        self.bank.write(batch.index, {"features": z.detach()})
        terms = {"neighbours": near, "meta_nodes": apart, "clustering": sharp}
        loss = near + apart + self.clustering_weight * sharp
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


def among(views: list[Graph]) -> Tensor:
    """The edges among the nodes of the global batch, by their positions in it: [2, E'] int64. A view that is no graph
    has none."""
    if not views or not isinstance(views[0], Graph):
        return torch.zeros(2, 0, dtype=torch.int64, device=views[0].device if views else None)
    nodes = gather(views[0].nodes)  # [W * B]
    place = torch.full((len(views[0].x),), -1, device=nodes.device)  # [n]
    place[nodes] = torch.arange(len(nodes), device=nodes.device)
    ends = place[views[0].edges]  # [2, E]
    return ends[:, (ends >= 0).all(dim=0)]


def drawn_together(z: Tensor, edges: Tensor, tau: float, first: int, count: int) -> Tensor:
    """``-mean_i log sum_j A_ij exp(tau cos(z_i, z_j))``, A the adjacency with self loops, rows of which sum to one, and
    the cosine of a node with itself 0.

    Args:
        z: [W * B, D].
        edges: [2, E'] int64, from and to.
        tau: factor.
        first, count: the rows i are those of this rank.
    """
    start, end = edges[:, (edges[1] >= first) & (edges[1] < first + count)]  # [E''] each
    u = unit(z)  # [W * B, D]
    value = (tau * (u[start] * u[end]).sum(dim=1)).exp()  # [E'']
    total = torch.ones(count, dtype=z.dtype, device=z.device).index_add(0, end - first, value)  # [B]: exp(0) of itself
    degree = 1 + torch.bincount(end - first, minlength=count)  # [B]
    return -(total / degree).log().mean()


def meta_nodes(z: Tensor, cluster: Tensor, num_clusters: int, tau: float) -> Tensor:
    """``mean_k log sum_l exp(tau cos(c_k, c_l))``, c the sums of clusters that have nodes, the cosine with itself 0."""
    sums, counts = class_sums(z, cluster, torch.arange(num_clusters, device=z.device))  # [K, D], [K]
    c = unit(sums[counts > 0])  # [K', D]
    similar = tau * (c @ c.T)  # [K', K']
    return similar.masked_fill(torch.eye(len(c), dtype=torch.bool, device=z.device), 0.0).logsumexp(dim=1).mean()


def soft_clusters(z: Tensor, centres: Tensor) -> Tensor:
    """Student's t around the centres (DEC, eq. 1): [N, D], [K, D] -> [N, K], rows sum to one."""
    near = 1 / (1 + (z[:, None] - centres).square().sum(dim=2))  # [N, K]
    return near / near.sum(dim=1, keepdim=True)
