"""SBCL: Hou et al., Subclass-balancing Contrastive Learning for Long-tailed Recognition, ICCV 2023 (arXiv:2306.15925):
the head classes are divided into subclasses as large as the tail classes, and positives have two levels.

``L = mean_i tau / base SupCon(subclass, tau) + gamma NCE(class without the own subclass, tau_c)``: samples of the own
subclass are positives; so are, more weakly, those of the class's other subclasses, and the own other views.

B samples of this rank, V views, W ranks, N = V B anchors, M = W N keys, D dimensions, C classes, T training samples.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Classes, Count, Natural, NonNegative, Positive, guarded
from ssl_framework.distributed import from_first_rank, gather, gather_with_grad, rank
from ssl_framework.functional import SameClass, nce, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.grouping import equal_clusters
from ssl_framework.objectives.supcon import supcon
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SBCL(Objective):
    """Plain SupCon for ``warmup`` epochs, then both levels; a class that is not divided yet is one subclass.

    Args:
        num_classes: C.
        dim: D.
        temperature: tau, of the subclasses; that of a class is tau times its spread over the mean spread.
        base_temperature: the first level is multiplied by tau / base, as in the authors' code.
        weight: gamma, of the second level.
        least: samples of a subclass, at least; more where the smallest class has more.
        warmup: epochs of SupCon.
        every: epochs from one clustering to the next.
        iterations: of the clustering.
        head: name of the student's output.
    """

    requires = frozenset({"label", "index"})
    num_views = (2, None)
    subclass: Tensor  # [T] int64; -1: in none
    class_temperature: Tensor  # [C] float32

    def __init__(
        self,
        num_classes: Classes,
        dim: Count,
        temperature: Positive,
        base_temperature: Positive,
        weight: NonNegative,
        least: Count,
        warmup: Natural,
        every: Count,
        iterations: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.num_classes, self.dim, self.head = num_classes, dim, head
        self.temperature, self.base_temperature, self.weight = temperature, base_temperature, weight
        self.least, self.warmup, self.every, self.iterations = least, warmup, every, iterations
        self.reads = (head,)
        self.register_buffer("class_temperature", torch.full((num_classes,), temperature))  # [C]

    def allocate(self, num_samples: int) -> None:
        """Makes the embedding, class and subclass of every training sample."""
        embedding, label = torch.zeros(num_samples, self.dim), torch.full((num_samples,), -1.0)
        self.bank = SampleBank({"embedding": embedding, "label": label})
        self.register_buffer("subclass", torch.full((num_samples,), -1))  # [T]

    def on_epoch(self, clock: Clock) -> None:
        """Divides the classes anew, every so many epochs, by the embeddings of the last one."""
        since = clock.epoch - max(1, self.warmup)
        if since >= 0 and since % self.every == 0:
            from_first_rank([self.subclass, self.class_temperature], self.divided)

    def divided(self) -> tuple[Tensor, Tensor]:
        """New buffers, made of the embeddings that the last epoch has left: [T] and [C]."""
        z, label = self.bank.column("embedding"), self.bank.column("label").long()  # [T, D], [T]
        members = [(label == c).nonzero()[:, 0] for c in range(len(self.class_temperature))]  # C x [n_c]
        size = max(self.least, min(len(rows) for rows in members if len(rows)))
        subclass, first = torch.full_like(self.subclass, -1), 0  # [T]
        spread = torch.ones_like(self.class_temperature)  # [C]
        for c, rows in enumerate(members):
            if len(rows):
                subclass[rows] = first + equal_clusters(z[rows], max(1, len(rows) // size), self.iterations)
                first = int(subclass.max()) + 1
                spread[c] = (z[rows] - z[rows].mean(dim=0)).norm(dim=1).mean()
        spread = spread.clamp(spread.quantile(0.2), spread.quantile(0.8))  # [C]
        share = spread / spread.mean().clamp(min=1e-12)  # [C]
        return subclass, self.temperature * share.clamp(min=0.1)  # where nearly all classes are points

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        views = [unit(z) for z in outputs_of(student, self.head)]  # V x [B, D]
        assert batch.label is not None
        z, label = torch.cat(views), batch.label.repeat(len(views))  # [N, D], [N]
        divided = self.subclass[batch.index]  # [B]
        own = torch.where(divided < 0, len(self.subclass) + batch.label, divided)  # [B]: the rest of a class is one
        if clock.epoch < self.warmup:
            loss = supcon(z, label, self.temperature)
        else:
            loss = self.two_levels(z, label, own.repeat(len(views)), len(views))
        self.bank.write(batch.index, {"embedding": views[0].detach(), "label": batch.label.float()})
        return {"loss": loss, "subclasses": (self.subclass.max() + 1).float()}

    def two_levels(self, z: Tensor, label: Tensor, subclass: Tensor, num_views: int) -> Tensor:
        """The loss of unit rows [N, D] of the classes [N] and subclasses [N], view after view."""
        keys, classes, parts = gather_with_grad(z), gather(label), gather(subclass)  # [M, D], [M], [M]
        itself = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]
        count = len(z) // num_views
        sample = rank() * count + torch.arange(len(z), device=z.device) % count  # [N]
        other_view = sample[:, None] == gather(sample)  # [N, M]
        other_view[torch.arange(len(z), device=z.device), itself] = False
        inner = nce(z, keys, SameClass(subclass, parts, itself), self.temperature, exclude=itself)  # [N]
        outside = subclass[:, None] != parts  # [N, M]
        positive = other_view | (outside & (label[:, None] == classes))  # [N, M]
        share = positive.to(z.dtype) / positive.sum(dim=1, keepdim=True)  # [N, M]
        outer = nce(z, keys, share, self.class_temperature[label], exclude=~(outside | other_view))  # [N]
        return (self.temperature / self.base_temperature * inner + self.weight * outer).mean()
