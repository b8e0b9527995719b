"""How good a classifier's answers are, and how far its confidence can be believed.

M samples, N bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Count, guarded
from ssl_framework.evaluation.features import Accuracy, Frozen, Readout


@guarded
class Calibration:
    """Accuracy, negative log-likelihood, and the expected calibration error with bins of equal width and of equal mass.

    Confidence is the largest softmax probability.

    Args:
        num_bins: N, of confidence.
    """

    def __init__(self, num_bins: Count) -> None:
        self.num_bins = num_bins

    def __call__(self, train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]:
        """Of the test split: ``top1``, ``ece[bins=15]`` and ``aece[bins=15]`` in percent, ``nll`` in nats a sample."""
        log_p = readout.logits(test.x).double().log_softmax(dim=1)  # [M, classes]
        highest, answer = log_p.max(dim=1)  # [M], [M]
        confidence, correct = highest.exp(), answer == test.y  # [M], [M]
        return {
            "top1": Accuracy(int(correct.sum()), len(correct)),
            "nll": F.nll_loss(log_p, test.y).item(),
            f"ece[bins={self.num_bins}]": 100 * ece(confidence, correct, self.num_bins),
            f"aece[bins={self.num_bins}]": 100 * aece(confidence, correct, self.num_bins),
        }


def ece(confidence: Tensor, correct: Tensor, num_bins: int) -> float:
    """Expected calibration error: N bins of equal width, each open below and closed above.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599), eq. 3.

    Args:
        confidence: [M] in [0, 1].
        correct: [M] bool.
        num_bins: N.

    Returns:
        In [0, 1].
    """
    found = (confidence.double() * num_bins).ceil().long() - 1  # [M]
    return gap(confidence, correct, found.clamp(0, num_bins - 1), num_bins)


def aece(confidence: Tensor, correct: Tensor, num_bins: int) -> float:
    """Adaptive expected calibration error: as ``ece``, with N bins of equally many samples.

    Nguyen and O'Connor, Posterior Calibration and Exploratory Analysis for Natural Language Processing Models, EMNLP
    2015 (arXiv:1508.05154). Samples of equal confidence share a bin, so that the value does not depend on their order.
    """
    lower = torch.searchsorted(confidence.sort().values, confidence)  # [M] how many are less confident
    return gap(confidence, correct, lower * num_bins // len(confidence), num_bins)


def gap(confidence: Tensor, correct: Tensor, found: Tensor, num_bins: int) -> float:
    """``sum over bins of |bin| / M * |accuracy of the bin - its mean confidence|``; ``found`` [M] is each one's bin."""
    excess = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, found, confidence.double() - correct.double())
    return excess.abs().sum().item() / len(confidence)
