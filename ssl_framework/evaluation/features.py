"""Features of a frozen encoder, extracted once an evaluation, and the protocols of what reads them."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.data.base import Split
from ssl_framework.data.loader import ahead, chosen
from ssl_framework.data.residence import free_memory
from ssl_framework.distributed import gather, rank, world_size
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.views.base import ViewMaker


class Bare(nn.Module):
    """What evaluators read of an ``SSLModule``: a student, and the transform of clean samples.

    Args:
        views: of which only what knows no randomness is used.
        student: the encoder, usually without heads.
    """

    def __init__(self, views: ViewMaker, student: Encoder) -> None:
        super().__init__()
        self.views = views
        self.student = student

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.student.parameters()).device


CHUNK_VALUES = 128 * 3 * 32 * 32
"""Numbers (of pictures pixels times channels) that go through the encoder at once on the CPU, whose caches hold no
more."""


CHUNK_VALUES_GPU = 16 * CHUNK_VALUES


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Frozen(NamedTuple):
    """Features of one split."""

    x: Tensor  # [N, D] float32 or bfloat16, not normalised
    y: Tensor  # [N] int64 classes, or float32 numbers; None for a measure of data without labels
    rows: Tensor | None = None  # [N, ...] the samples as the source has them, where they lie in memory


class Accuracy(float):
    """Percent of ``count`` test samples, each scored once, of which ``right`` were answered right."""

    right: int
    count: int

    def __new__(cls, right: int, count: int) -> "Accuracy":
        self = super().__new__(cls, 100 * right / count)
        self.right, self.count = right, count
        return self

    def __reduce__(self) -> tuple[type["Accuracy"], tuple[int, int]]:
        return Accuracy, (self.right, self.count)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % percentile bootstrap interval over test samples, percent: how far the value may be from that on
        other test samples of the same kind. It says nothing of other seeds of the training.

        Drawing the ``count`` samples anew, with replacement, and counting the right ones is a binomial draw, so the
        quantiles of infinitely many resamples are those of the binomial distribution (Efron, Annals of Statistics 1979,
        section 2, has the one-sample case). Cost: none.
        """
        from scipy.stats import binom  # slow to import

        low, high = binom.ppf((0.025, 0.975), self.count, self.right / self.count)
        return 100 * float(low) / self.count, 100 * float(high) / self.count


class Splits(NamedTuple):
    """What is fitted on and what is scored."""

    train: Split
    test: Split

    @property
    def has_labels(self) -> bool:
        """Whether probes can run."""
        return self.train.label is not None and self.test.label is not None


class Probe(Protocol):
    """Fits on the features of train, scores those of test; returns metric name (with its protocol) -> percent, or
    for numbers the units of ``regression``. Where every test sample is scored once the value is an ``Accuracy``."""

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]: ...


