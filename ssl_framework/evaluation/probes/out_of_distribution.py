"""Whether images of classes that a bank lacks are far from it.

N samples of the bank, M of the test split, D features.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len

from ssl_framework.arguments import Count, Natural, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes
from ssl_framework.evaluation.probes.knn import neighbours


@guarded
class OutOfDistribution:
    """Some classes are left out of the bank, and the largest cosine similarity to it is to tell their test images.

    The score of Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022 (arXiv:2204.06507),
    with one neighbour. Only the bank lacks the classes: pretraining without labels has seen their images, so that this
    judges how the features separate classes, not how a network meets what it has never seen. Cost: N M D.

    Args:
        classes: numbers of the classes left out.
        chunk: test rows compared with the bank at once; memory is chunk x N floats, about twice.
    """

    def __init__(self, classes: Annotated[Sequence[Natural], Len(1)], chunk: Count = 1024) -> None:
        if not classes or min(classes) < 0 or len(set(classes)) < len(classes):
            raise ValueError(
                f"evaluation.probes.ood.classes is {list(classes)}: give one or more different numbers of classes"
            )
        self.classes = list(classes)
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """How often a test image of a class of the bank is nearer to it than one of a class left out: the area under
        the ROC curve in percent, named ``ood[classes=8+9]/auroc``; 50 is chance."""
        from sklearn.metrics import roc_auc_score  # slow to import, and few runs need it

        if not are_classes(test.y, "ood"):
            return {}
        left_out = torch.tensor(self.classes)  # [left out]
        bank = train.x[~torch.isin(train.y, left_out)]  # [N, D]
        known = ~torch.isin(test.y, left_out)  # [M]
        if absent := sorted(set(self.classes) - set(test.y.tolist())):
            warnings.warn(f"ood skipped: the test split has no images of the classes {absent}")
            return {}
        if not len(bank) or not known.any():
            warnings.warn("ood skipped: without the classes left out nothing is left in the train or the test split")
            return {}
        near = torch.cat([similarity[:, 0] for similarity, _ in neighbours(bank, test.x, 1, self.chunk)])  # [M]
        if not near.isfinite().all():
            warnings.warn("ood skipped: some features are not finite")
            return {}
        name = f"ood[classes={'+'.join(map(str, self.classes))}]"
        return {f"{name}/auroc": 100 * float(roc_auc_score(known.numpy(), near.numpy()))}
