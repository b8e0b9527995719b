"""Laws of the label share: how much a mixture counts as each of its sources, where that is not the visible share.

    AttentionShare  TransMix: Chen et al., CVPR 2022 (arXiv:2111.09833): half area, half attention of the mixture
    ScoreMass       TokenMix: Liu et al., ECCV 2022 (arXiv:2207.08409): what the sources lose and show of their score
    ProgressiveShare  MixPro: Zhao et al., ICLR 2023 (arXiv:2304.12043): area first, attention once the network knows

B samples, P sources of a mixture, h x w pixels, h' x w' places of a score map, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.mixers.base import Context
from ssl_framework.mixers.scores import Score, class_head, looking, student
from ssl_framework.mixers.targets import class_targets
from ssl_framework.types import Mix


@guarded
class AttentionShare:
    """``(area + attention) / 2``: the mean of the visible share and of the share of the mixture's score.

    It costs a further pass of the mixed images through the student, without gradient. Of a mixture whose pixels are all
    of both images alike (Mixup) the two shares are one.

    Args:
        score: of the mixed images; TransMix takes ``ClassAttention``.
    """

    def __init__(self, score: Score) -> None:
        self.score = score

    @torch.no_grad()
    def __call__(self, mixed: Tensor, mix: Mix, context: Context) -> Tensor:
        """[B, P], rows sum to one."""
        score = self.score(mixed, context)  # [B, h', w']
        seen = (owners(mix, score) * score[:, None]).sum(dim=(2, 3))  # [B, P]
        return (mix.share + normalised(seen, mix.share)) / 2


@guarded
class ScoreMass:
    """How much of each source's own score lies where the mixture shows it, as a share of the sum over the sources.

    Args:
        score: of the clean images; TokenMix takes activations of a trained teacher network.
    """

    def __init__(self, score: Score) -> None:
        self.score = score

    @torch.no_grad()
    def __call__(self, mixed: Tensor, mix: Mix, context: Context) -> Tensor:
        """[B, P], rows sum to one."""
        score = self.score(mix.clean, context)[mix.source]  # [B, P, h', w']
        shown = owners(mix, score) if mix.taken is None else pooled(mix.taken, score)  # [B, P, h', w']
        return normalised((shown * score).sum(dim=(2, 3)), mix.share)


@guarded
class ProgressiveShare:
    """``t attention + (1 - t) area``, t the cosine of the student's class probabilities of the mixture and the target
    that the areas give: a network that recognises its mixtures also knows where to look.

    It costs two further passes of the mixed images through the student, without gradient.

    Args:
        score: of the mixed images; MixPro takes ``ClassAttention``.
        head: of the student, that gives class scores.
    """

    def __init__(self, score: Score, head: str) -> None:
        self.score = score
        self.head = head

    @torch.no_grad()
    def __call__(self, mixed: Tensor, mix: Mix, context: Context) -> Tensor:
        """[B, P], rows sum to one.

        Raises:
            ValueError: the student has no such head, or the samples have no classes.
        """
        score = self.score(mixed, context)  # [B, h', w']
        class_head(context, self.head, self)
        assert context.label is not None
        network = student(context, self)
        with looking(network):
            probability = network.encode(mixed)[self.head].float().softmax(dim=1)  # [B, K]
        target = class_targets(mix, context.label, probability.shape[1])  # [B, K]
        known = F.cosine_similarity(target, probability, dim=1)[:, None]  # [B, 1] in [0, 1]
        seen = normalised((owners(mix, score) * score[:, None]).sum(dim=(2, 3)), mix.share)  # [B, P]
        return torch.lerp(mix.share, seen, known)


def owners(mix: Mix, score: Tensor) -> Tensor:
    """How much of each place of a score map [..., h', w'] is of each source, mean over its pixels: [B, P, h', w']."""
    assert mix.owner is not None, "a mixer on images says whose each pixel is"
    return pooled(mix.owner, score)


def pooled(shown: Tensor, score: Tensor) -> Tensor:
    """Means of [B, P, h, w] over the pixels of each place of a score map [..., h', w']: [B, P, h', w']."""
    h, w = score.shape[-2:]
    return F.adaptive_avg_pool2d(shown, (h, w))


def normalised(mass: Tensor, share: Tensor) -> Tensor:
    """[B, P] with rows that sum to one; ``share`` [B, P] where nothing of any score is shown."""
    total = mass.sum(dim=1, keepdim=True)  # [B, 1]
    shown = total > torch.finfo(mass.dtype).tiny  # [B, 1]
    return torch.where(shown, mass / torch.where(shown, total, 1.0), share)
