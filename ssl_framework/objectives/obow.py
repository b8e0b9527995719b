"""OBoW: Gidaris et al., OBoW: Online Bag-of-Visual-Words Generation for Self-Supervised Learning, CVPR 2021
(arXiv:2012.11552), eq. 1 to 6.

The teacher describes the whole image by the words of a vocabulary that its positions are near to; the student predicts
this bag of words from crops. The vocabulary is a queue of the teacher's own features, which become weights.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, Natural, Positive, guarded
from ssl_framework.distributed import gather, own_rows, world_size
from ssl_framework.functional import positions, unit
from ssl_framework.memory import Queue
from ssl_framework.models.heads import MLPHead, built
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class OBoW(Objective):
    """Kullback-Leibler divergence of predicted bags of words: mean over levels and crops, sum over kinds of crops.

    Args:
        levels: names of the teacher's maps, each with a vocabulary of its own.
        vocabulary: builds one, for features of so many dimensions: the latest words, K of them.
        inverse_delta: sharpness of the assignment, in units of the mean squared distance to the nearest word.
        decay: of the moving average of that distance.
        kappa: factor of the predicted logits.
        border: positions cut off at each side of a map; a map too small for that stays whole.
        crops: how many views of each kind the student sees, one kind after another.
        dim: D, of the student's features.
        head: name of the student's output that predicts.

    Logs the perplexity of the batch's mean bag and of an image's own; the former near the latter is collapse.
    """

    requires = frozenset({"teacher", "maps"})
    num_views = (1, None)  # crops; and one image

    apart: Tensor  # [L] moving average of the squared distance to the nearest word, of each level

    def __init__(
        self,
        levels: Sequence[str],
        vocabulary: Callable[..., Queue],
        inverse_delta: Positive,
        decay: BelowOne,
        kappa: Positive,
        border: Natural,
        crops: Sequence[Count],
        dim: Count,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.levels, self.vocabulary, self.crops = list(levels), vocabulary, list(crops)
        self.inverse_delta, self.decay, self.kappa, self.border = inverse_delta, decay, kappa, border
        self.dim, self.head = dim, head
        self.reads, self.teacher_reads = (head,), tuple(levels)

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes a vocabulary and a generator of weights, C -> 2 C -> D, for each level."""
        widths = [teacher[level] for level in self.levels]
        self.words = nn.ModuleList(self.vocabulary(dim=width) for width in widths)
        for queue in self.words:  # as the authors' code: features behind a ReLU, and a distance of 0.5
            queue.rows.copy_(torch.randn_like(queue.rows).clamp(min=0))  # type: ignore[operator, arg-type]
        self.register_buffer("apart", torch.full((len(widths),), 0.5))
        makers = [built(MLPHead("words", [2 * width], self.dim), {"words": width}) for width in widths]
        self.generators = nn.ModuleList(makers)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = outputs_of(student, self.head)  # V x [B, D]
        if len(z) != sum(self.crops):
            raise ValueError(f"objective.crops is {self.crops}, but the student encodes {len(z)} views: name as many")
        if (images := sum(view is not None for view in teacher or ())) != 1:
            raise ValueError(f"the teacher describes one image, but encodes {images} views: set teacher_views=[0]")
        losses, bags = [], []
        for number, (level, generate) in enumerate(zip(self.levels, self.generators, strict=True)):
            words = self.words[number].read()  # type: ignore[operator]  # [K, C], before the batch's own
            weights = unit(generate({"words": unit(words)}))  # [K, D]
            (shown,) = outputs_of(teacher, level)  # [B, C, h, w]
            bags.append(self.described(number, trimmed(shown, self.border), words, clock))  # [B, K]
            log_p = [(self.kappa * x @ weights.T).log_softmax(dim=1) for x in z]  # V x [B, K]
            losses.append(torch.stack([F.kl_div(each, bags[-1], reduction="batchmean") for each in log_p]))  # [V]
        of_view = torch.stack(losses).mean(dim=0)  # [V]
        found = torch.stack(bags)  # [L, B, K]
        return {
            "loss": torch.stack([kind.mean() for kind in of_view.split(self.crops)]).sum(),
            "batch_perplexity": torch.special.entr(found.mean(dim=1)).sum(dim=-1).exp().mean(),
            "image_perplexity": torch.special.entr(found).sum(dim=-1).exp().mean(),
        }

    @torch.no_grad()
    def described(self, number: int, x: Tensor, words: Tensor, clock: Clock) -> Tensor:
        """The bags of words [B, K] of a level's maps [B, C, h, w]. Changes the mean distance first, as the authors do,
        and the vocabulary, by a position of each image, averaged with those around it."""
        rows = positions(x)  # [B, P, C]
        distance = squared_distances(rows, words)  # [B, P, K]
        nearest = gather(distance.amin(dim=2).mean()[None]).mean()
        self.apart[number].lerp_(nearest.to(self.apart), 1 - self.decay)
        around = positions(F.avg_pool2d(x, min(3, *x.shape[2:]), stride=1))  # [B, P', C]
        generator, device, count = clock.generator(x.device), x.device, world_size() * len(x)  # alike on all ranks
        where = own_rows(torch.randint(around.shape[1], (count,), generator=generator, device=device))  # [B]
        self.words[number].push(around[torch.arange(len(x), device=device), where])  # type: ignore[operator]
        return bags_of_words(distance, self.inverse_delta / self.apart[number])


def squared_distances(x: Tensor, words: Tensor) -> Tensor:
    """Of positions [B, P, C] to words [K, C]: [B, P, K]."""
    return x.square().sum(dim=2, keepdim=True) + words.square().sum(dim=1) - 2 * x @ words.T  # [B, P, K]


def bags_of_words(distance: Tensor, sharpness: Tensor | float) -> Tensor:
    """The greatest share that a word has in any position (eq. 2 and 3), rows summing to one: [B, P, K] -> [B, K]."""
    return F.normalize((-sharpness * distance).softmax(dim=2).amax(dim=1), p=1, dim=1)  # [B, K]


def trimmed(x: Tensor, border: int) -> Tensor:
    """A map [B, C, h, w] without its outermost positions, whose features padding has touched."""
    inner = x[:, :, border : x.shape[2] - border, border : x.shape[3] - border]  # [B, C, h', w']
    return inner if min(x.shape[2:]) > 2 * border else x
