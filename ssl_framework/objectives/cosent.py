"""CoSENT (Su, 2022, https://kexue.fm/archives/8847): a loss by which sentence encoders are fine-tuned on scored pairs,
as indirectly scored ones in CCR for classical Chinese (Surveying the Dead Minds, EMNLP 2024, arXiv:2403.00509).

Of two pairs of texts, the one with the higher score should have the higher cosine, by however much. So the order is
learnt, which is what Spearman's correlation asks for, and not the scores.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CoSENT(Objective):
    """``log(1 + sum over pairs i, j with y_i > y_j of exp(scale (s_j - s_i)))``, s the cosine of the two views of a
    sample and y its label, over the global batch.

    Args:
        scale: 1 / tau.
        head: name of the student's head whose outputs are compared.
    """

    requires = frozenset({"number"})

    def __init__(self, scale: Positive, head: str = "projector") -> None:
        super().__init__()
        self.scale = scale
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert batch.label is not None
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        return {"loss": cosent(gather_with_grad((z0 * z1).sum(dim=1)), gather(batch.label), self.scale)}


def cosent(similarity: Tensor, score: Tensor, scale: float) -> Tensor:
    """The loss of N pairs, a scalar.

    Args:
        similarity: [N] cosines.
        score: [N], greater where a pair should be more alike; equal ones say nothing of each other.
        scale: 1 / tau.
    """
    wrong = scale * (similarity - similarity[:, None])  # [N, N]: how far pair j lies above pair i
    wrong = wrong.masked_fill(score[:, None] <= score, float("-inf")).flatten()  # [N * N]
    return torch.cat([wrong.new_zeros(1), wrong]).logsumexp(dim=0)
