"""ViLLA: Varma et al., ViLLA: Fine-Grained Vision-Language Representation Learning from Real-World Data, ICCV 2023
(arXiv:2308.11194), section 3: its second stage.

The first stage, a frozen teacher, says which places of a picture show which words of its text. A place and what it
shows are a pair, and pairs are learnt as CLIP learns pictures and captions.

B samples of this rank, P places of a picture, R of them in a step, L tokens of a text, A words, D width of the head.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.distributed import gather, own_rows, world_size
from ssl_framework.functional import unit
from ssl_framework.models.patches import rows_at
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.objectives.cloc import region_loss
from ssl_framework.objectives.villa import LAST_SPECIAL, mapping, words_of
from ssl_framework.types import Batch, Clock, Outputs
from ssl_framework.views.text import without


@guarded
class ViLLARegions(Objective):
    """InfoNCE of places of view 0 and of the piece of view 1 that each shows, the mean of both directions.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        epsilon: what a place's score for a word may lack of the picture's best.
        regions: R, drawn among the places that show something.
        head: name of the head, the same in every tower: what places and texts go through.
        words: name of the teacher's head that scores places for words, [B, P, A].

    Logs the share of places that show something, and how many words their texts have.
    """

    requires = frozenset({"teacher", "inputs", "heads", "encoder"})
    num_views = (1, 1)

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        epsilon: NonNegative,
        regions: Count,
        head: str = "projector",
        words: str = "words",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.epsilon, self.regions = epsilon, regions
        self.head, self.words = head, words
        self.reads, self.teacher_reads = (head, "places"), (words,)
        self.token_reads = ("places",)
        self.modality = {0: "image", 1: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: student and teacher keep another number of places, or the towers give two widths."""
        assert self.through_heads is not None and self.through_encoder is not None
        self.clip.bound()
        (places,), (scores,) = outputs_of(student, "places"), outputs_of(teacher, self.words)  # [B, P, D'], [B, P, A]
        if places.shape[1] != scores.shape[1]:
            raise ValueError(
                f"ViLLARegions learns from {scores.shape[1]} places of the teacher's picture, but the student keeps "
                f"{places.shape[1]}: choose the backbone of the first stage for both (backbone@teacher.backbone=<name>)"
            )
        pieces, there = region_texts(scores, batch.views[1], self.epsilon)  # [B, P, L], [B, P]
        draws = torch.rand(world_size() * len(there), there.shape[1], generator=clock.generator())  # [W * B, P]
        which = (own_rows(draws).to(places.device) + ~there).argsort(dim=1)[:, : self.regions]  # [B, R]
        ids, shows = rows_at(pieces, which).flatten(0, 1), there.gather(1, which).flatten()  # [B * R, L], [B * R]
        regions = unit(self.through_heads(rows_at(places, which).flatten(0, 1))[self.head])  # [B * R, D]
        _, texts = rows_of([*student, self.through_encoder(ids, False, 1)], self.head)  # [B * R, D]
        loss = region_loss(regions, texts, ids, shows, self.clip.temperature.to(regions.dtype))
        length = (pieces > LAST_SPECIAL).sum(dim=2).to(loss.dtype).sum() / there.sum().clamp(min=1)
        logged = {"mapped": there.to(loss.dtype).mean(), "words": length}
        return {"loss": loss, **logged, "scale": self.clip.log_scale.detach().exp()}


def region_texts(scores: Tensor, ids: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """What each place shows, in the words of its picture's text: the longest piece of the text all of whose words are
    mapped to the place. A word that the texts of all ranks have names nothing, but comes along in front of a piece, as
    an article does.

    Args:
        scores: [B, P, A] of places for words.
        ids: [B, L] int64, the texts.
        epsilon: as in ``mapping``.

    Returns:
        [B, P, L] int64 the pieces as texts, and [B, P] bool, which places show something.
    """
    has, place = words_of(ids, scores.shape[2]), torch.arange(ids.shape[1], device=ids.device)  # [B, A], [L]
    plain = gather(has).all(dim=0)  # [A]
    found = mapping(scores, has & ~plain, epsilon)  # [B, P, A]
    own = found.gather(2, ids[:, None].expand(-1, scores.shape[1], -1))  # [B, P, L]
    length = place - torch.where(own, -1, place).cummax(dim=2).values  # [B, P, L], of the piece that ends here
    most, end = length.amax(dim=2, keepdim=True), length.argmax(dim=2, keepdim=True)  # [B, P, 1] each
    start = end - most  # [B, P, 1], in front of the piece
    kept = (place > start) & (place <= end) | (place == start) & plain[ids][:, None]  # [B, P, L]
    every = ids[:, None].expand_as(kept)  # [B, P, L]
    gone = (every > LAST_SPECIAL) & ~kept  # [B, P, L]
    return without(every.flatten(0, 1), gone.flatten(0, 1)).view_as(every), own.any(dim=2)
