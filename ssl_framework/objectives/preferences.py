"""Policies that learn from comparisons instead of from a reinforcement learner's returns. Pure functions of
log-probabilities and rewards: no policy is hosted, so that no config names them.

    CPL    Hejna et al., Contrastive Preference Learning, ICLR 2024 (arXiv:2310.13639), eq. 5 and 7
    CoPG   Flet-Berliac et al., Contrastive Policy Gradient, EMNLP 2024 (arXiv:2406.19185)
    GCPO   Wang et al., GeometryZero, 2025 (arXiv:2506.07160): whether a group of answers was better with an option

N segments or pairs of answers, T steps of a segment, A actions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.functional import full_precision


def segment_score(log_prob: Tensor, alpha: float) -> Tensor:
    """``alpha sum_t log pi(a_t|s_t)``, which is a segment's advantage under the policy: [N, T] -> [N]."""
    return alpha * full_precision(log_prob).sum(dim=1)


def cpl(score_1: Tensor, score_2: Tensor, prefers_2: Tensor, bias: float) -> Tensor:
    """Logistic loss that the preferred segment scores higher, in the conservative form: the score of the other one
    counts ``bias`` times, which keeps probability on what was seen. A scalar.

    Args:
        score_1, score_2: [N] of ``segment_score``.
        prefers_2: [N] in [0, 1]: 1 where the second is preferred, 0.5 where neither is.
        bias: lambda, in (0, 1].
    """
    y = prefers_2.to(score_1.dtype)  # [N]
    return (y * F.softplus(bias * score_1 - score_2) + (1 - y) * F.softplus(bias * score_2 - score_1)).mean()


def cpl_ranked(score: Tensor, value: Tensor, bias: float) -> Tensor:
    """``cpl`` over all pairs of segments of which one is known to be better: a scalar, 0 if there is none.

    Differs from the released code, whose mean is over entries that are not exactly zero: a pair of equal value is no
    comparison here, whatever its loss.

    Args:
        score: [N] of ``segment_score``.
        value: [N], greater where a segment is better.
        bias: lambda, in (0, 1].
    """
    better = value[:, None] > value  # [N, N]
    loss = F.softplus(bias * score - score[:, None])  # [N, N]: row preferred to column
    return (loss * better).sum() / better.sum().clamp(min=1)


def regularised(reward: Tensor, log_prob: Tensor, log_reference: Tensor, beta: float) -> Tensor:
    """``R - beta log(pi / pi_ref)`` of answers: three tensors of one shape -> the same shape."""
    return full_precision(reward) - beta * (full_precision(log_prob) - full_precision(log_reference))


def copg(regularised_1: Tensor, regularised_2: Tensor) -> Tensor:
    """``mean (R_1 - R_2)^2 / 2`` of the regularised rewards [N] of two answers to each question: a scalar.

    The answers may come from anywhere. It is 0 where all answers to a question have the same regularised reward, which
    is where the policy is ``optimum``.
    """
    return (regularised_1 - regularised_2).square().mean() / 2


def optimum(log_reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The policy ``pi_ref exp(R / beta) / Z``, which has the highest regularised reward: [..., A], [..., A] -> its
    log-probabilities [..., A]."""
    return (full_precision(log_reference) + full_precision(reward) / beta).log_softmax(dim=-1)


def group_contrast(with_option: Tensor, without: Tensor, threshold: float) -> Tensor:
    """Whether groups of answers are better with an option or without it: the sign that multiplies the option's reward.

    Args:
        with_option, without: [N] mean accuracies of the two groups of each question, in [0, 1].
        threshold: by which they must differ.

    Returns:
        [N] in {-1, 0, 1}.
    """
    difference = with_option - without  # [N]
    return torch.sign(difference) * (difference.abs() > threshold)
