"""The gap between the embeddings of two modalities (Liang et al., Mind the Gap, NeurIPS 2022, arXiv:2203.02053)."""

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.spectrum import covariance_eigenvalues, participation_ratio


@guarded
class ModalityGap:
    """How far the two modalities lie apart on the sphere, and in how many directions each spreads.

    Args:
        regularisation: of the least-squares classifier that tells the modalities apart, relative to the mean variance.
    """

    def __init__(self, regularisation: Positive = 1e-3) -> None:
        self.regularisation = regularisation

    def __call__(self, test: Pairs) -> dict[str, float]:
        """``gap[image,text]/centroid_distance`` in [0, 2] (section 2.1: the norm of the difference of the means),
        ``/pair_cosine`` of two views of a sample, ``/separability`` (percent of held-out embeddings that a linear
        classifier gives to their modality, 50 at best), and participation ratios ``/dimensions_image``."""
        name = f"gap[{','.join(test.names)}]"
        main, other = test.main.double(), test.other.double()  # [N, D] each
        scores = {
            f"{name}/centroid_distance": (main.mean(dim=0) - other.mean(dim=0)).norm().item(),
            f"{name}/pair_cosine": (main * other).sum(dim=1).mean().item(),
            f"{name}/separability": separability(main, other, self.regularisation),
        }
        for modality, x in zip(test.names, (main, other), strict=True):
            scores[f"{name}/dimensions_{modality}"] = participation_ratio(covariance_eigenvalues(x))
        return scores

    def chance(self, test: Pairs) -> dict[str, float]:
        """Separability of modalities that nothing tells apart."""
        return {f"gap[{','.join(test.names)}]/separability": 50.0}


def separability(main: Tensor, other: Tensor, regularisation: float) -> float:
    """Percent right of a linear least-squares classifier, fitted on every other sample, on the rest.

    Args:
        main, other: [N, D] float64, N at least 2.
        regularisation: relative to the mean variance of a feature.
    """
    x = torch.cat([main[::2], other[::2]])  # [2 * N / 2, D]
    y = torch.ones(len(x), dtype=x.dtype)  # [2 * N / 2]
    y[len(main[::2]) :] = -1
    mean = x.mean(dim=0)  # [D]
    covariance = (x - mean).T @ (x - mean)  # [D, D]
    ridge = regularisation * covariance.diagonal().mean().clamp(min=1e-12) * torch.eye(len(mean), dtype=x.dtype)
    weight = torch.linalg.solve(covariance + ridge, (x - mean).T @ y)  # [D]
    right = ((main[1::2] - mean) @ weight > 0).sum() + ((other[1::2] - mean) @ weight < 0).sum()
    return 100 * right.item() / (2 * len(main[1::2]))
