"""Hybrid Distillation: Shi et al., Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners, ICLR
2024 (arXiv:2306.15876), section 4.

The student's patches come to the features of one frozen teacher, which contrasts or was supervised, and the relations
among them in the last blocks to those of a second one, which was a masked autoencoder.

B samples, N patches, L last blocks, D features of the student, T of a teacher.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, PositiveFraction, guarded
from ssl_framework.functional import full_precision
from ssl_framework.models.patches import rows_at
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


def log_relations(x: Tensor) -> Tensor:
    """Logarithms of ``softmax(X X^T / sqrt(D))``, each patch with all: [..., N, D] -> [..., N, N]"""
    x = full_precision(x)
    return (x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5).log_softmax(dim=-1)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the relations, mean over patches: [..., N, D] and [..., N, T] -> scalar."""
    found, wanted = log_relations(student), log_relations(teacher)  # [..., N, N] each
    return (wanted.exp() * (wanted - found)).sum(dim=-1).mean()


def least_redundant(x: Tensor, count: int) -> Tensor:
    """Positions of the patches that are least like the mean patch, by cosine: [B, N, D] -> [B, n] int64."""
    alike = F.cosine_similarity(x, x.mean(dim=1, keepdim=True), dim=2)  # [B, N]
    return alike.topk(count, dim=1, largest=False).indices  # [B, n]


@guarded
class HybridDistillation(Objective):
    """Smooth L1 distance to the layer-normalised features of one teacher, and the other's relations.

    Differs: redundant patches are left out of the features' term, not of the student's later blocks; relations are
    those of the blocks' outputs, the paper's of queries, keys and values.

    Args:
        dim: D of the head.
        feature_weight, relation_weight: alpha and beta of the two terms.
        beta: below it the distance is squared.
        keep: share of the patches whose features are learnt, those least like the mean patch.
        head: name of the student's output that comes to the features, [B, N, D].
    """

    requires = frozenset({"teacher"})
    num_views = (1, None)

    def __init__(
        self,
        dim: Count,
        feature_weight: NonNegative,
        relation_weight: NonNegative,
        beta: Positive,
        keep: PositiveFraction,
        head: str = "patch_features",
    ) -> None:
        super().__init__()
        self.feature_weight, self.relation_weight = feature_weight, relation_weight
        self.dim, self.beta, self.keep, self.head = dim, beta, keep, head
        self.reads, self.teacher_reads = (head, "layers"), ("patches", "second.layers")
        self.token_reads = (head,)

    def meet(self, teacher: Mapping[str, int]) -> None:
        """Makes the regressor, D -> T of the first teacher."""
        self.regressor = nn.Linear(self.dim, teacher["patches"])

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        features, relations = [], []
        for seen, known, layers, wanted in zip(
            outputs_of(student, self.head),
            outputs_of(teacher, "patches"),
            outputs_of(student, "layers"),
            outputs_of(teacher, "second.layers"),
            strict=True,
        ):
            if not known.shape[1] == seen.shape[1] == wanted.shape[2] or layers.shape[1] != wanted.shape[1]:
                raise ValueError(
                    f"the student has {seen.shape[1]} patches and {layers.shape[1]} layers, its teachers "
                    f"{known.shape[1]} and {wanted.shape[2]} patches and {wanted.shape[1]} layers: give backbone and "
                    "teacher the same grid (options.patch_size) and last_layers"
                )
            where = least_redundant(seen.detach(), max(1, round(self.keep * seen.shape[1])))  # [B, n]
            target = F.layer_norm(full_precision(known), known.shape[2:])  # [B, N, T]
            found = rows_at(self.regressor(seen), where)  # [B, n, T]
            features.append(F.smooth_l1_loss(found, rows_at(target, where), beta=self.beta))
            relations.append(relation_loss(layers, wanted))
        feature, relation = torch.stack(features).mean(), torch.stack(relations).mean()
        loss = self.feature_weight * feature + self.relation_weight * relation
        return {"loss": loss, "feature_loss": feature.detach(), "relation_loss": relation.detach()}
