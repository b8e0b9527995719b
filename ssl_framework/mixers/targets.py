"""What a mixture is to be recognised as: the one place where targets are made of the record of a mix.

B samples of this rank, W ranks, P sources of a mixture.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.distributed import rank, world_size
from ssl_framework.types import Mix


def targets(mix: Mix) -> Tensor:
    """[B, W * B] float32, rows sum to one: the share of every sample of the global batch in each mixture."""
    count = len(mix.source)
    everyone = torch.arange(world_size() * count, device=mix.source.device)  # [W * B]
    shown = (rank() * count + mix.source)[..., None] == everyone  # [B, P, W * B]
    return (mix.share[..., None] * shown).sum(dim=1)  # [B, W * B]: equal sources add up


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """How much two mixtures have in common: the sum over samples of the lesser of both shares.

    Args:
        a, b: [N, K] and [M, K], shares of K samples.

    Returns:
        [N, M] in [0, 1]; 1 for equal mixtures.
    """
    return torch.stack([torch.minimum(row, b).sum(dim=1) for row in a])  # [N, M]; [M, K] at a time


def common_targets(a: Mix, b: Mix) -> Tensor:
    """[B, W * B], rows sum to one: what each mixture of ``a`` has in common with every mixture of ``b`` of the global
    batch, in proportion to ``overlap``.

    The sources of a mixture are of its own rank, so it has nothing in common with mixtures of other ranks. If it has
    nothing in common with any, its row names the mixture that stands in its own place.
    """
    own, other = (targets(mix).chunk(world_size(), dim=1)[rank()] for mix in (a, b))  # [B, B] each
    common = overlap(own, other)  # [B, B]
    total = common.sum(dim=1, keepdim=True)  # [B, 1]
    rows = torch.where(total > 0, common / total, torch.eye(len(common), device=common.device, dtype=common.dtype))
    return among_all(rows)  # [B, W * B]


def among_all(rows: Tensor) -> Tensor:
    """Shares of this rank's samples as shares of those of all ranks: [B, B] -> [B, W * B]."""
    return F.pad(rows, (rank() * len(rows), (world_size() - 1 - rank()) * len(rows)))


def class_targets(mix: Mix | None, label: Tensor, num_classes: int) -> Tensor:
    """[B, num_classes] float32, rows sum to one: the share of every class in each mixture, or in each clean sample.

    Args:
        mix: what was mixed; ``None``: nothing.
        label: [B] int64 in 0..num_classes-1.
        num_classes: of the classifier.
    """
    # Not F.one_hot, which reads the labels back to check them.
    classes = (label[:, None] == torch.arange(num_classes, device=label.device)).float()  # [B, num_classes]
    return classes if mix is None else (mix.share.to(classes.dtype)[..., None] * classes[mix.source]).sum(dim=1)


def number_targets(mix: Mix | None, label: Tensor) -> Tensor:
    """[B] mean of the sources' numbers by their shares; ``label`` [B] of a floating dtype."""
    return label if mix is None else (mix.share.to(label.dtype) * label[mix.source]).sum(dim=1)
