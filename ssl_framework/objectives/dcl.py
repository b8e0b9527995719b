"""DCL and DCLW: Yeh et al., Decoupled Contrastive Learning, ECCV 2022 (arXiv:2110.06848), eq. 6 and 7.

NT-Xent without the positive in the denominator, which removes the coupling that weakens the gradient of small batches;
DCLW also weighs each positive by how far apart its two views are.
"""

from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather, own_rows
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import contrast, pairs
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class DCL(Objective):
    """Decoupled contrastive loss over two views; it can be negative.

    Args:
        temperature: tau.
        weight_sigma: sigma of DCLW's von Mises-Fisher weight; ``None`` is DCL.
        head: name of the student's head whose output is compared.

    Logs the mean factor by which the positive in the denominator would have scaled each gradient (NPC multiplier).
    """

    accepts = frozenset({"mixer", "positive pairs", "negatives", "queries of both views"})

    def __init__(self, temperature: Positive, weight_sigma: Positive | None, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.weight_sigma = weight_sigma
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z0, z1 = map(unit, outputs_of(student, self.head))  # [B, D] each
        features = self.mixed(pairs(z0, z1, batch.mix), clock)
        weight = dclw_weight(features.q, features.k, self.weight_sigma)
        found = contrast(features, self.temperature, False, weight)
        return {"loss": found.loss.mean(), **found.logged()}


def dclw_weight(q: Tensor, k: Tensor, sigma: float | None) -> Tensor | float:
    """``2 - exp(s_i / sigma) / mean_j exp(s_j / sigma)`` over the global batch of pairs, without gradient.

    Args:
        q, k: [N, D] pairs of this rank; s_i = q_i . k_i.
        sigma: ``None`` weighs all pairs alike.

    Returns:
        [N], mean one over all ranks; or 1.
    """
    if sigma is None:
        return 1.0
    similarity = gather((q * k).sum(dim=1))  # [W * N]
    return own_rows(2 - len(similarity) * (similarity / sigma).softmax(dim=0))  # [N]
