"""Un-Mix: Shen et al., Un-Mix: Rethinking Image Mixtures for Unsupervised Visual Representation Learning, AAAI 2022
(arXiv:2003.05438); and BSIM: Chu et al., A Unified Mixture-View Framework for Unsupervised Representation
Learning, BMVC 2022 (arXiv:2011.13356).

To the loss of a Siamese host they add that of mixtures: ``L + l L(mix, k) + (1 - l) L(flip(mix), k)``. Partners come in
reversed order there, so the second term compares each mixture with its partner's key; written that way, for any
partners, it is the host's loss of the mixture with each of its sources, by their shares.
"""

from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.siamese import Host, Query, Siamese, apart, checked
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class UnMix(Objective):
    """A host's loss of the clean views, and of each mixture with each of its sources.

    Args:
        host: SimCLR, MoCo or BYOL.
        weight: of each mixture's terms.

    Logs what the host logs of the clean views.
    """

    requires = frozenset({"added mixtures"})

    def __init__(self, host: Host, weight: Positive) -> None:
        super().__init__()
        self.host = checked(host)
        self.requires = self.requires | host.requires
        self.reads, self.teacher_reads = host.reads, host.teacher_reads
        self.num_views = host.num_views
        self.weight = weight

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        out, parts, queries = apart(self.host, student, teacher, batch, clock)
        loss = out["loss"] + self.weight * sum(by_sources(each, parts) for each in queries)
        return {**out, "loss": loss, "clean_loss": out["loss"]}


def by_sources(mixture: Query, parts: Siamese) -> Tensor:
    """``sum_p share_p L(mixture, key of source p)``, the mean over this rank's mixtures; scalar."""
    q, k, mix = mixture
    costs = [parts.cost(q, k[source]) for source in mix.source.unbind(dim=1)]  # P x [B]
    return sum(share.to(cost.dtype) @ cost for share, cost in zip(mix.share.T, costs, strict=True)) / len(q)
