"""A teacher that follows the student and is trained, too."""

from collections.abc import Sequence

from torch import Tensor

from ssl_framework.arguments import Fraction, guarded
from ssl_framework.models.encoder import EMATeacher, Encoder
from ssl_framework.types import Clock, Outputs


@guarded
class TrainedTeacher(EMATeacher):
    """An ``EMATeacher`` whose weights the optimizer moves as well, by what the objective asks of its outputs.

    In a step both learn, each from its own terms, and then it moves towards the student.

    Args:
        heads, momentum, final_momentum: as in ``EMATeacher``.
    """

    learns = True

    def __init__(self, heads: Sequence[str], momentum: Fraction, final_momentum: Fraction | None = None) -> None:
        super().__init__(heads, momentum, final_momentum)

    def follow(self, student: Encoder) -> "TrainedTeacher":
        """Begins as a copy of a student; what is frozen there is frozen here. Returns itself.

        Raises:
            ValueError: the student lacks one of ``heads``.
        """
        super().follow(student)
        trained = {name for name, p in student.named_parameters() if p.requires_grad}
        for name, p in self.encoder.named_parameters():
            p.requires_grad_(name in trained)
        return self

    def forward(self, views: Sequence[Tensor], which: Sequence[int] | None, clock: Clock) -> list[Outputs | None]:
        """As ``Encoder.forward``, with gradient."""
        return self.encoder(views, which)
