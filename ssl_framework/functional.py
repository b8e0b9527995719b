"""Pure functions that several objectives share. No state, no randomness of their own."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

TILE = 2**24
"""Similarities that exist at a time: 64 MiB in float32."""


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it came so: softmaxes over similarities are never taken in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def unit(x: Tensor) -> Tensor:
    """Rows of length one: [..., D] -> [..., D]; a zero row stays zero."""
    return F.normalize(full_precision(x), dim=-1)


def positions(x: Tensor) -> Tensor:
    """A map as one row a position, row after row: [B, D, h, w] -> [B, h * w, D]."""
    return x.flatten(2).transpose(1, 2)  # [B, h * w, D]


def bounded(log_variance: Tensor) -> Tensor:
    """Between -8 and 8: the likelihood of a code has no other bound where only its own spread is at stake."""
    return log_variance.clamp(-8.0, 8.0)


def as_constant(module: nn.Module, *inputs: Any) -> Any:
    """What a module makes of inputs, with gradient for these and none for its own parameters: how two parts learn in
    one step, each as if the other were constant."""
    fixed = {name: p.detach() for name, p in module.named_parameters()}
    return functional_call(module, fixed, inputs)


class Mixture(NamedTuple):
    """Targets with a few columns an anchor: rows of a sparse row-stochastic matrix."""

    columns: Tensor  # [N, P] int64, no column twice in a row
    share: Tensor  # [N, P], rows sum to one


class SameClass(NamedTuple):
    """All other keys of the anchor's class: as targets, with equal shares; or as keys to leave out."""

    anchor: Tensor  # [N] int64 class of each anchor
    key: Tensor  # [M] int64 class of each key
    own: Tensor | None = None  # [N] int64 column of the anchor itself, which is no target; ``None``: not among the keys


Targets: TypeAlias = Tensor | Mixture | SameClass


def nce(
    anchors: Tensor,
    keys: Tensor,
    targets: Targets,
    temperature: float | Tensor,
    exclude: Tensor | None = None,
    positive_in_denominator: bool = True,
) -> Tensor:
    """Softmax cross-entropy of anchors against keys: the core that NT-Xent, SupCon, DCL and soft targets share.

    ``loss_i = -sum_j targets_ij s_ij / temperature + log sum_{j allowed} exp(s_ij / temperature)``

    Extra memory grows with N + M, not with N x M (see ``log_sum_exp``), except for what is itself given as [N, M].

    Args:
        anchors: [N, D] unit rows.
        keys: [M, D] unit rows.
        targets: [N] int64, the column of the one positive; ``Mixture``; ``SameClass``; or [N, M] float with rows that
            sum to one.
        temperature: a number, or [N] for one per anchor.
        exclude: columns left out of the denominator (an anchor's own row, say): [N] or [N, E] int64, or [N, M] bool.
        positive_in_denominator: ``False`` leaves the positives out as well (decoupled).

    Returns:
        [N] loss per anchor.
    """
    anchors, keys = full_precision(anchors), full_precision(keys)
    # Inner products are linear: the target-weighted similarity is the similarity to the target-weighted key.
    positive = (anchors * target_keys(targets, keys)).sum(dim=1) / temperature  # [N]
    left_out: list[Tensor | SameClass] = [] if exclude is None else [exclude]
    if not positive_in_denominator:
        left_out.append(target_columns(targets))
    return log_sum_exp(anchors, keys, temperature, left_out)[0] - positive  # [N]


def target_keys(targets: Targets, keys: Tensor) -> Tensor:
    """The mean key of each anchor's targets: ``sum_j targets_ij keys_j``, [N, D]; zero where there is no target."""
    if isinstance(targets, Mixture):
        return (targets.share[..., None] * keys[targets.columns]).sum(dim=1)  # [N, D]
    if isinstance(targets, SameClass):
        total, count = class_sums(keys, targets.key, targets.anchor)  # [N, D], [N]
        assert targets.own is not None, "as targets, the keys contain the anchors"
        return (total - keys[targets.own]) / (count - 1).clamp(min=1)[:, None]  # [N, D]
    return keys[targets] if targets.ndim == 1 else targets.to(keys.dtype) @ keys  # [N, D]


