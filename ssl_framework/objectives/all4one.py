"""All4One: Estepa et al., All4One: Symbiotic Neighbour Contrastive Learning via Self-Attention and Redundancy
Reduction, ICCV 2023 (arXiv:2303.09417).

Three terms: the nearest neighbour of a teacher's key has to find the prediction of the other view (NNCLR); what a small
transformer makes of several neighbours has to find what it makes of them with the prediction in the first one's place;
and the features of both views are to be equal and not redundant (Barlow Twins' aim, by columns).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, NonNegative, Positive, Several, guarded
from ssl_framework.distributed import gather, gather_with_grad
from ssl_framework.functional import hardest, unit
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.nnclr import find_prediction
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class All4One(Objective):
    """Neighbour, attention and feature term; each of the first two is the mean of both directions.

    Args:
        temperature: tau of the neighbour term.
        attention_temperature: tau of the attention term.
        neighbours: how many form a sequence.
        transformer: turns sequences [B, neighbours, D] into sequences.
        queue: the support set. The teacher's keys of the first view enter it.
        weights: of the neighbour, the attention and the feature term.
        feature_scale: factor of the feature term beside its weight.
        projector: name of the head of student and teacher in whose space neighbours are sought.
        predictor: name of the head whose output is to be found.
        second_predictor: name of the head whose output takes the first neighbour's place.
    """

    requires = frozenset({"teacher"})

    def __init__(
        self,
        temperature: Positive,
        attention_temperature: Positive,
        neighbours: Several,
        transformer: nn.Module,
        queue: Queue,
        weights: tuple[NonNegative, NonNegative, NonNegative],
        feature_scale: Positive,
        projector: str = "projector",
        predictor: str = "predictor",
        second_predictor: str = "second_predictor",
    ) -> None:
        super().__init__()
        if neighbours > queue.size:
            raise ValueError(
                f"objective.neighbours is {neighbours}, but objective.queue.size is {queue.size}: lower the first"
            )
        self.temperature = temperature
        self.attention_temperature = attention_temperature
        self.neighbours = neighbours
        self.transformer = transformer
        self.queue = queue
        self.weights = tuple(weights)
        self.feature_scale = feature_scale
        self.reads, self.teacher_reads = (projector, predictor, second_predictor), (projector,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z, p, second = (outputs_of(student, head) for head in self.reads)  # 2 x [B, D] each
        keys = [unit(k) for k in outputs_of(teacher, self.teacher_reads[0])]  # 2 x [B, D]
        support = self.queue.read()  # [K, D]
        near = [support[hardest(k, support, self.neighbours)[0]] for k in keys]  # 2 x [B, neighbours, D]
        self.queue.push(keys[0])
        centres = [self.attend(n) for n in near]  # 2 x [B, D]
        shifted = [self.attend(torch.cat([x[:, None], n[:, :-1]], dim=1)) for x, n in zip(second, near, strict=True)]
        both = [find_prediction(near[a][:, 0], unit(p[1 - a]), self.temperature) for a in (0, 1)]  # 2 x [B]
        fused = [find_prediction(unit(centres[a]), unit(shifted[1 - a]), self.attention_temperature) for a in (0, 1)]
        neighbour, attention = torch.stack(both).mean(), torch.stack(fused).mean()
        feature = self.feature_scale * redundancy(keys, z)
        loss = self.weights[0] * neighbour + self.weights[1] * attention + self.weights[2] * feature
        terms = {"neighbour_loss": neighbour, "attention_loss": attention, "feature_loss": feature}
        return {"loss": loss, **terms, "neighbour_similarity": (keys[0] * near[0][:, 0]).sum(dim=1).mean()}

    def attend(self, sequence: Tensor) -> Tensor:
        """What the transformer makes of the first of a sequence, whose places it is told: [B, L, D] -> [B, D]"""
        return self.transformer(sequence + positions(*sequence.shape[1:]).to(sequence))[:, 0]


@guarded
class Transformer(nn.TransformerEncoder):
    """Self-attention layers with feed-forward layers of twice the width: [B, L, D] -> [B, L, D].

    Args:
        dim: D, a multiple of ``num_heads``.
        depth: number of layers.
        num_heads: of each.
        dropout: probability, in [0, 1).
    """

    def __init__(self, dim: Count, depth: Count, num_heads: Count, dropout: BelowOne) -> None:
        if dim % num_heads:
            raise ValueError(f"objective.transformer.num_heads is {num_heads}: it must divide the width {dim}")
        layer = nn.TransformerEncoderLayer(dim, num_heads, 2 * dim, dropout, batch_first=True)
        super().__init__(layer, depth, enable_nested_tensor=False)


def positions(length: int, dim: int) -> Tensor:
    """Sines and cosines of the place at falling frequencies (arXiv:1706.03762, section 3.5): [length, dim]"""
    rates = torch.exp(-math.log(10000) * torch.arange(0, dim, 2) / dim)  # [dim / 2, rounded up]
    angles = torch.arange(length)[:, None] * rates  # [length, dim / 2]
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :dim]  # [length, dim]


def redundancy(keys: list[Tensor], z: list[Tensor]) -> Tensor:
    """Half the root mean squares of 1 - c_jj and of c_jk, j not k, over both directions, for c the products of columns
    of length one: 2 x [B, D] of the teacher and 2 x [B, D] of the student -> scalar, alike on all ranks."""
    columns = [F.normalize(gather(k), dim=0) for k in keys]  # 2 x [W * B, D]
    others = [F.normalize(gather_with_grad(x), dim=0) for x in z]  # 2 x [W * B, D]
    c = torch.stack([columns[0].T @ others[1], columns[1].T @ others[0]])  # [2, D, D]
    on, dim = c.diagonal(dim1=1, dim2=2), c.shape[1]  # [2, D]
    beside = (c - torch.diag_embed(on)).square().sum() / (2 * dim * max(1, dim - 1))
    return (torch.stack([(1 - on).square().mean(), beside]) + 1e-12).sqrt().mean()  # a root's slope at zero is infinite
