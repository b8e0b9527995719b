"""Multiple negatives ranking: Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply, 2017
(arXiv:1705.00652), eq. 4, as Hallee et al., Contrastive Learning and Mixture of Experts Enables Precise Vector
Embeddings (arXiv:2401.15713), train their experts with it.

The first text of a pair looks for the second among those of the global batch. The authors' "MNR plus" takes as targets
the most similar columns of similarities within each side, which for vectors of one length are the texts themselves: it
is the mean of both directions. Where a router chooses the experts, their mutual information with the domain may be
maximised (Chen et al., Mod-Squad, arXiv:2212.08066, section 3.2).
"""

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MNR(Objective):
    """Cross-entropy of ``scale`` times the cosines of view 0 to all views 1. With a scale that is learnt it is
    ``objective=clip``.

    Args:
        scale: 1 / tau.
        symmetric: whether view 1 looks for view 0, too, with half the weight ("MNR plus").
        head: name of the student's head whose outputs are compared.
        mutual_information: weight of what the expert of a text of the global batch tells of its domain, which is the
            class; it reads "routes" of a backbone that has a router. 0: no such term, and no labels.

    Logs the mutual information in nats, if it has a weight: from 0 to the logarithm of the number of domains or of
    experts, whichever is smaller.
    """

    def __init__(
        self, scale: Positive, symmetric: bool, head: str = "projector", mutual_information: NonNegative = 0.0
    ) -> None:
        super().__init__()
        self.scale = scale
        self.symmetric = symmetric
        self.head = head
        self.mutual_information = mutual_information
        self.reads = (head, "routes") if mutual_information else (head,)
        if mutual_information:
            self.requires = self.requires | {"label"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        own = rank() * len(z0) + torch.arange(len(z0), device=z0.device)  # [B]
        loss = nce(z0, gather_with_grad(z1), own, 1 / self.scale)  # [B]
        if self.symmetric:
            loss = (loss + nce(z1, gather_with_grad(z0), own, 1 / self.scale)) / 2  # [B]
        if not self.mutual_information:
            return {"loss": loss.mean()}
        assert batch.label is not None
        views = [gather_with_grad(view) for view in outputs_of(student, "routes")]  # 2 x [W * B, E]
        known = mutual_information(torch.cat(views), gather(batch.label).repeat(len(views)))
        return {"loss": loss.mean() - self.mutual_information * known, "mutual_information": known.detach()}


def mutual_information(routes: Tensor, domain: Tensor) -> Tensor:
    """I(expert; domain) = H(expert) - H(expert | domain) of M texts, in nats.

    Args:
        routes: [M, E] float, rows sum to one: how likely a text is to go to each expert.
        domain: [M] int64, of which text.
    """
    same = (domain[:, None] == domain).to(routes.dtype)  # [M, M]
    of_domain = same @ routes / same.sum(dim=1, keepdim=True)  # [M, E], of all texts of a row's domain
    return entropy(routes.mean(dim=0)) - entropy(of_domain).mean()


def entropy(p: Tensor) -> Tensor:
    """Of distributions [..., E], in nats: [...]"""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim=-1)
