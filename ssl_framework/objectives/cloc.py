"""CLOC: Chen et al., Contrastive Localized Language-Image Pre-Training, ICML 2025 (arXiv:2410.02746), section 3: its
loss of regions and texts, and the prompter that turns boxes into embeddings.

No data set here has captions of regions: no config names this objective. In a loop of one's own it takes embeddings of
regions, such as ``Prompter`` makes, and of their texts: ``CLOC(0.07, 100).loss_of(regions, texts, label=text)``.

B pictures, R boxes of each, N = B R regions of this rank, M of all ranks, D their width, P tokens of a picture.
"""

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import nce
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CLOC(Objective):
    """InfoNCE of regions and texts in both directions, in which regions of equal texts are no negatives of each other.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        head: name of the head, the same for both, whose outputs are compared.
    """

    requires = frozenset({"label"})  # which text it is: equal numbers are equal texts

    def __init__(self, temperature: Positive, largest_scale: Positive, head: str = "projector") -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: regions and texts are of different widths."""
        assert batch.label is not None
        self.clip.bound()
        z = rows_of(student, self.head)  # 2 x [N, D]
        own = rank() * len(z[0]) + torch.arange(len(z[0]), device=z[0].device)  # [N]
        equal = batch.label[:, None] == gather(batch.label)  # [N, M]
        equal = equal.scatter(1, own[:, None], False)  # [N, M]
        temperature = self.clip.temperature.to(z[0].dtype)
        each = [nce(z[v], gather_with_grad(z[1 - v]), own, temperature, exclude=equal) for v in range(2)]  # 2 x [N]
        return {"loss": torch.cat(each).mean(), "scale": self.clip.log_scale.detach().exp()}


@guarded
class Prompter(nn.Module):
    """A picture's tokens as a box asks for them: one layer of cross-attention from the embedded box; and the box of
    what a text names, for the loss of grounding.

    Args:
        dim: D.
        num_heads: of the attention; they divide D.
    """

    def __init__(self, dim: Count, num_heads: Count) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(4, dim), nn.GELU(), nn.Linear(dim, dim))
        self.look = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.box = nn.Linear(dim, 4)

    def forward(self, tokens: Tensor, boxes: Tensor) -> Tensor:
        """Tokens [B, P, D], places among them, and boxes [B, R, 4] in [0, 1] -> [B, R, D]."""
        return self.norm(self.look(self.place(boxes), tokens, tokens, need_weights=False)[0])

    def ground(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Tokens [B, P, D] and embedded texts [B, R, D] -> where each is, [B, R, 4] in [0, 1]."""
        return self.box(self.norm(self.look(texts, tokens, tokens, need_weights=False)[0])).sigmoid()
