"""How far the confidence of zero-shot classes can be believed (Minderer et al., NeurIPS 2021, arXiv:2106.07998)."""

import torch.nn.functional as F

from ssl_framework.arguments import Count, guarded
from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.probes.calibration import ece
from ssl_framework.evaluation.probes.zero_shot import class_rows, name_of


@guarded
class ZeroShotCalibration:
    """The softmax over the classes of a factor, of cosines times the scale that the objective has learnt.

    Args:
        num_bins: of confidence, of equal width.
    """

    def __init__(self, num_bins: Count) -> None:
        self.num_bins = num_bins

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Expected calibration error in percent and negative log-likelihood in nats, factor by factor, named
        ``zero_shot[colour,classes=6,prompts=4]/ece[bins=15]`` and ``/nll``; nothing where no scale was learnt."""
        scores: dict[str, float] = {}
        if test.scale is None:
            return scores
        for factor, prompts in test.prompts.items():
            log_p = (test.scale * test.main @ class_rows(prompts).T).double().log_softmax(dim=1)  # [N, classes]
            highest, answer = log_p.max(dim=1)  # [N], [N]
            name, label = name_of(factor, prompts).removesuffix("/top1"), test.label[factor]
            scores[f"{name}/ece[bins={self.num_bins}]"] = 100 * ece(highest.exp(), answer == label, self.num_bins)
            scores[f"{name}/nll"] = F.nll_loss(log_p, label).item()
        return scores

    def chance(self, test: Pairs) -> dict[str, float]:
        """There is none."""
        return {}
