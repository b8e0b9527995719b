"""GenView: Li et al., GenView: Enhancing View Quality with Pretrained Generative Model for Self-Supervised Learning,
ECCV 2024 (arXiv:2403.12003), its quality-driven loss.

One view shows a generated image of the sample. A pair counts the more, the more alike its foregrounds are and the less
alike its backgrounds: ``q_i = exp(gamma (s_f - s_b))``, weights q_i over the mean of all pairs of the global batch.

B samples of this rank, V views, N places of a map, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, guarded
from ssl_framework.distributed import gather
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.siamese import Host, checked
from ssl_framework.types import Batch, Clock, Outputs

STEPS = 30
"""Of the power iteration that finds the first principal axis."""


@guarded
class GenView(Objective):
    """A host's loss of each pair, weighed by the quality of the pair; the mean over the directions.

    Args:
        host: SimCLR or BYOL, whose student encodes both views; its own sum over two directions becomes a mean.
        gamma: how much quality counts; 0: every pair as much.
        features: of the student, the map that foreground and background are read from: "map", or "tokens" of a ViT.

    Logs what the host logs of the pairs as they are, and the least and the greatest weight.
    """

    def __init__(self, host: Host, gamma: NonNegative, features: str = "map") -> None:
        super().__init__()
        self.host = checked(host)
        self.requires = host.requires
        self.reads, self.teacher_reads = (*host.reads, features), host.teacher_reads
        self.gamma = gamma
        self.features = features

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the student has no maps of both views."""
        views = [view for view in student if view is not None]
        if len(views) != len(student) or any(self.features not in view for view in views):
            raise ValueError(
                f"GenView reads {self.features} of both views of the student, which this run lacks: choose a host "
                "whose student encodes both, data.micro_batch_size=null, and objective.features=tokens for a ViT"
            )
        parts = self.host.siamese(student, teacher)  # first: the call may push keys
        out = self.host(student, teacher, batch, clock)
        weight = weights(*likeness(*(places(view[self.features].detach()) for view in views)), self.gamma)  # [B]
        costs = [
            parts.cost(unit(view[parts.asks]), key)
            for view, key in zip(views, reversed(parts.keys), strict=True)
            if key is not None
        ]  # of [B], one a direction
        loss = torch.stack([(weight.to(cost.dtype) * cost).mean() for cost in costs]).mean()
        seen = {"weight_min": weight.min(), "weight_max": weight.max()}
        return {**out, "loss": loss, "host_loss": out["loss"], **seen}


def weights(foreground: Tensor, background: Tensor, gamma: float) -> Tensor:
    """``W B q_i / sum q`` over the pairs of all ranks, with ``q = exp(gamma (s_f - s_b))``: two [B] -> [B]."""
    quality = torch.exp(gamma * (foreground - background))  # [B]
    return quality / gather(quality).mean()


def likeness(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of the foregrounds and of the backgrounds of two views: [B, N, D] and [B, M, D] -> [B] and [B].

    The projection on the first principal axis of all places of both views says how much a place is foreground, from 0
    to 1 in every picture. Its sign is the one that goes with the size of the features: where there is more activity.
    """
    every = torch.cat([a.flatten(0, 1), b.flatten(0, 1)])  # [B (N + M), D]
    centre = gather(every.mean(dim=0, keepdim=True)).mean(dim=0)  # [D]
    centred = every - centre  # [B (N + M), D]
    spread = gather((centred.T @ centred / len(every))[None]).mean(dim=0)  # [D, D]
    axis = spread[:, spread.diagonal().argmax(dim=0, keepdim=True)][:, 0]  # [D]
    for _ in range(STEPS):
        axis = F.normalize(spread @ axis, dim=0)
    along, size = centred @ axis, centred.norm(dim=1)  # [B (N + M)] each
    sign = gather((along * (size - size.mean())).mean()[None]).mean().sign()
    pooled = []
    for x in (a, b):
        level = (x - centre) @ axis * sign  # [B, N]
        low, high = level.amin(dim=1, keepdim=True), level.amax(dim=1, keepdim=True)  # [B, 1] each
        front = (level - low) / (high - low).clamp(min=1e-6)  # [B, N] in [0, 1]
        pooled.append([(part[..., None] * x).sum(dim=1) for part in (front, 1 - front)])  # 2 x [B, D]
    (front_a, back_a), (front_b, back_b) = pooled
    return F.cosine_similarity(front_a, front_b, dim=1), F.cosine_similarity(back_a, back_b, dim=1)


def places(x: Tensor) -> Tensor:
    """A map [B, D, h, w], tokens [B, N, D] or one vector [B, D] as places: [B, N, D]."""
    if x.ndim == 4:
        return x.flatten(2).transpose(1, 2)
    return x if x.ndim == 3 else x[:, None]
