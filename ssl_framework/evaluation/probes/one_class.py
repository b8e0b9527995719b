"""How well a detector tells one class from the rest, by what a rare class needs (the metrics of AnyLoss,
arXiv:2405.14745)."""

import torch

from ssl_framework.arguments import Natural, guarded
from ssl_framework.evaluation.features import Frozen, Readout


@guarded
class OneClass:
    """Counts of the student's own detector, whose second score is that of the class.

    Args:
        positive: number of the class.
    """

    def __init__(self, positive: Natural) -> None:
        self.positive = positive

    def __call__(self, train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]:
        """Percent of the test split: ``f1[class=0]``, ``balanced_accuracy[class=0]`` and ``gmean[class=0]``.

        Raises:
            ValueError: the test split has no samples of the class, or no others, or the detector has other scores.
        """
        if len(readout.bias) != 2:
            raise ValueError(
                f"evaluation.head_probes asks a head of {len(readout.bias)} scores about one class: choose a head of "
                "two, such as head=detector"
            )
        found = readout.logits(test.x).argmax(dim=1) == 1  # [M]
        true = test.y == self.positive  # [M]
        if not true.any() or true.all():
            raise ValueError(
                f"objective.positive is {self.positive}, of which the test split has {int(true.sum())} of {len(true)} "
                "samples: name a class that some samples are of and some are not"
            )
        hits = (found & true).sum()
        recalls = torch.stack([hits / true.sum(), (~found & ~true).sum() / (~true).sum()])  # [2]
        scores = {
            "f1": 2 * hits / (found.sum() + true.sum()),
            "balanced_accuracy": recalls.mean(),
            "gmean": recalls.prod().sqrt(),
        }
        return {f"{name}[class={self.positive}]": 100 * value.item() for name, value in scores.items()}
