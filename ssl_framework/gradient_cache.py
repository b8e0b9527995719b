"""Batches larger than memory: encode in micro-batches, take the loss over the whole batch, replay (gradient caching;
Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv:2101.06983, section 3.3).

The activations of one micro-batch exist at a time. Every micro-batch goes through the encoder twice, so a step costs a
third more than undivided. Loss and gradient are those of the undivided batch for a network without batch statistics.
Batch normalisation takes its statistics from each micro-batch, as it does from each GPU's share of a batch.

Where anchors meet the outputs of a teacher alone, once is enough: the teacher encodes the whole batch, which costs no
activations, and the micro-batches of the student meet this window of keys one after another (``windowed_losses``).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.functional import full_precision
from ssl_framework.types import Outputs, step_seed

Encode = Callable[[list[Tensor]], list[Outputs | None]]
"""Views of some samples, V x [b, C, h_v, w_v] -> outputs of each view that is encoded."""


def cached_losses(
    encode: Encode,
    network: nn.Module,
    views: Sequence[Tensor],
    size: int,
    objective: Callable[[list[Outputs | None]], dict[str, Tensor]],
    objective_has_parameters: bool,
) -> dict[str, Tensor]:
    """The losses of a whole batch; the backward pass of "loss" gives the whole batch's gradient.

    Changes the gradients of ``network``: those of all micro-batches but the last are added at once, those of the last
    by the backward pass of the returned loss. So clear the gradients before, not between. Under
    ``DistributedDataParallel`` call it inside the wrapped forward, where gradients are not yet exchanged.

    Args:
        encode: with gradient; is called twice for every micro-batch, with the same random numbers.
        network: what ``encode`` runs, whose running statistics are to be updated once.
        views: V x [B, C, h_v, w_v].
        size: samples of a micro-batch.
        objective: outputs of the whole batch -> "loss" and what is logged. Only outputs of shape [B, D] are given.
        objective_has_parameters: whether parameters of the objective itself need a gradient.
    """
    seed = torch.initial_seed()
    parts = [list(part) for part in zip(*(view.split(size) for view in views), strict=True)]  # P x V x [b, C, h, w]

    def encode_part(number: int) -> list[Outputs | None]:
        torch.manual_seed(step_seed(seed, number))
        return [rows_only(view) for view in encode(parts[number])]

    with without_graph(), running_statistics_kept(network):
        outputs = together([encode_part(number) for number in range(len(parts))])
    leaves = [x.requires_grad_() for view in outputs if view is not None for x in view.values()]  # each [B, D]
    torch.manual_seed(step_seed(seed, len(parts)))
    losses = objective(outputs)
    with full_precision_backward(views[0]):
        grads = torch.autograd.grad(
            losses["loss"], leaves, retain_graph=objective_has_parameters, allow_unused=True
        )  # each [B, D] or None
    portions = zip(*(split_or_none(grad, size, len(parts)) for grad in grads), strict=True)
    surrogate = losses["loss"].new_zeros(())
    for number, portion in enumerate(portions):
        replayed = [x for view in encode_part(number) if view is not None for x in view.values()]
        used = [(x, grad) for x, grad in zip(replayed, portion, strict=True) if grad is not None]
        surrogate = torch.stack([(full_precision(x) * grad).sum() for x, grad in used]).sum()
        if number < len(parts) - 1:
            with full_precision_backward(views[0]):
                surrogate.backward()
    # The value of the loss, the gradient of the last micro-batch (and of the objective's own parameters).
    loss = losses["loss"] if objective_has_parameters else losses["loss"].detach()
    return {**losses, "loss": loss + (surrogate - surrogate.detach())}


def windowed_losses(
    encode: Encode,
    views: Sequence[Tensor],
    size: int,
    objective: Callable[[list[Outputs | None], slice], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The losses of a whole batch of which each sample needs no other one's outputs; every micro-batch goes through the
    encoder once. Value and gradient are those of ``cached_losses``, and the gradients come as they do there.

    Args:
        encode: with gradient; is called once for every micro-batch.
        views: V x [B, C, h_v, w_v].
        size: samples of a micro-batch.
        objective: outputs of the samples of a span, and the span -> "loss", their mean, and what is logged.
    """
    seed, count = torch.initial_seed(), len(views[0])
    found: list[dict[str, Tensor]] = []
    for number, part in enumerate(zip(*(view.split(size) for view in views), strict=True)):
        torch.manual_seed(step_seed(seed, number))
        outputs = encode(list(part))
        losses = objective(outputs, slice(number * size, number * size + len(part[0])))
        found.append({name: value * (len(part[0]) / count) for name, value in losses.items()})
        if (number + 1) * size < count:
            with full_precision_backward(views[0]):
                found[-1]["loss"].backward()
            found[-1]["loss"] = found[-1]["loss"].detach()
    return {name: torch.stack([losses[name] for losses in found]).sum() for name in found[0]}


@contextlib.contextmanager
def without_graph() -> Iterator[None]:
    """For a pass through a network whose parameters need a gradient later in the same step.

    Half-precision weights that autocast has cast without gradient would stay in its cache, where torch up to at least
    2.9 hands them to later passes, which then have none.
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


def full_precision_backward(like: Tensor) -> torch.autocast:
    """A backward pass takes the precision of its forward pass, as outside autocast, where Lightning has its own."""
    return torch.autocast(like.device.type, enabled=False)


def rows_only(view: Outputs | None) -> Outputs | None:
    """Without feature maps and tokens, which would not fit for a whole batch."""
    return None if view is None else {name: x for name, x in view.items() if x.ndim == 2}


def together(parts: list[list[Outputs | None]]) -> list[Outputs | None]:
    """The outputs of consecutive parts of a batch as those of the batch, [B, D] ones only."""
    whole: list[Outputs | None] = []
    for pieces in zip(*parts, strict=True):
        there = [piece for piece in map(rows_only, pieces) if piece is not None]
        whole.append({name: torch.cat([piece[name] for piece in there]) for name in there[0]} if there else None)
    return whole


def split_or_none(x: Tensor | None, size: int, count: int) -> Sequence[Tensor | None]:
    """Micro-batches of [B, D], or as many ``None``."""
    return [None] * count if x is None else x.split(size)


@contextlib.contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch normalisation leaves its running averages as they are; the replay updates them."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m, {name: buffer.clone() for name, buffer in m.named_buffers(recurse=False)}) for m in norms]
    try:
        yield
    finally:
        for m, buffers in kept:
            for name, buffer in buffers.items():
                m.get_buffer(name).copy_(buffer)
