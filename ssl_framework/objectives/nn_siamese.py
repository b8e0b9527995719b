"""NNSiam and NNBYOL: SimSiam (arXiv:2011.10566) and BYOL (arXiv:2006.07733) with the nearest neighbours of NNCLR:
Dwibedi et al., With a Little Help from My Friends, ICCV 2021 (arXiv:2104.14548), as solo-learn puts them together.

A prediction of one view is drawn to the nearest neighbour of the other view's projection in a queue of earlier ones,
instead of to that projection: the student's own in NNSiam, the teacher's in NNBYOL. No negatives.
"""

from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.functional import hardest, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class NNSiam(Objective):
    """Negative cosine of a prediction and the neighbour of the other view, the mean of both directions; in [-1, 1].

    Args:
        queue: earlier projections. Those of the first view enter it.
        projector: name of the head in whose space neighbours are sought.
        predictor: name of the head that predicts.
    """

    against_collapse = ("predictor",)

    def __init__(self, queue: Queue, projector: str = "projector", predictor: str = "predictor") -> None:
        super().__init__()
        self.queue = queue
        self.projector = projector
        self.predictor = predictor
        self.reads = (projector, predictor)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        cosine, similarity = to_neighbours(
            outputs_of(student, self.predictor), outputs_of(student, self.projector), self.queue
        )
        return {"loss": -cosine / 2, "neighbour_similarity": similarity}


@guarded
class NNBYOL(Objective):
    """Squared distance of a prediction and the teacher's neighbour, both of unit length: the sum of both directions.

    Args:
        queue: earlier projections of the teacher. Those of the first view enter it.
        student_head: the predictor's name.
        teacher_head: the projector's name, in whose space neighbours are sought.
    """

    requires = frozenset({"teacher"})
    against_collapse = ("student_head",)

    def __init__(self, queue: Queue, student_head: str = "predictor", teacher_head: str = "projector") -> None:
        super().__init__()
        self.queue = queue
        self.student_head = student_head
        self.teacher_head = teacher_head
        self.reads, self.teacher_reads = (student_head,), (teacher_head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        cosine, similarity = to_neighbours(
            outputs_of(student, self.student_head), outputs_of(teacher, self.teacher_head), self.queue
        )
        return {"loss": 4 - 2 * cosine, "neighbour_similarity": similarity}


def to_neighbours(predictions: list[Tensor], targets: list[Tensor], queue: Queue) -> tuple[Tensor, Tensor]:
    """Cosine of each prediction and the neighbour of the other view's target, the sum of both directions.

    Args:
        predictions: 2 x [B, D].
        targets: 2 x [B, D], which get no gradient.
        queue: read, then given the targets of the first view.

    Returns:
        The sum, a scalar in [-2, 2], and the mean cosine of a target and its neighbour, which rises as the queue fills
        with the data and is near one from the start where all have become the same vector.
    """
    p0, p1 = map(unit, predictions)  # [B, D] each
    k0, k1 = (unit(k.detach()) for k in targets)  # [B, D] each
    rows = queue.read()  # [K, D]
    n0, n1 = (rows[hardest(k, rows, 1)[0][:, 0]] for k in (k0, k1))  # [B, D] each
    queue.push(k0)
    cosine = (p0 * n1).sum(dim=1) + (p1 * n0).sum(dim=1)  # [B]
    return cosine.mean(), (k0 * n0).sum(dim=1).mean()
