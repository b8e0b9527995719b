"""Whether samples of classes that a bank lacks are far from it in all layers together: the score of O3's detector, Gao
et al., Practical Unlearning for Large Language Models, ICLR 2025 (arXiv:2407.10223).

N samples of the bank, M asked about, D features of a layer.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Natural, Positive, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes
from ssl_framework.evaluation.probes.knn import neighbours
from ssl_framework.evaluation.probes.text_similarity import below


@guarded
class LayerOOD:
    """The sum over layers of the Mahalanobis distance to the bank less the largest cosine to it; one minus the other
    alone, and the last layer alone, stand beside it.

    Only the bank lacks the classes; pretraining without labels has seen their samples.

    Args:
        classes: numbers of the classes left out of the bank.
        shrinkage: added to the covariance's diagonal, relative to the mean variance.
    """

    def __init__(self, classes: Annotated[Sequence[Natural], Len(1)], shrinkage: Positive) -> None:
        self.classes = sorted(set(classes))
        self.shrinkage = shrinkage

    def __call__(self, train: Sequence[Frozen], test: Sequence[Frozen]) -> dict[str, float]:
        """The area under the ROC curve in percent, 50 by chance: ``layer_ood[classes=0+1,layers=3]/auroc``,
        ``/auroc_mahalanobis``, ``/auroc_cosine`` and ``/auroc_last_layer``. Nothing for labels that are numbers.

        Raises:
            ValueError: with these classes left out, one side has no samples.
        """
        if not are_classes(train[0].y, "layer_ood"):
            return {}
        left_out = torch.tensor(self.classes)  # [left out]
        known, strange = ~torch.isin(train[0].y, left_out), torch.isin(test[0].y, left_out)  # [N], [M]
        if not known.any() or strange.all() or not strange.any():
            raise ValueError(
                f"evaluation.probes.ood.classes is {self.classes}: name classes of which the test split has samples, "
                "and leave some"
            )
        distances, cosines = [], []
        for bank, asked in zip(train, test, strict=True):
            distances.append(mahalanobis(bank.x[known], asked.x, self.shrinkage))  # [M]
            cosines.append(nearest(bank.x[known], asked.x))  # [M]
        far, near = torch.stack(distances), torch.stack(cosines).double()  # [L, M] each
        scores = {
            "auroc": (far - near).sum(dim=0),
            "auroc_mahalanobis": far.sum(dim=0),
            "auroc_cosine": -near.sum(dim=0),
            "auroc_last_layer": far[-1] - near[-1],
        }  # [M] each
        name = f"layer_ood[classes={'+'.join(map(str, self.classes))},layers={len(train)}]"
        return {f"{name}/{what}": 100 * below(score[~strange], score[strange]) for what, score in scores.items()}


def mahalanobis(bank: Tensor, asked: Tensor, shrinkage: float) -> Tensor:
    """Distance ``sqrt((x - mean) inverse(covariance) (x - mean))`` of rows [M, D] from a bank [N, D]: [M] float64.

    The covariance has ``shrinkage`` times its mean variance added to its diagonal.
    """
    bank, asked = bank.double(), asked.double()
    mean = bank.mean(dim=0)  # [D]
    covariance = (bank - mean).T @ (bank - mean) / len(bank)  # [D, D]
    ridge = shrinkage * covariance.diagonal().mean().clamp(min=1e-12)
    covariance.diagonal().add_(ridge)
    away = asked - mean  # [M, D]
    return (away * torch.linalg.solve(covariance, away.T).T).sum(dim=1).clamp(min=0).sqrt()


def nearest(bank: Tensor, asked: Tensor) -> Tensor:
    """The largest cosine of rows [M, D] to a bank [N, D]: [M] float32."""
    return torch.cat([similarity[:, 0] for similarity, _ in neighbours(bank, asked, 1, 1024)])
