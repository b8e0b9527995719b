"""How much a random masking of images tells apart, and how much of what it leaves alike an encoder has learned: Zhai et
al., Understanding Augmentation-based Self-Supervised Representation Learning via RKHS Approximation and Regression,
ICLR 2024 (arXiv:2306.00788).

An augmentation p(a|x) makes a kernel, ``K(x, x') = sum_a p(a|x) p(a|x') / p(a)``. The complexity of the augmentation is
``kappa^2 = max_x K(x, x)``: 1 where views say nothing of the sample, N where they say everything. The best encoder of r
dimensions spans the first r eigenvectors of K / N.

Both are exact on a finite set of images with a finite set of masks, and meaningless where they would be estimated, so
images are reduced to few cells of few levels here. On all of {-1, 1}^d, with every coordinate hidden with probability
alpha, kappa^2 is ``(2 - alpha)^d`` and the eigenvalues are ``(1 - alpha)^k``, binomial(d, k) of them.

N images, A views, d cells, D features, r the rank of an encoder's features and a constant.
"""

import itertools
from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from ssl_framework.arguments import OpenFraction, Seed, Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.loader import Undecoded
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.features import Bare, Splits, extract, refuse_non_finite
from ssl_framework.module import SSLModule


@guarded
class AugmentationComplexity(AfterRun):
    """The complexity of hiding cells of images, and what an encoder spans of the kernel's leading directions.

    Cost: 2^d tables of N x N, and an eigenvalue decomposition of N x N in float64.

    Args:
        protocol: see ``AfterRun``.
        num_samples: images of the train split, at most; drawn once from the seed.
        cells: along a side; d is its square.
        levels: to which the mean of a cell is reduced, in equal steps from the lowest of all cells to the highest.
        hidden: alpha, probability that a cell is hidden, each by itself.
        seed: of the images drawn.
    """

    images_shown = "a sample of the train split, reduced to few cells; the encoder sees them whole and clean"

    def __init__(
        self,
        protocol: str,
        num_samples: Several,
        cells: Annotated[int, Interval(ge=1, le=3)],
        levels: Annotated[int, Interval(ge=2, le=256)],
        hidden: OpenFraction,
        seed: Seed,
    ) -> None:
        super().__init__(protocol)
        self.num_samples = num_samples
        self.cells = cells
        self.levels = levels
        self.hidden = hidden
        self.seed = seed

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Named ``rkhs_complexity[cells=3x3,levels=2,hidden=0.4,n=1000]/...``: ``kappa2``; ``kappa2_mean``, the mean of
        K(x, x), which is the sum of the eigenvalues; ``kappa2_cube``, that of as many independent cells of two levels;
        and for the encoder ``rank``, ``captured``, the share of the r leading eigenvalues that lies in its span, and
        ``captured_by_chance``, that of a random span of the same rank. Shares in [0, 1].

        Raises:
            ValueError: the samples are no pictures in memory, or have fewer pixels than cells.
        """
        split = data.train
        if isinstance(split.rows, Undecoded) or len(split.shape) != 4 or min(split.shape[2:]) < self.cells:
            raise ValueError(
                f"evaluation={self.name} divides decoded pictures into {self.cells} x {self.cells} cells, but a sample "
                f"of these data is {list(split.shape[1:])}, or a file: choose other data, or a lower evaluation.cells"
            )
        order = torch.randperm(split.shape[0], generator=torch.Generator().manual_seed(self.seed))  # [N of the split]
        kept = order[: self.num_samples].sort().values  # [N]
        images = chosen(split.rows, kept.to(split.rows.device))  # [N, C, H, W_px]
        whole = kernel(list(views(self.contents(images), self.hidden))).cpu()  # [N, N]
        eigenvalue = torch.linalg.eigvalsh(whole / len(whole)).flip(0)  # [N], largest first
        student = frozen_copy(module)
        part = Split(images, None, ())
        x = extract(lambda x: student.embed(clean(module, x)), part, module.device)  # [N, D]
        span = spanned(refuse_non_finite(x, "the backbone's features", "train"))  # [N, r]
        best, rank = eigenvalue[: span.shape[1]].sum(), span.shape[1]
        found = {
            "kappa2": whole.diagonal().max(),
            "kappa2_mean": whole.diagonal().mean(),
            "kappa2_cube": (2 - self.hidden) ** (self.cells**2),
            "rank": rank,
            "captured": (span * (whole @ span)).sum() / len(whole) / best,
            "captured_by_chance": rank / len(whole) * eigenvalue.sum() / best,
        }
        what = f"cells={self.cells}x{self.cells},levels={self.levels},hidden={self.hidden:g},n={len(whole)}"
        return {f"{self.name}[{what}]/{name}": float(value) for name, value in found.items()}

    def contents(self, images: Tensor) -> Tensor:
        """Level of every cell: [N, C, H, W_px] of any values -> [N, d] int64 in 0 .. levels - 1."""
        mean = F.adaptive_avg_pool2d(images.double().mean(dim=1), self.cells).flatten(1)  # [N, d]
        low, high = mean.min(), mean.max()
        return ((mean - low) / (high - low).clamp(min=1e-12) * self.levels).long().clamp(max=self.levels - 1)  # [N, d]


def views(content: Tensor, hidden: float) -> Iterator[Tensor]:
    """Probabilities of all views of every image, some of A at a time, for cells that are hidden each by itself.

    Args:
        content: [N, d] int64, what each cell shows.
        hidden: probability of a cell to be hidden, in (0, 1).

    Yields:
        For each of the 2^d masks p(a|x), [N, A of this mask] float64: a view is the mask and what the others show.
    """
    for shown in itertools.product((False, True), repeat=content.shape[1]):
        kept = content[:, torch.tensor(shown)]  # [N, cells shown]
        _, view = kept.unique(dim=0, return_inverse=True) if kept.shape[1] else (None, content.new_zeros(len(content)))
        weight = (1 - hidden) ** sum(shown) * hidden ** (len(shown) - sum(shown))
        yield weight * F.one_hot(view).double()  # [N, A of this mask]


def kernel(probability: list[Tensor]) -> Tensor:
    """``K(x, x') = sum_a p(a|x) p(a|x') / p(a)``, all images equally likely: [N, N] float64.

    Args:
        probability: p(a|x), [N, A] in parts of A; the rows of all parts together sum to one.
    """
    total = probability[0].new_zeros(len(probability[0]), len(probability[0]))  # [N, N]
    for part in probability:
        total.addmm_(part / part.mean(dim=0), part.T)
    return total


def spanned(x: Tensor) -> Tensor:
    """An orthonormal basis of what features and a constant span: [N, D] -> [N, r] float64."""
    x = x.double()
    constant = x.new_full((len(x), 1), len(x) ** -0.5)  # [N, 1]
    left, singular, _ = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)  # [N, min(N, D)], [min(N, D)]
    rounding = torch.finfo(torch.float32).eps * max(x.shape) * x.norm()
    return torch.cat([constant, left[:, singular > rounding]], dim=1)
