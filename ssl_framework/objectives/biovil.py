"""BioViL: Boecking et al., Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing, ECCV
2022 (arXiv:2204.09817), section 3: the joint stage.

Pictures and texts find each other, and the text tower goes on naming hidden words, so that it does not forget what
words mean. The picture has no part in that.

B samples of this rank, L tokens of a text, V words.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, Several, guarded
from ssl_framework.distributed import mean_of
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.clip import CLIP, rows_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class BioViL(Objective):
    """CLIP's loss of view 0 and view 1, and the cross-entropy of the words of view 1 that are hidden in view 2.

    Args:
        temperature, largest_scale: as in ``CLIP``.
        masked: weight of the hidden words.
        dim: width of the text tower's places, its words.
        vocabulary: words are numbers below it.
        head: name of the head, the same in every tower, whose outputs are compared.
    """

    requires = frozenset({"inputs"})
    num_views = (3, 3)

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        masked: NonNegative,
        dim: Count,
        vocabulary: Several,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.clip = CLIP(temperature, largest_scale, head=head)
        self.masked = masked
        self.words = nn.Linear(dim, vocabulary)
        self.head = head
        self.reads = (head, "places")
        self.token_reads = ("places",)
        self.modality = {1: "text", 2: "text"}

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: the outputs of the two towers are of different widths."""
        self.clip.bound()
        z0, z1, _ = rows_of(student, self.head)  # [B, D] each
        pairs = self.clip.both_ways(z0, z1).mean()
        assert student[2] is not None
        named = hidden_words(self.words(student[2]["places"]), batch.views[1], batch.views[2])
        logged = {"clip_loss": pairs.detach(), "mlm_loss": named.detach()}
        return {"loss": pairs + self.masked * named, **logged, "scale": self.clip.log_scale.detach().exp()}


def hidden_words(logits: Tensor, words: Tensor, shown: Tensor) -> Tensor:
    """Cross-entropy of the words that are hidden, the mean over all of all ranks.

    Args:
        logits: [B, L, V].
        words, shown: [B, L] int64, as they are and as they were shown.
    """
    return mean_of(F.cross_entropy(logits.transpose(1, 2), words, reduction="none"), words != shown)


def phrase_contrast(similarity: Tensor, inside: Tensor) -> Tensor:
    """How far a phrase's similarity map stands out where it belongs, the contrast-to-noise ratio of section 4.3:
    ``|mean inside - mean outside| / sqrt(variance inside + variance outside)``.

    Args:
        similarity: [B, N] cosines of a text with every patch.
        inside: [B, N] bool, true somewhere and false somewhere.

    Returns:
        [B]
    """
    parts = []
    for where in (inside, ~inside):
        count = where.sum(dim=1)  # [B]
        mean = (similarity * where).sum(dim=1) / count  # [B]
        spread = ((similarity - mean[:, None]).square() * where).sum(dim=1) / count  # [B]
        parts.append((mean, spread))
    (high, one), (low, other) = parts
    return (high - low).abs() / (one + other).sqrt()
