"""WhitenedCSE: Zhuo et al., WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings, ACL 2023
(arXiv:2305.17746): shuffled group whitening.

The channels of a batch of embeddings are put into groups at random and whitened group by group. Another order of
channels whitens otherwise, so the whitened versions of one sentence are its positives; their loss is SimCSE's.
"""

from typing import Any

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.distributed import gather_with_grad, own_rows
from ssl_framework.functional import full_precision, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.simcse import found
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class WhitenedCSE(Objective):
    """The backbone's features of every view, whitened over the global batch and passed through the head: the first
    finds each of the others. What evaluators read is not whitened.

    Args:
        temperature: tau.
        groups: of channels; they divide the width. A group should have clearly fewer channels than the batch samples.
        shuffle: whether each view has an order of channels of its own, drawn in every step.
        epsilon: added to the variance of every channel, of which features that are all alike have none.
        head: name of the student's head that reads the features.
    """

    requires = frozenset({"heads"})
    num_views = (2, None)

    def __init__(
        self, temperature: Positive, groups: Count, shuffle: bool, epsilon: Positive, head: str = "projector"
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.groups = groups
        self.shuffle = shuffle
        self.epsilon = epsilon
        self.head = head
        self.reads = ("pooled", head)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert self.through_heads is not None
        features = outputs_of(student, "pooled")  # V x [B, D]
        generator, width = clock.generator(), features[0].shape[1]
        if width % self.groups:
            raise ValueError(f"objective.groups is {self.groups}, which does not divide the width {width} of features")
        rows = []
        for x in features:
            order = torch.randperm(width, generator=generator) if self.shuffle else torch.arange(width)  # [D]
            white = own_rows(whitened(gather_with_grad(x), self.groups, order.to(x.device), self.epsilon))  # [B, D]
            rows.append(unit(self.through_heads(white)[self.head]))  # [B, D']
        plain = [unit(z.detach()) for z in outputs_of(student, self.head)[:2]]  # 2 x [B, D']
        alike = (plain[0] * plain[1]).sum(dim=1).mean()
        return {"loss": found(rows[0], rows[1:], self.temperature).mean(), "unwhitened_similarity": alike}


def whitened(x: Tensor, groups: int, order: Tensor, epsilon: float) -> Tensor:
    """Zero-phase whitening (ZCA) of groups of channels.

    Args:
        x: [N, D].
        groups: G.
        order: [D] int64, the channels in the order in which they are cut into groups; the result has their old one.
        epsilon: added to every variance.

    Returns:
        [N, D], of mean 0; the covariance (over N) of each group is the identity where it has full rank.
    """
    x = full_precision(x)
    grouped = x[:, order].unflatten(1, (groups, -1))  # [N, G, C]
    grouped = grouped - grouped.mean(dim=0)  # [N, G, C]
    covariance = torch.einsum("ngc,ngd->gcd", grouped, grouped) / len(x)  # [G, C, C]
    covariance = covariance + epsilon * torch.eye(grouped.shape[2], dtype=x.dtype, device=x.device)  # [G, C, C]
    white = torch.einsum("ngc,gcd->ngd", grouped, InverseRoot.apply(covariance))  # [N, G, C]
    return white.flatten(1)[:, order.argsort()]  # [N, D]


class InverseRoot(torch.autograd.Function):
    """``A^(-1/2)`` of symmetric positive definite matrices [G, C, C].

    The gradient is written with ``(l_i^(-1/2) - l_j^(-1/2)) / (l_i - l_j) = -1 / (a b (a + b))`` with roots a and b of
    the eigenvalues: that of an eigendecomposition is infinite where two of them are equal.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        value, vector = torch.linalg.eigh(matrix)  # [G, C], [G, C, C]
        root = value.clamp(min=torch.finfo(value.dtype).tiny).sqrt()  # [G, C]
        ctx.save_for_backward(root, vector)
        return (vector / root[:, None]) @ vector.mT  # [G, C, C]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        root, vector = ctx.saved_tensors
        a, b = root[:, :, None], root[:, None]  # [G, C, 1], [G, 1, C]
        inner = vector.mT @ grad @ vector / -(a * b * (a + b))  # [G, C, C]
        return vector @ inner @ vector.mT  # [G, C, C]
