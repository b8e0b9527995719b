"""Pure functions that several objectives share. No state, no randomness of their own."""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it came so: softmaxes over similarities are never taken in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def unit(x: Tensor) -> Tensor:
    """Rows of length one: [..., D] -> [..., D]; a zero row stays zero."""
    return F.normalize(full_precision(x), dim=-1)


def info_nce(positive: Tensor, negatives: Tensor, positive_in_denominator: bool = True) -> Tensor:
    """Softmax cross-entropy of one positive logit against negative logits (van den Oord et al., arXiv:1807.03748).

    Args:
        positive: [N] similarity to the positive, already divided by the temperature.
        negatives: [N, M] similarities to the negatives, likewise; ``-inf`` leaves an entry out.
        positive_in_denominator: ``False`` gives the decoupled form (DCL, arXiv:2110.06848, eq. 6), which can be
            negative.

    Returns:
        [N] loss per anchor.
    """
    logits = torch.cat([positive[:, None], negatives], dim=1) if positive_in_denominator else negatives  # [N, 1 + M]
    return logits.logsumexp(dim=1) - positive  # [N]


def nce(
    anchors: Tensor,
    keys: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    exclude: Tensor | None = None,
    positive_in_denominator: bool = True,
) -> Tensor:
    """Softmax cross-entropy of anchors against keys: the core that NT-Xent, SupCon, DCL and soft targets share.

    ``loss_i = -sum_j targets_ij s_ij / temperature + log sum_{j allowed} exp(s_ij / temperature)``

    Args:
        anchors: [N, D] unit rows.
        keys: [M, D] unit rows.
        targets: [N] int64, the column of the one positive, or [N, M] float with rows that sum to one.
        temperature: a number, or [N] for one per anchor.
        exclude: [N, M] bool, columns left out of the denominator (an anchor's own row, say).
        positive_in_denominator: ``False`` leaves the positives out as well (decoupled).

    Returns:
        [N] loss per anchor.
    """
    logits = full_precision(anchors @ keys.T)  # [N, M]
    logits = logits / (temperature[:, None] if isinstance(temperature, Tensor) and temperature.ndim else temperature)
    if targets.ndim == 1:
        positive = logits.gather(1, targets[:, None]).squeeze(1)  # [N]
        is_positive = F.one_hot(targets, keys.shape[0]).bool() if not positive_in_denominator else None  # [N, M]
    else:
        positive = (targets * logits).sum(dim=1)  # [N]
        is_positive = targets > 0  # [N, M]
    if exclude is not None:
        logits = logits.masked_fill(exclude, float("-inf"))
    if not positive_in_denominator and is_positive is not None:
        logits = logits.masked_fill(is_positive, float("-inf"))
    return logits.logsumexp(dim=1) - positive  # [N]


def hardest(q: Tensor, rows: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` rows most similar to each query, most similar first: [B, D], [K, D] -> [B, count].

    Similarities are taken in float32 whatever the inputs: in half precision ties would reorder the list.
    """
    return (full_precision(q.detach()) @ full_precision(rows).T).topk(count, dim=1).indices  # [B, count]


def alignment(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of positives (Wang & Isola, arXiv:2005.10242): two [N, D] of unit rows -> scalar."""
    return (a - b).square().sum(dim=1).mean()


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential over unordered pairs (arXiv:2005.10242): [N, D] of unit rows -> scalar."""
    return torch.pdist(x).square().mul(-t).exp().mean().log()
