"""SimCTG: Su et al., A Contrastive Framework for Neural Text Generation, NeurIPS 2022 (arXiv:2202.06417), eq. 2: the
tokens of a text are told apart by a margin, so that their states do not all point one way. Su and Xu, Contrastive
Search Is What You Need For Neural Text Generation (arXiv:2210.14140), measure that by the isotropy.

B texts of this rank, L tokens.
"""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.distributed import gather
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SimCTG(Objective):
    """The mean over all pairs of different tokens of a text of ``max(0, margin - 1 + cosine)``, over the global batch.

    A state of zeros is padding, as text backbones give it.

    Args:
        margin: rho, in [0, 2]: tokens count whose cosine is above ``1 - margin``.
        tokens: name of the student's output of a vector a token.
    """

    num_views = (1, None)

    def __init__(self, margin: Annotated[float, Interval(ge=0, le=2)], tokens: str = "tokens") -> None:
        super().__init__()
        self.margin = margin
        self.tokens = tokens
        self.reads = self.token_reads = (tokens,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        total, pairs = None, None
        for states in outputs_of(student, self.tokens):  # V x [B, L, D]; views may differ in length
            similarity, different = cosines(states)  # [B, L, L] each
            lost = ((self.margin - 1 + similarity).clamp(min=0) * different).sum()
            total = lost if total is None else total + lost
            pairs = different.sum() if pairs is None else pairs + different.sum()
        assert total is not None and pairs is not None
        return {"loss": total / gather(pairs[None].to(total.dtype)).mean().clamp(min=1)}


def cosines(states: Tensor) -> tuple[Tensor, Tensor]:
    """Of all pairs of tokens of each text [B, L, D]: cosines [B, L, L], and which pairs are of two different tokens
    that are no padding, [B, L, L] bool."""
    z = unit(states)  # [B, L, D]
    there = (states != 0).any(dim=2)  # [B, L]
    same = torch.eye(states.shape[1], dtype=torch.bool, device=states.device)  # [L, L]
    return z @ z.transpose(1, 2), there[:, :, None] & there[:, None] & ~same  # [B, L, L] each


def isotropy(states: Tensor) -> Tensor:
    """``1 - mean cosine of different tokens`` of each text: [B, L, D] -> [B]; 0 where all point one way, NaN where a
    text has fewer than two tokens."""
    similarity, different = cosines(states)  # [B, L, L] each
    return 1 - (similarity * different).sum(dim=(1, 2)) / different.sum(dim=(1, 2))
