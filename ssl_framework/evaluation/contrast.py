"""A better predictor against a worse one: what contrastive decoding makes of two distributions over the same answers.

    LOL     Chen et al., Lower Layer Matters, 2024 (arXiv:2408.08769): the amateur is an earlier layer
    AdaCAD  Wang et al., Adaptively Decoding to Balance Conflicts, NAACL 2025 (arXiv:2409.07394): the contrast is as
            strong as the two disagree

C classes or words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.functional import full_precision

REFUSED = -1000.0
"""Score of an answer that the better predictor finds implausible."""


def plausible_contrast(expert: Tensor, amateur: Tensor, alpha: float) -> Tensor:
    """``log p - log p_amateur`` where ``p >= alpha max p``, ``REFUSED`` elsewhere: [..., C].

    Args:
        expert, amateur: [..., C] logits.
        alpha: share of the highest probability, in [0, 1].
    """
    log_p, log_q = full_precision(expert).log_softmax(dim=-1), full_precision(amateur).log_softmax(dim=-1)
    likely = log_p.exp() >= alpha * log_p.amax(dim=-1, keepdim=True).exp()  # [..., C]
    return torch.where(likely, log_p - log_q, REFUSED)


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the softmaxes of two logits, natural logarithm: [..., C], [..., C] -> [...] in
    [0, log 2]. As the weight of a sample it says how far two predictions of it disagree."""
    log_p, log_q = full_precision(a).log_softmax(dim=-1), full_precision(b).log_softmax(dim=-1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))  # [..., C]
    halves = [F.kl_div(log_m, each, reduction="none", log_target=True).sum(dim=-1) for each in (log_p, log_q)]
    return (halves[0] + halves[1]) / 2


def adaptive_contrast(expert: Tensor, amateur: Tensor, least: float = 0.0) -> Tensor:
    """``(1 + w) expert - w amateur`` with ``w = max(least, jensen_shannon)``: [..., C] logits; where both agree
    they are the expert's.

    Args:
        expert, amateur: [..., C] logits.
        least: of the weight.
    """
    weight = jensen_shannon(expert, amateur).clamp(min=least)[..., None]  # [..., 1]
    return (1 + weight) * full_precision(expert) - weight * full_precision(amateur)
