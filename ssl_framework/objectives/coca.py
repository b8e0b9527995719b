"""CoCa: Yu et al., CoCa: Contrastive Captioners are Image-Text Foundation Models, TMLR 2022 (arXiv:2205.01917), eq. 3
and 4.

Beside CLIP's loss a decoder has to say the caption word by word. Its words have passed the text tower, in which none
sees a later one and whose last token, that of the end, is compared with the picture; then they look at the picture, of
which learnt queries take up what captions are about.

B samples of this rank, L tokens of a text, N of a picture, D of their head, V words.
"""

import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.models.fusion import AttentionPool, Fusion
from ssl_framework.models.text import PADDING
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class CoCa(Objective):
    """CLIP's loss of the first and the last view, and the cross-entropy of the next word of view 1, given the picture.

    With two views the caption that is said is the one that is compared; with three they differ (VladVA).

    Args:
        temperature, largest_scale: as in ``CLIP``.
        contrast, caption: weights of the two.
        pool: takes up what captions need of the picture's tokens.
        decoder: the multimodal half, causal, as wide as the tokens.
        head: name of the head, the same in every tower, whose outputs are compared.
        token_head: name of the head that gives tokens of one width.

    Raises:
        ValueError: the decoder sees later words.
    """

    requires = frozenset({"inputs", "causal words"})
    num_views = (2, 3)

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        contrast: NonNegative,
        caption: NonNegative,
        pool: AttentionPool,
        decoder: Fusion,
        head: str = "projector",
        token_head: str = "token_projector",
    ) -> None:
        super().__init__()
        if not decoder.causal:
            raise ValueError(
                "objective.decoder.causal is false, and a captioner would see the next word: set it to true"
            )
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.contrast, self.caption = contrast, caption
        self.pool, self.decoder = pool, decoder
        self.head, self.token_head = head, token_head
        self.reads = (head, token_head)
        self.token_reads = (token_head,)
        self.modality = {1: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        self.clip.bound()
        z = rows_of(student, self.head)  # V x [B, D]
        pairs = self.clip.both_ways(z[0], z[-1]).mean()
        tokens, ids = outputs_of(student, self.token_head), batch.views[1]  # [B, N, D] and [B, L, D]; [B, L]
        logits = self.word_logits(tokens[0], tokens[1], ids != PADDING)  # [B, L, V]
        said, right = next_word(logits[:, :-1], ids[:, 1:])
        logged = {"clip_loss": pairs.detach(), "caption_loss": said.detach(), "word_accuracy": right}
        loss = self.contrast * pairs + self.caption * said
        return {"loss": loss, **logged, "scale": self.clip.log_scale.detach().exp()}

    def word_logits(self, picture: Tensor, words: Tensor, there: Tensor) -> Tensor:
        """Scores of the next word [B, L, V], of tokens [B, N, D] and [B, L, D] and where words are [B, L]."""
        return self.decoder.logits(words, there, self.pool(picture))


def next_word(logits: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the right words (eq. 3), and the share of them that score highest, over all places of all ranks
    that are no padding.

    Args:
        logits: [B, L, V].
        words: [B, L] int64.

    Returns:
        Two scalars.
    """
    there = words != PADDING  # [B, L]
    each = F.cross_entropy(logits.transpose(1, 2), words, reduction="none")  # [B, L]
    right = (logits.argmax(dim=2) == words).to(logits.dtype)  # [B, L]
    return mean_of(each, there), mean_of(right, there)