@runtime_checkable
class KnowsChance(Protocol):
    """A probe that says what random answers would score."""

    def chance(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """By the labels [N] and [M] of both splits: metric name -> value."""
        ...


@runtime_checkable
class KnowsReferences(Protocol):
    """A probe that says what answers score which read no features."""

    def references(self, train: Frozen, test: Frozen) -> dict[str, dict[str, float]]:
        """By labels and samples of both splits, whose features are empty: name, such as "chance" -> metric -> value."""
        ...


class Measure(Protocol):
    """Describes the features of train, whose ``y`` is ``None`` without labels; returns metric name -> value."""

    def __call__(self, train: Frozen) -> dict[str, float]: ...


class Readout(NamedTuple):
    """A linear classifier that was trained with the features."""

    weight: Tensor  # [classes, D] float32
    bias: Tensor  # [classes] float32

    def logits(self, x: Tensor) -> Tensor:
        """Class scores of features [M, D]: [M, classes] float32."""
        return F.linear(x.float(), self.weight, self.bias)


class HeadProbe(Protocol):
    """Judges a classifier that the student has trained itself; returns metric name -> value."""

    def __call__(self, train: Frozen, test: Frozen, readout: Readout) -> dict[str, float]: ...


@torch.no_grad()
def extract(
    embed: Callable[[Tensor], Tensor],
    split: Split,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Features of all samples in their order, each computed on exactly one rank.

    Args:
        embed: raw samples [B, ...] -> [B, D].
        split: N samples.
        device: where ``embed`` runs.
        dtype: of the features.

    Returns:
        [N, D] on the CPU, the same on every rank.
    """
    rows = split.rows
    total, ranks = len(rows), world_size()
    share = -(-total // ranks)  # rounded up; the rows that pad the last rank are cut off below
    mine = torch.arange(rank() * share, (rank() + 1) * share).clamp(max=total - 1)  # [share]
    chunk = samples_at_once(split, device)
    read = ahead(chosen(rows, index.to(rows.device)) for index in mine.split(chunk))  # while the encoder is busy
    parts = [embed(part.to(device)).to(dtype) for part in read]
    return gather(torch.cat(parts))[:total].cpu()  # [N, D]


def refuse_non_finite(x: Tensor, what: str, split: str) -> Tensor:
    """``x`` itself, features of N samples, [N, ...].

    A probe would take rows of NaN for an answer like any other: its score looks like chance.

    Args:
        what: the layer in words, such as "the backbone's features".
        split: the samples' split, "train" or "test".

    Raises:
        ValueError: a number is not finite.
    """
    bad = int((~x.flatten(1).isfinite().all(dim=1)).sum())
    if bad:
        raise ValueError(
            f"{what} of {bad:,} of the {len(x):,} samples of the {split} split are not finite, so nothing is scored: "
            "choose weights (run=, backbone=) and data without NaN and infinity, or evaluation.features=float32"
        )
    return x


def samples_at_once(split: Split, device: torch.device | str) -> int:
    """How many of them go through an encoder on ``device`` at once, at least 1."""
    values = CHUNK_VALUES if torch.device(device).type == "cpu" else CHUNK_VALUES_GPU
    return max(1, values // split.values_each)


def extract_frozen(module: SSLModule | Bare, split: Split, dtype: torch.dtype = torch.float32) -> Tensor:
    """Features of the student's backbone on clean samples in eval mode, [N, D] ``dtype``; the modes are restored."""
    return extract_in_eval(module, module.student.embed, split, dtype)


def extract_layers(
    module: SSLModule | Bare, split: Split, heads: Sequence[str], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """As ``extract_frozen``, and the outputs of every layer of some heads, in the same pass.

    Returns:
        "" for the backbone's features, "<head>.<number>" for the layers, each [N, D] ``dtype``.
    """
    widths: dict[str, int] = {}

    def embed(x: Tensor) -> Tensor:
        layers = module.student.embed_layers(x, heads)
        widths.update({name: layer.shape[1] for name, layer in layers.items()})
        return torch.cat(list(layers.values()), dim=1)  # [B, sum of the widths]

    joint = extract_in_eval(module, embed, split, dtype)  # [N, sum of the widths]
    return dict(zip(widths, joint.split(list(widths.values()), dim=1), strict=True))


@torch.no_grad()
def extract_in_eval(
    module: SSLModule | Bare,
    embed: Callable[[Tensor], Tensor],
    split: Split,
    dtype: torch.dtype,
    modality: str | None = None,
) -> Tensor:
    """Features that ``embed`` computes from clean samples [B, ...] while the module is in eval mode: [N, D].

    The samples are of that modality; ``None``: the main one.
    """
    with in_eval_mode(module), torch.autocast(module.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return extract(lambda x: embed(module.views.clean(x, modality)), split, module.device, dtype)


@contextlib.contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """The module in eval mode; afterwards every part is in the mode that it was in."""
    modes = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        yield
    finally:
        for name, part in module.named_modules():
            part.training = modes[name]


def plain(scores: Mapping[str, float]) -> dict[str, float]:
    """The values alone, as checkpoints and JSON hold them."""
    return {name: float(value) for name, value in scores.items()}


def intervals(scores: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Metric -> its 95 % interval over test samples, percent, for those that are an ``Accuracy``."""
    return {name: value.interval for name, value in scores.items() if isinstance(value, Accuracy)}


def raw_input(views: ViewMaker, split: Split) -> Tensor:
    """[N, D]: the samples as they are, such as pixels in [0, 1], which a representation has to beat.

    Raises:
        ValueError: they do not fit in memory as float32.
    """
    size, free = 4 * math.prod(split.shape), free_memory()
    if size > free:
        raise ValueError(
            f"the baseline on {views.raw_name.replace('_', ' ')} needs {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB of "
            "memory are free: set evaluation.baselines=false"
        )
    rows = split.rows
    if not isinstance(rows, Tensor):
        rows = rows[torch.arange(len(rows))]  # [N, ...]
    return views.raw(rows)
