"""Netlists of circuits, drawn from a seed, no files and no network: how much capacitance does a net have?

A circuit is a random tree of nets, pins and devices. A device hangs with one pin on a net that exists, the likelier the
more pins that has (Barabasi and Albert, Emergence of Scaling in Random Networks, Science 1999), and begins a net with
each further one; so a few nets have very many pins, and the numbers have a long tail. The capacitance of a net is what
its wire and the gates of its devices bring, as a parasitic estimation has to tell from the netlist alone.

n nodes: the nets, which are the samples, and behind them pins and devices.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Positive, Seed, Several, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.graphs.base import Whole, both_ways
from ssl_framework.types import step_seed

DEVICES = {"resistor": (2, 0.4), "capacitor": (2, 5.0), "diode": (2, 1.0), "transistor": (3, 2.0)}
"""Kind -> pins, and what each brings to its net at size 1, in femtofarad."""

FEATURES = 4 + len(DEVICES)
"""One for nets, pins and devices each, one for each kind of device, and the logarithm of its size."""


class Tree(NamedTuple):
    """Which pins there are."""

    kind: Tensor  # [d] int64: of each device
    net: Tensor  # [p] int64: which each pin is on
    device: Tensor  # [p] int64: which it belongs to


@guarded
class Netlists:
    """Nets of random circuits; those of one split are of other circuits than those of the other.

    Args:
        num_train, num_test: nets.
        nets: of a circuit; the last one of a split may have fewer.
        spread: standard deviation of the logarithm of a device's size.
        wire: femtofarad of a wire to one further pin.
        noise: standard deviation of what is added to every feature.
        label: "log_capacitance", a number in log femtofarad, or "class", the bin of it.
        num_classes: bins of equal width between the least and the greatest number of all nets.
        seed: of the drawing.

    Raises:
        ValueError: a number out of its range, or another label.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        nets: Several,
        spread: NonNegative,
        wire: Positive,
        noise: NonNegative,
        label: str,
        num_classes: Several,
        seed: Seed,
    ) -> None:
        if label not in ("log_capacitance", "class"):
            raise ValueError(f"data.source.label is {label}: choose log_capacitance or class")
        self.count = {"train": num_train, "test": num_test}
        self.nets = nets
        self.spread, self.wire, self.noise = spread, wire, noise
        self.label, self.num_classes = label, num_classes
        self.seed = seed
        self.drawn: tuple[Whole, Tensor] | None = None

    def load(self, split: str) -> Split:
        """[N] int64 numbers of nets with their number or class; ValueError for an unknown split."""
        check_split(split)
        capacitance = self.both()[1]  # [N_train + N_test]
        part = slice(self.count["train"], None) if split == "test" else slice(0, self.count["train"])
        number = torch.arange(len(capacitance))[part]  # [N]
        if self.label == "log_capacitance":
            return Split(number, capacitance[part])
        names = tuple(f"bin {k}" for k in range(self.num_classes))
        return Split(number, binned(capacitance, self.num_classes)[part], names)

    def graph(self) -> Whole:
        """Drawn when it is asked for first."""
        return self.both()[0]

    def both(self) -> tuple[Whole, Tensor]:
        """The graph, and the log capacitance of all nets [N_train + N_test]."""
        if self.drawn is None:
            self.drawn = self.draw()
        return self.drawn

    def draw(self) -> tuple[Whole, Tensor]:
        """Both, a function of the seed."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, 0))
        total = sum(self.count.values())
        tree = grown([*self.count.values()], self.nets, generator)
        pins, devices = len(tree.net), len(tree.kind)
        size = self.spread * torch.randn(devices, generator=generator)  # [d] logarithms
        brings = torch.tensor([farad for _, farad in DEVICES.values()])[tree.kind] * size.exp()  # [d]
        further = torch.tensor([count - 1 for count, _ in DEVICES.values()])[tree.kind]  # [d]
        each = brings[tree.device] + self.wire * further[tree.device]  # [p]
        capacitance = torch.full((total,), self.wire).index_add(0, tree.net, each).log()  # [N_train + N_test]
        sort = torch.cat([torch.full((n,), k) for k, n in enumerate((total, pins, devices))])  # [n]
        x = self.noise * torch.randn(len(sort), FEATURES, generator=generator)  # [n, F]
        x[:, :3] += torch.eye(3)[sort]
        x[total + pins :, 3:-1] += torch.eye(len(DEVICES))[tree.kind]
        x[total + pins :, -1] += size
        own = total + torch.arange(pins)  # [p]
        pairs = torch.cat([torch.stack([tree.net, own]), torch.stack([own, total + pins + tree.device])], dim=1)
        return Whole(x, both_ways(pairs, len(sort))), capacitance


def grown(counts: list[int], nets: int, generator: torch.Generator) -> Tree:
    """Trees of so many nets each, as many as give all the nets of every split, one split behind the other."""
    ends = [sum(counts[: k + 1]) for k in range(len(counts))]
    roots = [root for end, count in zip(ends, counts, strict=True) for root in range(end - count, end, nets)]
    kinds: list[int] = []
    net: list[int] = []
    device: list[int] = []
    numbers = [pins for pins, _ in DEVICES.values()]
    for root, stop in zip(roots, [*roots[1:], ends[-1]], strict=True):
        draws = torch.rand(2, stop - root, generator=generator, dtype=torch.float64).tolist()
        there, made = [root], root + 1  # every net once for each of its pins, and the first one once more
        for where, which in zip(*draws, strict=True):
            if made >= stop:
                break
            kind = int(which * len(numbers))
            new = range(made, min(made + numbers[kind] - 1, stop))
            on = [there[int(where * len(there))], *new]
            net += on
            device += [len(kinds)] * len(on)
            kinds.append(kind)
            there += on
            made += len(new)
    return Tree(torch.tensor(kinds).long(), torch.tensor(net).long(), torch.tensor(device).long())


def binned(numbers: Tensor, bins: int) -> Tensor:
    """The bin of each number, all of equal width from the least to the greatest: [N] -> [N] int64."""
    low, high = numbers.min(), numbers.max()
    return ((numbers - low) / (high - low).clamp(min=1e-12) * bins).long().clamp(max=bins - 1)
