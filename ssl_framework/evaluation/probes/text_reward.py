"""The reward of GRACE (Generative Representation Learning via Contrastive Policy Optimization, 2025, arXiv:2510.04506)
as a score of embeddings: what its policy is rewarded for, without a policy."""

from torch import Tensor

from ssl_framework.arguments import Several, guarded
from ssl_framework.evaluation.wordings import Wordings


@guarded
class TextReward:
    """The cosine of a first wording to its own second wording less that to those of other samples; nothing is fitted.

    Args:
        num_samples: n, the first so many of the test split; ``null``: all. Memory: n x n floats.
    """

    def __init__(self, num_samples: Several | None = None) -> None:
        self.num_samples = num_samples

    def __call__(self, test: Wordings) -> dict[str, float]:
        """In [-2, 2]: ``reward[n=500]/mean_negative``, less the mean cosine to all samples of other groups, and
        ``/hardest_negative``, less the largest; the mean over samples. Nothing without second wordings or groups."""
        group = test.group[: self.num_samples]  # [n]
        other = group[:, None] != group  # [n, n]
        if test.z.shape[1] < 2 or not other.any(dim=1).all():
            return {}
        query, positive = test.z[: len(group)].unbind(dim=1)  # [n, D] each
        similarity = query @ positive.T  # [n, n]
        own = similarity.diagonal()  # [n]
        mean = (similarity * other).sum(dim=1) / other.sum(dim=1)  # [n]
        hardest = similarity.masked_fill(~other, float("-inf")).amax(dim=1)  # [n]
        name = f"reward[n={len(group)}]"
        return {
            f"{name}/mean_negative": (own - mean).mean().item(),
            f"{name}/hardest_negative": (own - hardest).mean().item(),
        }

    def chance(self, test: Wordings) -> dict[str, float]:
        """Where nothing is told apart, the mean is 0; of the hardest there is no such value."""
        count = len(test.group[: self.num_samples])
        return {f"reward[n={count}]/mean_negative": 0.0} if test.z.shape[1] > 1 else {}


def reward(query: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """``cos(query, positive) - cos(query, negative)`` of unit rows [N, D] each: [N] in [-2, 2].

    As a weight it says how far a triplet is told apart already.
    """
    return (query * (positive - negative)).sum(dim=1)