def target_columns(targets: Targets) -> Tensor | SameClass:
    """Which columns are targets at all, in a form that ``log_sum_exp`` leaves out."""
    if isinstance(targets, Mixture):
        return targets.columns
    return targets if isinstance(targets, SameClass) or targets.ndim == 1 else targets > 0


def class_sums(rows: Tensor, classes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and number of the rows of each wanted class, in linear memory and without waiting for the device.

    Args:
        rows: [M, D].
        classes: [M] int64 class of each row.
        wanted: [N] int64 classes.

    Returns:
        [N, D] sums and [N] int64 counts.
    """
    order = classes.argsort(stable=True)  # [M]
    ordered = classes[order].contiguous()
    low, high = torch.searchsorted(ordered, wanted), torch.searchsorted(ordered, wanted, right=True)  # [N] each
    # Differences of running sums; scattered additions would come in another order each time on a GPU. In float64 the
    # cancellation costs nothing that a float32 result could show.
    sums = rows[order].double().cumsum(dim=0)  # [M, D]
    running = torch.cat((sums.new_zeros(1, sums.shape[1]), sums))  # [M + 1, D]; torch 2.9 pads no D of 0
    return (running[high] - running[low]).to(rows.dtype), high - low


def log_sum_exp(
    anchors: Tensor, keys: Tensor, temperature: float | Tensor, left_out: Sequence[Tensor | SameClass] = ()
) -> tuple[Tensor, Tensor]:
    """``log sum_j exp(anchors_i . keys_j / temperature)`` over the allowed columns, tile by tile.

    At most ``TILE`` similarities exist at a time, in the backward pass too, which computes them anew. With few of them
    (one tile) this is the dense form. Gradients reach anchors, keys and temperature, once.

    Args:
        anchors: [N, D].
        keys: [M, D], of the same dtype.
        temperature: a number, [] or [N].
        left_out: columns that do not count: [N] or [N, E] int64, [N, M] bool, or all keys of the anchor's class.

    Returns:
        [N] the sums (``-inf`` where every column is left out), and [N] the largest term, without gradient.
    """
    if not isinstance(temperature, Tensor):
        temperature = anchors.new_full((), temperature)
    temperature = temperature.to(anchors.dtype).expand(len(anchors))  # [N]
    return _LogSumExp.apply(anchors, keys, temperature, [as_columns(mask) for mask in left_out])


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchors, keys, temperature, masks):  # type: ignore[no-untyped-def]
        sums, largest = anchors.new_empty(len(anchors)), anchors.new_empty(len(anchors))  # [N] each
        for rows in tiles(len(anchors), len(keys)):
            logits = similarities(anchors, keys, temperature, masks, rows)  # [R, M]
            torch.amax(logits, dim=1, out=largest[rows])
            torch.logsumexp(logits, dim=1, out=sums[rows])
        ctx.save_for_backward(anchors, keys, temperature, sums)
        ctx.masks = masks
        ctx.mark_non_differentiable(largest)
        return sums, largest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        anchors, keys, temperature, sums = ctx.saved_tensors
        sums = sums.masked_fill(sums == float("-inf"), 0.0)  # a row without a column has no share, not 0 / 0
        weight = (grad / temperature)[:, None]  # [N, 1]
        weighted = anchors * weight  # [N, D]
        to_anchors, to_keys = torch.empty_like(anchors), torch.zeros_like(keys)  # [N, D], [M, D]
        to_temperature = torch.empty_like(temperature) if ctx.needs_input_grad[2] else None  # [N]
        for rows in tiles(len(anchors), len(keys)):
            logits = similarities(anchors, keys, temperature, ctx.masks, rows)  # [R, M]
            if to_temperature is None:
                share = logits.sub_(sums[rows, None]).exp_()  # [R, M] softmax
            else:
                share = torch.exp(logits - sums[rows, None])  # [R, M]
                to_temperature[rows] = (share * logits.masked_fill_(share == 0, 0.0)).sum(dim=1)
            torch.mm(share, keys, out=to_anchors[rows])
            to_keys.addmm_(share.T, weighted[rows])
        if to_temperature is not None:
            to_temperature.mul_(weight[:, 0]).neg_()
        return to_anchors.mul_(weight), to_keys, to_temperature, None


def tiles(num_anchors: int, num_keys: int) -> list[slice]:
    """Spans of anchors whose similarities to all keys are computed at once."""
    length = max(1, TILE // max(1, num_keys))
    return [slice(first, min(first + length, num_anchors)) for first in range(0, num_anchors, length)]


def similarities(
    anchors: Tensor, keys: Tensor, temperature: Tensor, masks: Sequence[Tensor | SameClass], rows: slice
) -> Tensor:
    """One tile of logits, ``-inf`` where left out: [R, M]."""
    logits = (anchors[rows] / temperature[rows, None]) @ keys.T  # [R, M]
    for mask in masks:
        if isinstance(mask, SameClass):
            logits.masked_fill_(mask.anchor[rows, None] == mask.key, float("-inf"))
        elif mask.dtype == torch.bool:
            logits.masked_fill_(mask[rows], float("-inf"))
        else:
            logits.scatter_(1, mask[rows], float("-inf"))
    return logits


def by_tiles(function: Callable[..., tuple[Tensor, ...]], keys: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
    """``function`` of all keys and a few rows at a time, for what ``log_sum_exp`` does not cover.

    At most ``TILE`` similarities exist at a time, in the backward pass too, which computes them anew. With few of them
    (one tile) this is ``function`` itself.

    Args:
        function: keys and R rows of each of ``rows`` -> tensors [R, ...]; it reads nothing else that has a gradient.
        keys: [M, D].
        rows: [N, ...] each.

    Returns:
        What ``function`` returns, [N, ...] each.
    """
    parts = tiles(len(rows[0]), len(keys))
    if len(parts) == 1:
        return function(keys, *rows)
    outputs = [_Recomputed.apply(function, keys, *(x[part] for x in rows)) for part in parts]
    return tuple(torch.cat(pieces) for pieces in zip(*outputs, strict=True))


class _Recomputed(torch.autograd.Function):
    """Keeps only the inputs of a function, which the backward pass runs again.

    As torch.utils.checkpoint, whose first use imports the compiler, which takes seconds.
    """

    @staticmethod
    def forward(ctx, function, *inputs):  # type: ignore[no-untyped-def]
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):  # type: ignore[no-untyped-def]
        needed = ctx.needs_input_grad[1:]
        inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad():
            outputs = ctx.function(*inputs)
        learnt = [(y, grad) for y, grad in zip(outputs, grads, strict=True) if y.requires_grad]
        ys, to_ys = zip(*learnt, strict=True)
        found = iter(torch.autograd.grad(ys, [x for x in inputs if x.requires_grad], to_ys))
        return None, *(next(found) if need else None for need in needed)


def hardest(q: Tensor, rows: Tensor, count: int, left_out: Sequence[Tensor | SameClass] = ()) -> tuple[Tensor, Tensor]:
    """The ``count`` rows most similar to each query, most similar first, without gradient.

    Similarities are taken in float32 whatever the inputs: in half precision ties would reorder the list. At most
    ``TILE`` of them exist at a time.

    Args:
        q: [N, D].
        rows: [K, D].
        count: at most K.
        left_out: as in ``log_sum_exp``; such rows come last.

    Returns:
        [N, count] int64 positions, and [N, count] similarities, ``-inf`` where left out.
    """
    q, rows = full_precision(q.detach()), full_precision(rows.detach())
    masks, one = [as_columns(mask) for mask in left_out], q.new_ones(len(q))
    found = [similarities(q, rows, one, masks, part).topk(count, dim=1) for part in tiles(len(q), len(rows))]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])  # [N, count] each


def left_out_columns(left_out: Sequence[Tensor | SameClass]) -> int:
    """How many columns are left out by number, for every anchor alike; masks and classes count as none."""
    numbers = [e for e in left_out if isinstance(e, Tensor) and e.dtype != torch.bool]
    return sum(1 if e.ndim == 1 else e.shape[1] for e in numbers)


def as_columns(left_out: Tensor | SameClass) -> Tensor | SameClass:
    """[N] int64 as [N, 1]; every other form as it is."""
    return left_out[:, None] if isinstance(left_out, Tensor) and left_out.ndim == 1 else left_out


def balanced(logs: Tensor, iterations: int) -> Tensor:
    """Sinkhorn's algorithm in logarithms, for what underflows otherwise: [..., N, M] whose exponentials sum to one over
    every row and then over every column, so that the columns are exact and the rows the better the more iterations."""
    for _ in range(iterations):
        logs = logs - logs.logsumexp(dim=-1, keepdim=True)  # [..., N, M]
        logs = logs - logs.logsumexp(dim=-2, keepdim=True)  # [..., N, M]
    return logs


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments of samples to prototypes that use all prototypes alike (SwAV, arXiv:2006.09882, eq. 3).

    Exact is the last normalisation, that of the samples; the prototypes are balanced the better the more iterations.

    Args:
        scores: [N, K] similarities of all samples that are balanced together, those of all ranks included.
        epsilon: of the entropy, above 0; scores that lie further apart than 87 epsilon underflow in float32.
        iterations: at least 1.

    Returns:
        [N, K] in float32 (float64 if the scores are), rows sum to one, without gradient.
    """
    scores = full_precision(scores.detach())
    # The maximum of a prototype cancels in its first normalisation. In place and not in logarithms: N x K is large.
    q = scores.sub(scores.amax(dim=0)).div_(epsilon).exp_()  # [N, K]
    for _ in range(iterations):
        q /= q.sum(dim=0)
        q /= q.sum(dim=1, keepdim=True)
    return q


class Clusters(NamedTuple):
    """Groups of rows."""

    centres: Tensor  # [K, D]
    assigned: Tensor  # [N] int64: the centre of each row


@torch.no_grad()
def kmeans(rows: Tensor, num_clusters: int, iterations: int, spherical: bool, generator: torch.Generator) -> Clusters:
    """Lloyd's algorithm from rows drawn at random, at most ``TILE`` similarities at a time.

    A centre that loses all rows stays where it is; with fewer rows than clusters several centres begin alike.

    Args:
        rows: [N, D], unit rows where ``spherical``.
        num_clusters: K.
        iterations: how often rows are assigned and centres moved; a last assignment follows.
        spherical: by cosines, and centres have length one; otherwise by Euclidean distances.
        generator: on the CPU, of the first centres.

    Returns:
        The same for the same rows and generator, in the rows' dtype.
    """
    first = torch.randperm(len(rows), generator=generator)[torch.arange(num_clusters) % len(rows)]  # [K]
    centres = rows[first.to(rows.device)]  # [K, D]
    which = torch.arange(num_clusters, device=rows.device)  # [K]
    assigned = nearest_centres(rows, centres)  # [N]
    for _ in range(iterations):
        sums, counts = class_sums(rows, assigned, which)  # [K, D], [K]
        means = unit(sums) if spherical else sums / counts.clamp(min=1)[:, None]  # [K, D]
        centres = torch.where(counts[:, None] > 0, means, centres)  # [K, D]
        assigned = nearest_centres(rows, centres)  # [N]
    return Clusters(centres, assigned)


def nearest_centres(rows: Tensor, centres: Tensor) -> Tensor:
    """The centre nearest to each row, of equally near ones the first: [N, D] and [K, D] -> [N] int64."""
    half = centres.square().sum(dim=1) / 2  # [K]; equal for unit centres, whose order is that of the cosines
    found = [(rows[part] @ centres.T - half).argmax(dim=1) for part in tiles(len(rows), len(centres))]
    return torch.cat(found)  # [N]


def drawn(shares: Tensor, draws: Tensor) -> Tensor:
    """A column of each row, by its shares: [B, M] and [B] in [0, 1) -> [B] int64."""
    limits = shares.double().cumsum(dim=1)  # [B, M]
    return torch.searchsorted(limits, draws[:, None].double() * limits[:, -1:], right=True)[:, 0]  # [B]


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of positives (Wang & Isola, arXiv:2005.10242): two [N, D] of unit rows -> scalar."""
    return (a - b).square().sum(dim=1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential over unordered pairs (arXiv:2005.10242): [N, D] of unit rows -> scalar."""
    return torch.pdist(x).square().mul(-t).exp().mean().log()


def tolerance(x: Tensor, label: Tensor) -> Tensor:
    """Mean over all ordered pairs, those of a row with itself among them, of the inner product where the classes are
    equal and of 0 where they are not (arXiv:2012.09740); so it falls with the number of classes.

    Args:
        x: [N, D] unit rows.
        label: [N] int64 class of each row.

    Returns:
        Scalar in [0, 1].
    """
    return (x * class_sums(x, label, label)[0]).sum() / len(x) ** 2
