"""CLOC: Chen et al., Contrastive Localized Language-Image Pre-Training, ICML 2025 (arXiv:2410.02746), section 3:
``L = L_CLIP + lambda (L_region + L_grounding)``.

A prompt, a box or a text, asks a picture's tokens for a part of it. A region has to find its text among those of all
regions, and a text the box of its region.

B pictures, R boxes of each, N = B R regions of this rank, M of all ranks, D the width that is compared, P tokens of a
picture, D' their width, L tokens of a text.
"""

import math

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, gather_with_grad, mean_of, rank
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs
from ssl_framework.views.places import cells


@guarded
class Prompter(nn.Module):
    """What a prompt asks for, an embedded box or text, by cross-attention to tokens that know where they are.

    Args:
        dim: D'.
        out: D.
        num_heads: of the attention; they divide D'.
    """

    def __init__(self, dim: Count, out: Count, num_heads: Count) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(4, dim), nn.GELU(), nn.Linear(dim, dim))
        self.say = nn.Linear(out, dim)
        self.before, self.behind = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.look = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.out, self.box = nn.Linear(dim, out), nn.Linear(dim, 4)

    def forward(self, tokens: Tensor, boxes: Tensor) -> Tensor:
        """Tokens [B, P, D'] of a square grid and boxes [B, R, 4] in [0, 1] -> [B, R, D]."""
        return self.out(self.seen(tokens, self.place(boxes)))

    def ground(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Tokens [B, P, D'] and embedded texts [B, R, D] -> where each is, [B, R, 4] in [0, 1]."""
        return self.box(self.seen(tokens, self.say(texts))).sigmoid()

    def seen(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """[B, P, D'] and [B, R, D'] -> [B, R, D']"""
        side = math.isqrt(tokens.shape[1])
        middle = cells(side, side, tokens)  # [P, 2]
        own = torch.cat([middle - 0.5 / side, middle + 0.5 / side], dim=1)  # [P, 4], the box of each token
        placed = self.before(tokens) + self.place(own)  # [B, P, D']
        return self.behind(self.look(prompts, placed, placed, need_weights=False)[0])


@guarded
class CLOC(Objective):
    """CLIP's loss of the views 0 and 1, and the losses of boxes in view 0 and of their texts, the views behind.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        region, grounding: weights of the two losses of regions.
        prompter: turns prompts into embeddings.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    requires = frozenset({"inputs", "regions"})
    num_views = (3, None)

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        region: NonNegative,
        grounding: NonNegative,
        prompter: Prompter,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.region, self.grounding = region, grounding
        self.prompter = prompter
        self.head = head
        self.reads = (head, "places")
        self.token_reads = ("places",)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the towers give embeddings of two widths."""
        assert batch.boxes is not None
        self.clip.bound()
        z = rows_of(student, self.head)  # (2 + R) x [B, D]
        pairs = self.clip.both_ways(z[0], z[1]).mean()
        places, boxes = outputs_of(student, "places")[0], batch.boxes.to(z[0].dtype)  # [B, P, D'], [B, R, 4]
        texts, ids = (torch.stack(list(x), dim=1) for x in (z[2:], batch.views[2:]))  # [B, R, D], [B, R, L]
        there = boxes[..., 2] > boxes[..., 0]  # [B, R]
        tau, seen = self.clip.temperature.to(z[0].dtype), self.region_rows(places, boxes)  # [B, R, D]
        matched = region_loss(seen.flatten(0, 1), texts.flatten(0, 1), ids.flatten(0, 1), there.flatten(), tau)
        same = (ids[:, :, None] == ids[:, None]).all(dim=3) & there[:, None]  # [B, R, R]
        found = self.prompter.ground(places, texts)  # [B, R, 4]
        grounded = mean_of((found - boxes).abs().mean(dim=2), there & (same.sum(dim=2) == 1))
        loss = pairs + self.region * matched + self.grounding * grounded
        logged = {"clip_loss": pairs.detach(), "region_loss": matched.detach(), "grounding_loss": grounded.detach()}
        return {"loss": loss, **logged, "scale": self.clip.log_scale.detach().exp()}

    def region_rows(self, places: Tensor, boxes: Tensor) -> Tensor:
        """Unit rows of regions of a picture: [B, P, D'] and [B, R, 4] -> [B, R, D]."""
        return unit(self.prompter(places, boxes))


def region_loss(regions: Tensor, texts: Tensor, ids: Tensor, there: Tensor, temperature: Tensor) -> Tensor:
    """InfoNCE of regions and texts in both directions, the mean over those of all ranks that are there. Regions of
    equal texts are no negatives of each other.

    Args:
        regions, texts: [N, D] unit rows.
        ids: [N, L] the words.
        there: [N] bool; the others are left out.
    """
    own = rank() * len(ids) + torch.arange(len(ids), device=ids.device)  # [N]
    apart = (ids[:, None] == gather(ids)).all(dim=2) | ~gather(there)  # [N, M]
    apart = apart.scatter(1, own[:, None], False)  # [N, M]
    ways = ((regions, texts), (texts, regions))
    each = [nce(x, gather_with_grad(y), own, temperature, exclude=apart) for x, y in ways]  # 2 x [N]
    return mean_of(torch.stack(each).mean(dim=0), there)
