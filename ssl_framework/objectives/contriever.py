"""Contriever: Izacard et al., Unsupervised Dense Information Retrieval with Contrastive Learning, TMLR 2022
(arXiv:2112.09118), eq. 1, with MoCo's queue (section 3.3).

Two pieces of one text are a question and its answer. They are compared by the inner product of the means of their
tokens, not by the cosine.
"""

from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import world_size
from ssl_framework.feature_mixers.base import MixedFeatures
from ssl_framework.functional import full_precision
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import contrast
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class Contriever(Objective):
    """InfoNCE of inner products against a queue of a moving average's embeddings.

    Args:
        temperature: tau.
        queue: the memory of negatives, K rows; what it begins with has length one, what is pushed has not.
        head: name of the output of student and teacher that is compared; "projector" of head=none: the features.
    """

    requires = frozenset({"teacher"})
    num_views = (1, 1)  # queries; and as many keys

    def __init__(self, temperature: Positive, queue: Queue, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.queue = queue
        self.head = head
        self.reads = self.teacher_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,) = map(full_precision, outputs_of(student, self.head))  # [B, D]
        (k,) = map(full_precision, outputs_of(teacher, self.head))  # [B, D]
        features = MixedFeatures(q, k, self.queue.read().to(q.dtype))
        found = contrast(features, self.temperature, positive_in_denominator=True)
        age = k.new_full((), self.queue.mean_age(clock.step, world_size() * len(k)))
        self.queue.push(k)
        return {"loss": found.loss.mean(), **found.logged(), "queue_age": age, "length": q.detach().norm(dim=1).mean()}
