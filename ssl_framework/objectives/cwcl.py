"""CWCL: Srinivasa et al., Cross-Modal Transfer with Continuously Weighted Contrastive Loss, NeurIPS 2023
(arXiv:2309.14580), eq. 3 and 4.

One tower was trained before and stays as it is. Where it finds two samples alike, each is a positive of the other, the
more the more alike they are; towards the trained tower every sample has these positives, back only its own.

B pairs of this rank, M of all ranks.
"""

from torch import Tensor

from ssl_framework.arguments import Natural, Positive, guarded
from ssl_framework.distributed import gather
from ssl_framework.functional import log_sum_exp, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CWCL(Objective):
    """The mean of a weighted cross-entropy from the frozen modality and a plain one back.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        frozen: position of the view whose tower is frozen, 0 or 1 (``student.frozen`` freezes it).
        features: of the frozen tower, by whose cosines samples are alike.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        frozen: Natural,
        features: str = "pooled",
        head: str = "projector",
    ) -> None:
        super().__init__()
        if frozen > 1:
            raise ValueError(f"objective.frozen is {frozen}, but there are two views: set it to 0 or 1")
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.frozen = frozen
        self.features = features
        self.head = head
        self.reads, self.apart_reads = (head, features), (features,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        self.clip.bound()
        rows = rows_of(student, self.head)  # 2 x [B, D]
        fixed, trained = rows[self.frozen], rows[1 - self.frozen]  # [B, D] each
        like = unit(outputs_of(student, self.features)[self.frozen].detach())  # [B, P]
        there = weighted(fixed, self.clip.candidates(trained)[0], like, gather(like), self.clip.temperature)  # [B]
        back = self.clip.one_way(trained, fixed)  # [B]
        return {
            "loss": (there + back).mean() / 2,
            "weighted_loss": there.detach().mean(),
            "scale": self.clip.log_scale.detach().exp(),
        }


def weighted(anchors: Tensor, keys: Tensor, like: Tensor, everyone: Tensor, temperature: Tensor) -> Tensor:
    """``- sum_j w_ij / (sum_j w_ij) log softmax_j(anchors_i . keys_j / temperature)``, w_ij = (like_i . all_j + 1) / 2.

    The weights are linear in the rows that they come from, so that no matrix of pairs is kept.

    Args:
        anchors: [B, D] unit rows.
        keys: [M, D] unit rows.
        like: [B, P] unit rows, which weigh.
        everyone: [M, P] likewise those of the keys.
        temperature: scalar.

    Returns:
        [B]
    """
    temperature = temperature.to(anchors.dtype)
    total = len(keys) + like @ everyone.sum(dim=0)  # [B], twice the sum of the weights
    mean = (keys.sum(dim=0) + like @ (everyone.T @ keys)) / total[:, None]  # [B, D]
    return log_sum_exp(anchors, keys, temperature)[0] - (anchors * mean).sum(dim=1) / temperature  # [B]
