"""Neural collapse: Papyan, Han and Donoho, Prevalence of neural collapse during the terminal phase of deep learning
training, PNAS 2020 (arXiv:2008.08186).

At the end of training the features of a class gather at its mean (NC1), the means form a simplex equiangular tight
frame (NC2), the classifier's weights are the means up to scale (NC3), and it answers with the nearest mean (NC4). All
measures are of train features, but for nearest means, which are those of train and decide on test. Every class counts
alike, also where it has fewer samples; means are centred by their mean.

C classes that occur in the train split, D features.
"""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.evaluation.features import Accuracy, Frozen, Readout
from ssl_framework.evaluation.probes.base import are_classes

CHUNK = 4096
"""Rows widened to float64 at once."""


class Means(NamedTuple):
    """Class means of train features."""

    classes: Tensor  # [C] int64
    centre: Tensor  # [D] float64: the mean of the means
    offset: Tensor  # [C, D] float64: the means, centred


class NeuralCollapse:
    """NC1, NC2 and the accuracy of the nearest class mean, which need no classifier.

    Collapsed features have 0, 0 and 0 and 100.
    """

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """``nc1``; ``nc2_equinorm`` and ``nc2_equiangular``; ``nearest_mean/top1`` in percent.

        Where all class means are equal, and for numbers, nothing is defined: no values, with one warning that says so.
        """
        means = class_means(train) if are_classes(train.y, "neural collapse") else None
        if means is None:
            return {}
        equinorm, equiangular = frame_gaps(means.offset)
        return {
            "nc1": variability(train, means),
            "nc2_equinorm": equinorm,
            "nc2_equiangular": equiangular,
            "nearest_mean/top1": Accuracy(int((nearest(test.x, means) == test.y).sum()), len(test.y)),
        }


class ClassifierCollapse:
    """NC2 of a classifier's weights, NC3 and NC4. Collapsed, they are 0 and 0, 0, and 100."""

    def __call__(self, train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]:
        """``nc2_equinorm`` and ``nc2_equiangular`` of the weights; ``nc3``, the squared distance of weights and means,
        both scaled to length 1 as matrices, in [0, 4]; ``nc4_agreement``, on how many test images in percent the
        classifier and the nearest mean agree.

        Nothing where all class means are equal, as ``NeuralCollapse``.
        """
        means = class_means(train)
        if means is None:
            return {}
        weight = readout.weight[means.classes].double()  # [C, D]
        equinorm, equiangular = frame_gaps(weight)
        distance = weight / weight.norm() - means.offset / means.offset.norm()  # [C, D]
        agreement = readout.logits(test.x).argmax(dim=1) == nearest(test.x, means)  # [M]
        return {
            "nc2_equinorm": equinorm,
            "nc2_equiangular": equiangular,
            "nc3": distance.square().sum().item(),
            "nc4_agreement": 100 * agreement.double().mean().item(),
        }


def class_means(train: Frozen) -> Means | None:
    """The means of the classes that occur; ``None``, with a warning, where all are equal."""
    classes = train.y.unique()  # [C]
    mean = torch.stack([train.x[train.y == c].double().mean(dim=0) for c in classes])  # [C, D]
    centre = mean.mean(dim=0)  # [D]
    if not (mean - centre).norm() > 1e-12 * mean.norm():
        warnings.warn("neural collapse skipped: all class means are equal")
        return None
    return Means(classes, centre, mean - centre)


def variability(train: Frozen, means: Means) -> float:
    """NC1: ``trace(S_W pinv(S_B)) / C``, the covariance within classes measured by that between their means.

    With the means' singular value decomposition ``U diag(s) V^T`` it is the sum over their directions v of the mean
    square within classes along v, divided by s^2: no D x D matrix is needed.
    """
    _, size, direction = torch.linalg.svd(means.offset, full_matrices=False)  # [R], [R, D]
    kept = size > 1e-9 * size[0]
    scaled = direction[kept].T / size[kept]  # [D, rank]
    within = torch.stack(
        [
            ((train.x[train.y == c].double() - means.centre - offset) @ scaled).square().sum(dim=1).mean()
            for c, offset in zip(means.classes, means.offset, strict=True)
        ]
    )  # [C]
    return within.mean().item()


def frame_gaps(rows: Tensor) -> tuple[float, float]:
    """NC2: how far rows [C, D] are from a simplex equiangular tight frame.

    Returns:
        The spread of their lengths over the mean length; and the mean over pairs of ``|cosine + 1 / (C - 1)|``.
    """
    length, count = rows.norm(dim=1), len(rows)  # [C]
    unit = rows / length[:, None].clamp(min=1e-12)  # [C, D]
    apart = (unit @ unit.T + 1 / (count - 1)).abs()  # [C, C]
    pairs = count * (count - 1)
    spread = length.std(correction=0) / length.mean().clamp(min=1e-12)
    return spread.item(), ((apart.sum() - apart.diagonal().sum()) / pairs).item()


def nearest(x: Tensor, means: Means) -> Tensor:
    """The class of the nearest mean for each row of x [M, D]: [M] int64."""
    half = means.offset.square().sum(dim=1) / 2  # [C]
    found = [((part.double() - means.centre) @ means.offset.T - half).argmax(dim=1) for part in x.split(CHUNK)]
    return means.classes[torch.cat(found)]
