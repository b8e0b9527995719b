"""CACR: Zheng et al., Contrastive Attraction and Contrastive Repulsion for Representation Learning, TMLR 2023
(arXiv:2105.03746).

Views of a sample attract and other samples repel by their squared distance c, without a softmax of the ones against
the others; among positives a softmax weighs the far ones more, among negatives the near ones.
"""

from itertools import combinations

import torch
from torch import Tensor

from ssl_framework.arguments import BelowOne, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import by_tiles, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CACR(Objective):
    """Attraction between the views of a sample, and repulsion between different samples for every pair of views.

    Args:
        alpha: weight of the attraction.
        beta: weight of the repulsion.
        t_pos: t+, how much more far positives weigh; 0: all alike.
        t_neg: t-, how much more near negatives weigh; 0: all alike.
        tau_plus: share of an anchor's negatives that are of its class, for the debiased repulsion; 0: the plain one.
        rbf: t of the cost ``exp(-t c)``, the logarithm of whose mean repels; ``None``: the squared distance.
        head: name of the student's head whose output is compared.
    """

    num_views = (2, None)

    def __init__(
        self,
        alpha: NonNegative,
        beta: NonNegative,
        t_pos: NonNegative,
        t_neg: NonNegative,
        tau_plus: BelowOne,
        rbf: Positive | None,
        head: str = "projector",
    ) -> None:
        super().__init__()
        if rbf is not None and tau_plus > 0:
            raise ValueError(f"objective.tau_plus is {tau_plus}, but the RBF cost has no debiased form: set it to 0")
        self.alpha = alpha
        self.beta = beta
        self.t_pos = t_pos
        self.t_neg = t_neg
        self.tau_plus = tau_plus
        self.rbf = rbf
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        views = [unit(z) for z in outputs_of(student, self.head)]  # V x [B, D]
        attraction, attraction_entropy = self.attraction(views)
        repulsion, repulsion_entropy = self.repulsion(views)
        return {
            "loss": attraction + repulsion,
            "attraction_entropy": attraction_entropy,
            "repulsion_entropy": repulsion_entropy,
        }

    def attraction(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Every view against the others of its sample: V x [B, D] -> the loss, and the weights' entropy in nats."""
        rows = [attract(z, views[:v] + views[v + 1 :], self.t_pos) for v, z in enumerate(views)]  # V x [B, 2]
        cost, entropy = torch.stack(rows).mean(dim=(0, 1))
        return self.alpha * cost, entropy.detach()

    def repulsion(self, views: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Every pair of views once, the earlier one's rows as anchors; in and out as ``attraction``."""
        pairs = [self.repulsion_of_pair(a, b) for a, b in combinations(views, 2)]
        loss, entropy = (torch.stack(values).mean() for values in zip(*pairs, strict=True))
        return loss, entropy

    def repulsion_of_pair(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, D] of one view against those of the other samples in another view."""
        own = rank() * len(a) + torch.arange(len(a), device=a.device)  # [B]
        cost, entropy = repel(a, gather_with_grad(b), self.t_neg, own, self.rbf).unbind(dim=1)  # [B] each
        if self.rbf is not None:
            # The logarithm of a mean is not a mean over ranks, so each rank takes that of the global batch.
            return self.beta * gather_with_grad(cost.mean()[None]).mean().log(), entropy.detach().mean()
        positive = (a - b).square().sum(dim=1)  # [B]; its sign below is that of the authors' code
        loss = -(self.beta * cost + self.tau_plus * positive) / (1 - self.tau_plus)  # [B]
        return loss.mean(), entropy.detach().mean()


def attract(z: Tensor, positives: list[Tensor], t_pos: float, weights_learn: bool = True) -> Tensor:
    """Mean squared distance to the positives, the far ones weighing more.

    Args:
        z: [B, D].
        positives: K x [B, D].
        t_pos: t+.
        weights_learn: whether gradient flows through the weights.

    Returns:
        [B, 2]: the cost, and the entropy of the weights in nats.
    """
    cost = torch.stack([(z - positive).square().sum(dim=1) for positive in positives], dim=1)  # [B, K]
    return weighted(cost, t_pos * cost, weights_learn)


def repel(
    z: Tensor,
    negatives: Tensor,
    t_neg: float,
    own: Tensor | None = None,
    rbf: float | None = None,
    weights_learn: bool = True,
) -> Tensor:
    """Mean cost of the negatives, the near ones weighing more, in linear memory.

    Args:
        z: [N, D].
        negatives: [M, D].
        t_neg: t-.
        own: [N] int64, the one column that is no negative of a row; ``None``: all are.
        rbf: t of the cost ``exp(-t c)``; ``None``: the squared distance c.
        weights_learn: whether gradient flows through the weights.

    Returns:
        [N, 2]: the cost (not negated), and the entropy of the weights in nats.
    """

    def part(negatives: Tensor, z: Tensor, *own: Tensor) -> tuple[Tensor]:
        c = z.square().sum(dim=1, keepdim=True) + negatives.square().sum(dim=1) - 2 * z @ negatives.T  # [R, M]
        logits = -t_neg * c  # [R, M]; of the RBF cost as well, whose logarithm is -t c
        for column in own:
            logits = logits.scatter(1, column[:, None], float("-inf"))
        return (weighted(c if rbf is None else torch.exp(-rbf * c), logits, weights_learn),)

    return by_tiles(part, negatives, z, *(() if own is None else (own,)))[0]  # [N, 2]


def weighted(cost: Tensor, logits: Tensor, weights_learn: bool) -> Tensor:
    """Mean of ``cost`` under the softmax of ``logits``, both [N, M], and the softmax's entropy: [N, 2]."""
    weight = logits.softmax(dim=1)  # [N, M]
    entropy = torch.special.entr(weight.detach()).sum(dim=1)  # [N]
    return torch.stack([(cost * (weight if weights_learn else weight.detach())).sum(dim=1), entropy], dim=1)  # [N, 2]
