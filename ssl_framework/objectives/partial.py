"""What objectives share that read some labels: -1 stands for a class that is not told.

B samples of this rank, W ranks, N rows of this rank, D dimensions.
"""

import torch
from torch import Tensor

from ssl_framework.distributed import gather, gather_with_grad, mean_of, rank
from ssl_framework.functional import SameClass, class_sums, nce


def labelled_supcon(z: Tensor, label: Tensor, temperature: float) -> Tensor:
    """SupCon (arXiv:2004.11362, eq. 2) among the labelled rows of all ranks, the mean over those with a positive.

    Args:
        z: [N, D] unit rows of this rank, all views.
        label: [N] int64, -1: neither anchor nor key.
    """
    keys, classes = gather_with_grad(z), gather(label)  # [W * N, D], [W * N]
    own = rank() * len(z) + torch.arange(len(z), device=z.device)  # [N]
    itself = own[:, None] == torch.arange(len(keys), device=z.device)  # [N, W * N]
    count = class_sums(torch.empty(len(keys), 0, device=z.device), classes, label)[1] - 1  # [N] positives
    counts = (label >= 0) & (count > 0)  # [N]
    exclude = (itself | (classes < 0)) & counts[:, None]  # [N, W * N]; a row that does not count keeps its columns
    per_anchor = nce(z, keys, SameClass(label, classes, own), temperature, exclude=exclude)  # [N]
    return mean_of(per_anchor, counts)
