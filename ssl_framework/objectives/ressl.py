"""ReSSL: Zheng et al., ReSSL: Relational Self-Supervised Learning with Weak Augmentation, NeurIPS 2021
(arXiv:2107.09282): ``H(softmax(k Q^T / tau_t), softmax(q Q^T / tau_s))``.

How similar a sample is to those in a queue, as the teacher tells from a weakly augmented view, is what the student is
to tell from a strongly augmented one. A sharper softmax for the teacher keeps both from becoming uniform.
"""

from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.functional import nce, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class ReSSL(Objective):
    """Cross-entropy of two softmaxes over the similarities to the queue's keys.

    Args:
        student_temperature: tau of the softmax that learns.
        teacher_temperature: tau of the one that is learnt; lower.
        queue: the memory of the teacher's keys, K rows, read before this batch's keys enter.
        head: name of the head of student and teacher whose outputs are compared.

    Logs the mean entropy of the teacher's softmax in nats, log K at most: how many keys a sample is related to.
    """

    requires = frozenset({"teacher"})
    num_views = (1, 1)  # strong; and as many weak ones

    def __init__(
        self, student_temperature: Positive, teacher_temperature: Positive, queue: Queue, head: str = "projector"
    ) -> None:
        super().__init__()
        if teacher_temperature > student_temperature:
            raise ValueError(
                f"objective.teacher_temperature is {teacher_temperature:g}, above the student's "
                f"{student_temperature:g}: targets flatter than what learns them end up uniform, set it lower"
            )
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.queue = queue
        self.head = head
        self.reads = self.teacher_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        (q,) = map(unit, outputs_of(student, self.head))  # [B, D]
        (k,) = map(unit, outputs_of(teacher, self.head))  # [B, D]
        rows = self.queue.read()  # [K, D]
        relation = (k @ rows.T / self.teacher_temperature).softmax(dim=1)  # [B, K]
        loss = nce(q, rows, relation, self.student_temperature).mean()
        self.queue.push(k)
        return {"loss": loss, "target_entropy": relation.xlogy(relation).sum(dim=1).mean().neg()}
