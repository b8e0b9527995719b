"""Which item comes next: all items are ranked by a linear readout of frozen features.

N samples of the train split, M of the test split, D features, V items. The class of a sample is the item that comes
next; its row holds the items so far, as the numbers from 1 on, with 0 in front.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import are_classes, are_finite, moments


@guarded
class NextItem:
    """Hit rate and normalised discounted cumulative gain of the next item in a ranking of all items.

    The readout is ridge regression of the next item, as a vector with a single one, on standardised features, in closed
    form: no seed, no choice on the test split. Nothing is sampled: the item stands among all others (Krichene and
    Rendle, On Sampled Metrics for Item Recommendation, KDD 2020). Where several items have the same score, the mean
    over their orders is taken. Cost: N D^2 + D^3.

    Args:
        k: lengths of the lists that are shown.
        penalty: lambda in ``mean |e - a - W x|^2 + lambda |W|^2``.
        remove_seen: whether items that a user has had are left out of the ranking, unless one comes again.
    """

    modality = "sequence"

    def __init__(self, k: Annotated[Sequence[Count], Len(1)], penalty: Positive, remove_seen: bool) -> None:
        self.ks = list(k)
        self.penalty = penalty
        self.remove_seen = remove_seen

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Percent: ``next_item[l2=0.1]/hr@10``, ``next_item[l2=0.1]/ndcg@10`` and so on."""
        if not self.fits(train, test) or not are_finite("the next item", train, test):
            return {}
        return self.scores(readout(train, test.x, self.penalty, items_of(train, test)), test)

    def references(self, train: Frozen, test: Frozen) -> dict[str, dict[str, float]]:
        """What rankings without features score: by chance, by how often an item came next in the train split, and by
        how often it came next behind the same last item."""
        if not self.fits(train, test):
            return {}
        items = items_of(train, test)
        popular = train.y.bincount(minlength=items).double()  # [V]
        found = {"chance": torch.zeros(len(test.y), items), "popularity": popular.expand(len(test.y), -1)}  # [M, V]
        if train.rows is not None and test.rows is not None:
            before, last = train.rows[:, -1].long(), test.rows[:, -1].long()  # [N], [M]
            table = torch.zeros(int(max(before.max(), last.max())) + 1, items, dtype=torch.float64)  # [V + 1, V]
            table.index_put_((before, train.y), torch.ones(len(before), dtype=torch.float64), accumulate=True)
            found["transitions"] = table[last] + popular / (1 + popular.sum())  # [M, V]
        return {name: self.scores(score, test) for name, score in found.items()}

    def fits(self, train: Frozen, test: Frozen) -> bool:
        """Whether the labels are items."""
        return are_classes(train.y, "the next item") and are_classes(test.y, "the next item")

    def scores(self, score: Tensor, test: Frozen) -> dict[str, float]:
        """Of a score [M, V] of every item."""
        own = score.gather(1, test.y[:, None])  # [M, 1]
        if self.remove_seen and test.rows is not None:
            seen = torch.zeros(len(score), score.shape[1] + 1, dtype=torch.bool)  # [M, V + 1]
            score = score.masked_fill(seen.scatter_(1, test.rows.long(), True)[:, 1:], -torch.inf)
            score = score.scatter(1, test.y[:, None], own)
        above, equal = (score > own).sum(1), (score == own).sum(1)  # [M] each; an item equals itself
        name = f"next_item[l2={self.penalty:g}]"
        found = {}
        for kind, gain in (
            ("hr", torch.ones(score.shape[1])),
            ("ndcg", 1 / torch.arange(2, score.shape[1] + 2).log2()),
        ):
            total = torch.cat([torch.zeros(1), gain]).double().cumsum(0)  # [V + 1]: of the first ranks
            for k in self.ks:
                gained = total[(above + equal).clamp(max=k)] - total[above.clamp(max=k)]  # [M]
                found[f"{name}/{kind}@{k}"] = 100 * float((gained / equal).mean())
        return found


def items_of(train: Frozen, test: Frozen) -> int:
    """V: one more than the greatest number of an item that is known."""
    greatest = [int(part.y.max()) for part in (train, test)]
    greatest += [int(part.rows.max()) - 1 for part in (train, test) if part.rows is not None]
    return 1 + max(greatest)


def readout(train: Frozen, x: Tensor, penalty: float, items: int) -> Tensor:
    """Scores of all items at features [M, D]: [M, V] float64."""
    mean, std = moments(train.x)  # [D] each
    z, at = ((part.double() - mean) / std for part in (train.x.float(), x.float()))  # [N, D], [M, D]
    centre = z.mean(0)  # [D]
    share = train.y.bincount(minlength=items) / len(train.y)  # [V]
    right = torch.zeros(items, z.shape[1], dtype=torch.float64).index_add_(0, train.y, z - centre).T / len(z)  # [D, V]
    system = (z - centre).T @ (z - centre) / len(z)  # [D, D]
    system.diagonal().add_(penalty)
    return (at - centre) @ torch.cholesky_solve(right, torch.linalg.cholesky(system)) + share
