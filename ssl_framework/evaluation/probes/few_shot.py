"""Few-shot episodes on frozen features."""

import math
import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Positive, Seed, Several, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite
from ssl_framework.evaluation.probes.few_labels import rows_by_class
from ssl_framework.functional import balanced

EPISODE_VALUES = 2**22
"""Numbers (8 bytes each) of the features of episodes that are scored at once."""


@guarded
class Transport:
    """Moves the means of shots to where the queries lie, by optimal transport between the two.

    OpTA of Poulakakis-Daktylidis and Jamali-Rad, BECLR, ICLR 2024 (arXiv:2402.02444): with one shot a mean lies
    off the middle of its class, and the queries show where the classes are. The plan carries equal weights of the
    W means to equal weights of the W Q queries at the least squared Euclidean distance, with entropy; each mean becomes
    the mean of the queries weighted by its row of the plan. This is transductive: a query's answer depends on the other
    queries. The equal weights are right because an episode has equally many queries of each class, which the plain
    nearest mean does not know. One pass, as the authors' code; the paper's further passes are left out.

    Args:
        epsilon: of the entropy, in units of the largest squared distance of the episode.
        iterations: of Sinkhorn's algorithm; each balances means and then queries. Cost: each about 4 W^2 Q exponentials
            an episode.
    """

    def __init__(self, epsilon: Positive, iterations: Count) -> None:
        self.epsilon = epsilon
        self.iterations = iterations

    @property
    def name(self) -> str:
        return f"transport,epsilon={self.epsilon:g},iterations={self.iterations}"

    def __call__(self, mean: Tensor, query: Tensor) -> Tensor:
        """Moved means, of one or of many episodes.

        Args:
            mean: [..., W, D] float64.
            query: [..., P, D] float64, all queries of the episode.

        Returns:
            [..., W, D], each a weighted mean of queries.
        """
        cost = torch.cdist(mean, query, compute_mode="donot_use_mm_for_euclid_dist").square()  # [..., W, P]
        largest = cost.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)  # [..., 1, 1]
        plan = balanced(-cost / (self.epsilon * largest), self.iterations)  # [..., W, P]
        return plan.softmax(dim=-1) @ query  # [..., W, D]


@guarded
class FewShot:
    """Episodes within the test split: a few images of each of a few classes are known, others are asked for.

    An episode draws W ways, and of each K shots and Q queries, all without replacement. Features are scaled to
    length 1, and a query is given to the nearest mean of shots by Euclidean distance: Snell et al., Prototypical
    Networks for Few-shot Learning, NeurIPS 2017 (arXiv:1703.05175), on frozen features of length 1 as Wang et al.,
    SimpleShot (arXiv:1911.04623). The train split is not read. Cost: episodes x W x (K + W Q) x D.

    Args:
        ways: W, classes of an episode.
        shots: K, known images of a class, or several numbers of them (each has metrics of its own).
        queries: Q, images of a class that are asked for.
        episodes: of which the mean is taken.
        seed: of the episodes.
        transport: moves the means of shots towards the queries of the episode, which is transductive; None: they stay.
    """

    def __init__(
        self,
        ways: Several,
        shots: Count | Annotated[Sequence[Count], Len(1)],
        queries: Count,
        episodes: Several,
        seed: Seed,
        transport: Transport | None = None,
    ) -> None:
        self.shots = [shots] if isinstance(shots, int) else list(shots)
        self.ways = ways
        self.queries = queries
        self.episodes = episodes
        self.seed = seed
        self.transport = transport

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """For each number of shots the mean top-1 in percent and half the width of its 95 % interval, named
        ``few_shot[5-way,1-shot,episodes=600]/top1`` and ``/interval``; with transport
        ``few_shot[5-way,1-shot,episodes=600,transport,epsilon=0.05,iterations=100]/top1``.

        Classes with fewer than K + Q images are left out, with one warning that says how many; so are numbers of shots
        for which fewer than W classes are left.
        """
        if not (are_classes(test.y, "few-shot") and are_finite("few-shot", test)):
            return {}
        z = F.normalize(test.x.float(), dim=1)  # [M, D]
        found: dict[str, float] = {}
        for shots in self.shots:
            classes = self.large_enough(test.y, shots)
            if len(classes) < self.ways:
                continue
            generator = torch.Generator().manual_seed(self.seed)  # no number of shots depends on which others are asked
            size = shots + self.queries
            drawn = torch.stack(
                [episode(classes, self.ways, size, generator) for _ in range(self.episodes)]
            )  # [episodes, W, K + Q]
            parts = drawn.split(max(1, EPISODE_VALUES // (self.ways * size * z.shape[1])))
            share = torch.cat([nearest_mean(z[rows], shots, self.transport) for rows in parts])  # [episodes]
            moved = "" if self.transport is None else f",{self.transport.name}"
            name = f"few_shot[{self.ways}-way,{shots}-shot,episodes={self.episodes}{moved}]"
            found[f"{name}/top1"] = 100 * share.mean().item()
            found[f"{name}/interval"] = 100 * 1.96 * share.std().item() / math.sqrt(self.episodes)
        return found

    def large_enough(self, y: Tensor, shots: int) -> list[Tensor]:
        """The rows of each class that has enough of them; warns in one line of what is left out."""
        size = shots + self.queries
        classes = rows_by_class(y)
        kept = [rows for rows in classes if len(rows) >= size]
        few = len(classes) - len(kept)
        if len(kept) < self.ways:
            warnings.warn(
                f"few-shot with {shots} shots skipped: {len(kept)} classes of the test split have {size} images "
                f"(shots + queries), and an episode takes {self.ways}"
            )
        elif few:
            warnings.warn(
                f"few-shot with {shots} shots: {few} classes of the test split are left out, which have fewer than "
                f"{size} images (shots + queries)"
            )
        return kept


def episode(classes: Sequence[Tensor], ways: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws ``size`` rows of each of ``ways`` classes without replacement: [ways, size] int64.

    Args:
        classes: the rows of each class, at least ``size`` of each; at least ``ways`` classes.
        ways: classes to draw.
        size: rows of each to draw.
        generator: of the CPU.
    """
    chosen = torch.randperm(len(classes), generator=generator)[:ways].tolist()
    return torch.stack(
        [classes[c][torch.randperm(len(classes[c]), generator=generator)[:size]] for c in chosen]
    )  # [ways, size]


def nearest_mean(z: Tensor, shots: int, transport: Transport | None = None) -> Tensor:
    """The share of queries of an episode whose nearest mean of shots is that of their class.

    Args:
        z: [..., W, K + Q, D] features of one or of many episodes, the shots first.
        shots: K, of each class.
        transport: moves the means before queries are given to them.

    Returns:
        [...] float64.
    """
    mean = z[..., :shots, :].double().mean(dim=-2)  # [..., W, D]
    query = z[..., shots:, :].double()  # [..., W, Q, D]
    if transport is not None:
        mean = transport(mean, query.flatten(-3, -2))  # [..., W, D]
    means = mean.unsqueeze(-3)  # [..., 1, W, D]
    answer = (query @ means.mT - means.square().sum(dim=-1).unsqueeze(-2) / 2).argmax(dim=-1)  # [..., W, Q]
    return (answer == torch.arange(mean.shape[-2])[:, None]).double().mean(dim=(-2, -1))
