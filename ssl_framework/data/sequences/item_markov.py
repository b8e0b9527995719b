"""The default set of sequences: users who choose items, drawn from a seed in a second, no files and no network.

Items are of categories. A user likes some categories more than others and mostly stays in the one of the last item;
inside it an item is followed by one of its three successors, or by a popular one. So what comes next depends on the
taste of the user, which all parts of a history share, and on the last item, which they do not. Test users are others
than those of training.

N users, V items, C categories, T items of the longest history.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Interval, Len
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, NonNegative, Seed, Several, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.sequences.histories import LEAST, last_ends, windows
from ssl_framework.types import step_seed

FOLLOWING = (0.6, 0.3, 0.1)
"""Probability of each of the three successors of an item, where one of them is taken."""


@guarded
class ItemMarkov:
    """Histories of users.

    Args:
        num_train, num_test: users.
        items: V; item i, from 0 on, is of category i mod C.
        categories: C.
        length: L, the last items that a sample shows.
        history: [lo, hi], range of the items of a user.
        taste: how much more a user likes some categories than others: the standard deviation of log-probabilities.
        stay: probability of the same category as before; otherwise one is drawn by the user's taste.
        follow: inside the same category, probability of a successor of the last item; otherwise the item is drawn by
            its popularity, one over its rank.
        noise: probability of any item at all.
        prefixes: moments of every training user that a readout learns from.
        seed: of the drawing.

    Raises:
        ValueError: a number out of its range, or numbers that do not fit together.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        items: Annotated[int, Interval(ge=4, le=2**20)],
        categories: Count,
        length: Several,
        history: Annotated[Sequence[Annotated[int, Ge(LEAST)]], Len(2, 2)],
        taste: NonNegative,
        stay: Fraction,
        follow: Fraction,
        noise: Fraction,
        prefixes: Count,
        seed: Seed,
    ) -> None:
        if items < 4 * categories:
            raise ValueError(
                f"data.source.categories is {categories}, but there are {items} items: set it to at most {items // 4}, "
                "so that every item has three successors of its own category"
            )
        if history[0] > history[1]:
            raise ValueError(f"data.source.history is {list(history)}: give two whole numbers, lo <= hi")
        self.count = {"train": num_train, "test": num_test}
        self.items = items
        self.categories = categories
        self.length = length
        self.history = history[0], history[1]
        self.taste = taste
        self.stay = stay
        self.follow = follow
        self.noise = noise
        self.prefixes = prefixes
        self.seed = seed
        self.drawn: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        """[N, L] int64 with the next item as class; ValueError for an unknown split.

        Pretrain has one sample a training user, train ``prefixes`` of them, test one a test user.
        """
        check_split(split)
        if split not in self.drawn:
            name = "test" if split == "test" else "train"
            histories = self.draw(self.count[name], step_seed(self.seed, 0, 1 + (name == "test")))
            ends = last_ends(histories, 0, self.prefixes if split == "train" else 1)
            self.drawn[split] = Split(*windows(histories, ends, self.length), self.names())
        return self.drawn[split]

    def names(self) -> tuple[str, ...]:
        """Of the items."""
        return tuple(f"item {i} of category {i % self.categories}" for i in range(self.items))

    def draw(self, count: int, seed: int) -> list[Tensor]:
        """Histories [n] int64 of items from 1 on, of ``count`` users; a function of the seed."""
        order = torch.Generator().manual_seed(step_seed(self.seed, 0))  # of the items, alike for both splits
        generator = torch.Generator().manual_seed(seed)
        members = [torch.arange(c, self.items, self.categories) for c in range(self.categories)]
        members = [each[torch.randperm(len(each), generator=order)] for each in members]  # by popularity
        weight = torch.zeros(self.categories, self.items)  # [C, V]: what is drawn inside a category
        successors = torch.zeros(self.items, len(FOLLOWING), dtype=torch.int64)  # [V, 3]
        for category, each in enumerate(members):
            weight[category, each] = 1 / torch.arange(1, len(each) + 1)
            ring = each[torch.randperm(len(each), generator=order)]
            for step in range(len(FOLLOWING)):
                successors[ring, step] = ring.roll(-1 - step)
        taste = (self.taste * torch.randn(count, self.categories, generator=generator)).softmax(1)  # [N, C]

        def drawn(weights: Tensor) -> Tensor:
            return torch.multinomial(weights, 1, generator=generator)[:, 0]  # [N]

        def chance(share: float) -> Tensor:
            return torch.rand(count, generator=generator) < share  # [N]

        at = drawn(taste)  # [N]: categories
        found = [drawn(weight[at])]
        for _ in range(self.history[1] - 1):
            stays = chance(self.stay)
            at = torch.where(stays, found[-1] % self.categories, drawn(taste))
            next_one = successors[found[-1], drawn(torch.tensor(FOLLOWING).expand(count, -1))]  # [N]
            item = torch.where(stays & chance(self.follow), next_one, drawn(weight[at]))
            any_one = torch.randint(self.items, (count,), generator=generator)
            found.append(torch.where(chance(self.noise), any_one, item))
        whole = 1 + torch.stack(found, dim=1)  # [N, T]
        lengths = torch.randint(self.history[0], self.history[1] + 1, (count,), generator=generator)  # [N]
        return [row[:n] for row, n in zip(whole, lengths.tolist(), strict=True)]
