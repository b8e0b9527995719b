"""MAE: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (arXiv:2111.06377), section 3; and
SimMIM: Xie et al., SimMIM: A Simple Framework for Masked Image Modeling, CVPR 2022 (arXiv:2111.09886), eq. 1.

The student sees some patches of an image and says the pixels of the others: MAE with a decoder and squared errors of
patches that may be normalised each by itself, SimMIM with a linear layer and absolute errors.

B samples, N patches, M numbers of a patch (rows, columns, channels, the channels innermost).
"""

import torch
from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.distributed import mean_of
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs


def patches_of(images: Tensor, count: int) -> Tensor:
    """The pixels of each patch: images [B, C, h, w] that are cut into N squares -> [B, N, M], in float32 at least."""
    height, width = images.shape[2:]
    side = round((height * width / count) ** 0.5)  # pixels
    rows, columns = height // side, width // side
    squares = full_precision(images)[:, :, : rows * side, : columns * side].unfold(2, side, side).unfold(3, side, side)
    return squares.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # [B, N, M], from [B, h, w, side, side, C]


def normalised(patches: Tensor) -> Tensor:
    """Each patch with mean 0 and unbiased variance 1, as the authors' code: [..., M] -> [..., M]"""
    return (patches - patches.mean(dim=-1, keepdim=True)) / (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


@guarded
class MAE(Objective):
    """Mean squared error of hidden patches.

    Args:
        norm_pix: targets are normalised patch by patch; leave that off where a patch has few numbers.
        head: name of the student's output that predicts pixels, [B, N, M].
    """

    requires = frozenset({"masks"})
    num_views = (1, None)

    def __init__(self, norm_pix: bool, head: str = "decoder") -> None:
        super().__init__()
        self.norm_pix, self.head = norm_pix, head
        self.reads = (head, "mask")
        self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        losses = []
        for view, images in zip(student, batch.views, strict=True):
            if view is None:
                continue
            target = patches_of(images, view["mask"].shape[1])  # [B, N, M]
            if self.norm_pix:
                target = normalised(target)
            errors = (view[self.head] - target).square().mean(dim=2)  # [B, N]
            losses.append(mean_of(errors, view["mask"]))
        return {"loss": torch.stack(losses).mean()}


@guarded
class SimMIM(Objective):
    """Mean absolute error of hidden patches.

    Args:
        head: name of the student's output that predicts pixels, [B, N, M].
    """

    requires = frozenset({"masks", "masked_tokens=replace"})
    num_views = (1, None)

    def __init__(self, head: str = "pixels") -> None:
        super().__init__()
        self.head = head
        self.reads = (head, "mask")
        self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        losses = []
        for view, images in zip(student, batch.views, strict=True):
            if view is None:
                continue
            errors = (view[self.head] - patches_of(images, view["mask"].shape[1])).abs().mean(dim=2)  # [B, N]
            losses.append(mean_of(errors, view["mask"]))
        return {"loss": torch.stack(losses).mean()}
