"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv:1805.01978)."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite, right


@guarded
class KNN:
    """Weighted k-nearest-neighbour vote on cosine similarity (Wu et al., arXiv:1805.01978, section 3.4).

    A neighbour votes for its class with weight ``exp(similarity / temperature)``; the bank is the train split.

    scikit-learn's classifier with such weights answers alike, which a test compares; it takes one k and T at a time.

    Several k and T are a grid that one pass over the similarities scores. Each pair is a metric of its own; to report
    the best of them is to choose on the test split.

    Args:
        k: neighbours, or several numbers of them.
        temperature: T, or several.
        chunk: test rows compared with the bank at once; memory is chunk x N floats, about twice.
    """

    def __init__(
        self,
        k: Count | Annotated[Sequence[Count], Len(1)],
        temperature: Positive | Annotated[Sequence[Positive], Len(1)],
        chunk: Count = 1024,
    ) -> None:
        self.ks = list(dict.fromkeys([k] if isinstance(k, int) else k))
        several = [temperature] if isinstance(temperature, int | float) else temperature
        self.temperatures = list(dict.fromkeys(several))
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent for each k and T, named ``knn[k=20,T=0.1]/top1``.

        A k larger than the bank is left out, with one warning that says so; so is everything for numbers.
        """
        if not (are_classes(train.y, "k-NN") and are_finite("k-NN", train, test)):
            return {}
        return {f"{name}/top1": right(answer, test.y) for name, answer in self.answers(train, test.x).items()}

    def answers(self, train: Frozen, x: Tensor) -> dict[str, Tensor]:
        """The class that rows [M, D] are given, for each k and T: ``knn[k=20,T=0.1]`` -> [M] int64.

        A k larger than the bank is left out, with one warning that says so.
        """
        ks = within(self.ks, len(train.x))
        if not ks:
            return {}
        classes = int(train.y.max()) + 1
        given: dict[str, list[Tensor]] = {f"knn[k={k},T={t:g}]": [] for k in ks for t in self.temperatures}
        for similarity, neighbour in neighbours(train.x, x, max(ks), self.chunk):
            label = train.y[neighbour]  # [m, k]
            for t in self.temperatures:
                # Subtracting the largest changes no vote and keeps the exponential in range for small T.
                weight = ((similarity - similarity[:, :1]) / t).exp()  # [m, k]
                for k in ks:
                    votes = torch.zeros(len(label), classes)  # [m, classes]
                    votes.scatter_add_(1, label[:, :k], weight[:, :k])
                    given[f"knn[k={k},T={t:g}]"].append(votes.argmax(dim=1))
        return {name: torch.cat(parts) for name, parts in given.items()}  # [M] each


def within(ks: Sequence[int], count: int) -> list[int]:
    """Those numbers of neighbours that ``count`` samples have; warns in one line of the others."""
    if left_out := sorted({k for k in ks if k > count}):
        warnings.warn(f"k-NN with k={left_out} skipped: the train split has only {count} samples")
    return [k for k in ks if k <= count]


def neighbours(bank: Tensor, x: Tensor, k: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest rows of a bank by cosine similarity, for m = ``chunk`` rows at a time.

    Args:
        bank: [N, D] features of any length.
        x: [M, D] rows whose neighbours are wanted.
        k: at most N.
        chunk: rows compared with the bank at once.

    Yields:
        [m, k] similarities, largest first, and [m, k] int64 rows of the bank.
    """
    bank = F.normalize(bank.float(), dim=1)  # [N, D]
    # Used for every chunk anew, with the bank along the rows: the matrix product is a tenth faster that way round.
    similarities = torch.empty(len(bank), min(chunk, len(x)))  # [N, chunk]
    for rows in x.split(chunk):
        queries = F.normalize(rows.float(), dim=1)  # [m, D]
        if len(rows) < similarities.shape[1]:
            similarities = similarities.new_empty(len(bank), len(rows))  # [N, m]
        torch.mm(bank, queries.T, out=similarities)
        yield largest(similarities, k)


def largest(values: Tensor, k: int, groups: int = 16) -> tuple[Tensor, Tensor]:
    """The k largest of every column, largest first, as ``topk`` but several times as fast on long columns.

    The rows are laid in ``groups`` layers. A place whose largest value over the layers is not among the k largest such
    values holds none of the k largest of all, so only k places times ``groups`` values are left to sort.

    Args:
        values: [N, M].
        k: at most N.
        groups: layers.

    Returns:
        [M, k] values and [M, k] int64 rows.
    """
    width = len(values) // groups
    if k > width:
        return values.T.topk(k, dim=1)
    layers = values[: groups * width].unflatten(0, (groups, width))  # [groups, width, M]
    place = layers.amax(dim=0).T.topk(k, dim=1, sorted=False).indices  # [M, k]
    start = torch.arange(groups, device=values.device)[:, None] * width  # [groups, 1]
    row = (start + place[:, None]).flatten(1)  # [M, groups * k]
    rest = torch.arange(groups * width, len(values), device=values.device).expand(len(row), -1)  # [M, < groups]
    row = torch.cat([row, rest], dim=1)  # [M, groups * k + rest]
    found, position = values.T.gather(1, row).topk(k, dim=1)  # [M, k]
    return found, row.gather(1, position)
