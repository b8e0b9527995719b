"""MixCo: Kim et al., MixCo: Mix-up Contrastive Learning for Visual Representation, NeurIPS 2020 workshop
(arXiv:2010.06300).

To the loss of the clean views it adds a soft InfoNCE: a mixture has the keys of all its sources as positives, by their
shares, among all keys of the batch and the queue, at a temperature of its own.
"""

from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.infonce import contrast, mixed_queries
from ssl_framework.objectives.siamese import Host, apart, checked
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MixCo(Objective):
    """A host's loss of the clean views, and the soft InfoNCE of the mixtures beside them.

    Args:
        host: MoCo or SimCLR; its keys and its memory are those of the mixtures.
        temperature: tau of the mixtures.
        weight: of each mixture's term.

    Logs what the host logs of the clean views.
    """

    requires = frozenset({"added mixtures"})

    def __init__(self, host: Host, temperature: Positive, weight: Positive) -> None:
        super().__init__()
        self.host = checked(host)
        self.requires = self.requires | host.requires
        self.reads, self.teacher_reads = host.reads, host.teacher_reads
        self.num_views = host.num_views
        self.temperature = temperature
        self.weight = weight

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        out, parts, queries = apart(self.host, student, teacher, batch, clock)
        features = [mixed_queries(q, k, mix, parts.memory) for q, k, mix in queries]
        terms = [contrast(each, self.temperature, positive_in_denominator=True).loss.mean() for each in features]
        return {**out, "loss": out["loss"] + self.weight * sum(terms), "clean_loss": out["loss"]}
