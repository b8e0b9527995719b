"""SimLAP: Wu et al., Rethinking Positive Pairs in Contrastive Learning, 2024 (arXiv:2410.18200).

Samples of any two classes are positives of each other, within a part of the embedding that belongs to the pair: a gate
network switches dimensions on or off as a function of the two labels, and so learns what the two classes share.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Classes, Count, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, own_rows, world_size
from ssl_framework.functional import class_sums, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

PAIRINGS = ("permuted", "same", "distinct")


@guarded
class LabelGate(nn.Module):
    """A soft mask over the embedding for every pair of labels.

    Args:
        num_classes: labels it has room for.
        dim: width of a label's embedding.
        hidden: width of the hidden layer.
        out: D, width of the masked embedding.
        fused: one pass over the mean of the two labels' embeddings, else the product of the two labels' own gates.
    """

    def __init__(self, num_classes: Classes, dim: Count, hidden: Count, out: Count, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.labels = nn.Embedding(num_classes, dim)
        self.layers = nn.Sequential(
            *(nn.ReLU(), nn.BatchNorm1d(dim), nn.Linear(dim, hidden)),
            *(nn.ReLU(), nn.BatchNorm1d(hidden), nn.Linear(hidden, out)),
        )

    def forward(self, label: Tensor, target: Tensor) -> Tensor:
        """Two [N] int64 -> [N, D] in (0, 1)."""
        first, second = self.labels(label), self.labels(target)  # [N, dim] each
        if self.fused:
            return self.layers((first + second) / 2).sigmoid()
        return self.layers(first).sigmoid() * self.layers(second).sigmoid()


@guarded
class SimLAP(Objective):
    """Supervised InfoNCE between arbitrary pairs of classes; further views of a sample are further rows.

    Args:
        temperature: tau.
        num_classes: of the training set.
        pairing: which class each row's positives have: "permuted", the labels of the batch in random order; "same", its
            own; "distinct", a random other one, which the batch may lack.
        gate: the gate network, for as many classes; ``None`` leaves the gate open, the control in which unlike
            classes attract in the whole embedding.
        renormalise: compare gated embeddings by their cosine; ``False``, as the authors' code: by the inner product of
            gated unit vectors.
        head: name of the student's head whose output is compared.
    """

    requires = frozenset({"label"})
    num_views = (1, None)

    def __init__(
        self,
        temperature: Positive,
        num_classes: Classes,
        pairing: str,
        gate: LabelGate | None,
        renormalise: bool,
        head: str = "projector",
    ) -> None:
        super().__init__()
        if pairing not in PAIRINGS:
            raise ValueError(f"objective.pairing is {pairing}: choose one of {', '.join(PAIRINGS)}")
        self.temperature = temperature
        self.num_classes = num_classes
        self.pairing = pairing
        self.gate = gate
        self.renormalise = renormalise
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        views = outputs_of(student, self.head)  # V x [B, D]
        # Sample after sample: then the rows of all ranks come in the same order whatever the number of ranks.
        z = unit(torch.stack(views, dim=1).flatten(0, 1))  # [B * V, D]
        assert batch.label is not None
        label = batch.label.repeat_interleave(len(views))  # [B * V]
        keys, classes = gather_with_grad(z), gather(label)  # [W * B * V, D], [W * B * V]
        targets = self.targets(classes, clock)  # [W * B * V]
        # Of all ranks' rows, so that the gate's batch statistics are those of the global batch.
        gates = torch.ones_like(keys) if self.gate is None else self.gate(classes, targets)  # [W * B * V, D]
        gate, target = own_rows(gates), own_rows(targets)  # [B * V, D], [B * V]
        logits = gated_similarity(z, keys, gate, self.renormalise) / self.temperature  # [B * V, W * B * V]
        # The mean over all pairs of all ranks; ranks may have more or fewer of them.
        pairs = class_sums(torch.empty(len(keys), 0, device=z.device), classes, targets)[1].sum()
        loss = pair_loss(logits, label, classes, target) * world_size() / pairs.clamp(min=1)
        shown = gate.detach()
        entropy = torch.special.entr(shown) + torch.special.entr(1 - shown)  # [B * V, D]
        return {"loss": loss, "gate_activation": shown.mean(), "gate_entropy": entropy.mean()}

    def targets(self, label: Tensor, clock: Clock) -> Tensor:
        """The class of each row's positives: [N] int64 of all ranks -> [N] int64, alike on every rank."""
        if self.pairing == "same":
            return label
        generator = clock.generator(label.device)
        if self.pairing == "permuted":
            return label[torch.randperm(len(label), generator=generator, device=label.device)]
        assert self.num_classes is not None
        step = torch.randint(1, self.num_classes, label.shape, generator=generator, device=label.device)  # [N]
        return (label + step) % self.num_classes


def gated_similarity(z: Tensor, keys: Tensor, gate: Tensor, renormalise: bool) -> Tensor:
    """Inner products, or cosines, of rows and keys after both were multiplied by the row's gate.

    Args:
        z: [N, D] unit rows.
        keys: [M, D] unit rows.
        gate: [N, D] of each row.
        renormalise: cosines.

    Returns:
        [N, M]
    """
    weight = gate.square()  # [N, D]
    similarity = (z * weight) @ keys.T  # [N, M]
    if not renormalise:
        return similarity
    length = (z.square() * weight).sum(dim=1, keepdim=True)  # [N, 1] squared, as is the next
    lengths = weight @ keys.square().T  # [N, M]
    return similarity / (length * lengths).clamp(min=1e-24).sqrt()


def pair_loss(logits: Tensor, label: Tensor, classes: Tensor, target: Tensor) -> Tensor:
    """InfoNCE of every positive pair by itself, summed; positives do not stand in each other's denominator.

    Args:
        logits: [N, M].
        label: [N] int64 class of each row.
        classes: [M] int64 class of each key.
        target: [N] int64 class of each row's positives; keys of neither class are its negatives.
    """
    positive = classes == target[:, None]  # [N, M]
    negative = ~positive & (classes != label[:, None])  # [N, M]
    lonely = ~negative.any(dim=1, keepdim=True)  # [N, 1] no negatives: filled before the sum, or its gradient is NaN
    filled = logits.masked_fill(~negative, float("-inf")).masked_fill(lonely, 0.0)  # [N, M]
    against = filled.logsumexp(dim=1, keepdim=True).masked_fill(lonely, float("-inf"))  # [N, 1]
    return (torch.nn.functional.softplus(against - logits) * positive).sum()
