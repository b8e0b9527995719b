"""Which place of a picture shows which word: what the first stage of ViLLA (arXiv:2308.11194, section 3.2) ends in, and
how right it is.

N pictures, K boxes of each, P places, A words of the vocabulary, D dimensions of the common space.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import asked_of, clean, two_towers
from ssl_framework.evaluation.after_training.boxes import OfBoxes, boxes_of, placed
from ssl_framework.evaluation.after_training.grounding import touched
from ssl_framework.evaluation.features import Bare, Splits, extract, in_eval_mode, refuse_non_finite
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule
from ssl_framework.objectives.villa import mapping, words_of


@runtime_checkable
class MapsWords(Protocol):
    """An objective that knows which places look like which words."""

    def word_scores(self, regions: Tensor) -> Tensor:
        """Places behind the head [B, P, D] -> [B, P, A]."""
        ...


@guarded
class WordMapping(OfBoxes):
    """A word of a picture's text belongs to the places that score highest for it, and to those nearly as high; it is
    right at a place that touches a box whose text has the word. Words that every text has name nothing. Places go
    through the head.

    Args:
        protocol, other, head, num_samples: see ``OfBoxes``.
        epsilon: what a place may score less than the best.
    """

    images_shown = "clean pictures of the test split, their texts and boxes; nothing is fitted"

    def __init__(self, protocol: str, other: str, head: str, epsilon: NonNegative, num_samples: Several | None) -> None:
        super().__init__(protocol, other, head, num_samples)
        self.epsilon = epsilon

    def check(self, module: SSLModule | Bare) -> None:
        asked_of(module, MapsWords, "word_scores", f"evaluation={self.name} maps words to places")
        super().check(module)

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """``mapping[epsilon=0.5,n=1000]/precision``, percent of mapped words that touch a box that has them, and
        ``/recall``, percent of words of boxes that are mapped to a place that touches the box.

        Raises:
            ValueError: the objective maps no words, the model has no places, or the data no boxes.
        """
        self.check(module)
        found = self.found(module, data.test, self.num_samples)  # [N, P, A]
        near, has = self.truth(data, found.shape[1:])  # [N, K, P], [N, K, A]
        right = near.transpose(1, 2).float() @ has.float() > 0  # [N, P, A]
        reached = (near.float() @ found.float() > 0) & has  # [N, K, A]
        name = f"{self.name}[epsilon={self.epsilon:g},n={len(found)}]"
        return {
            f"{name}/precision": 100 * (found & right).sum().item() / max(1, int(found.sum())),
            f"{name}/recall": 100 * reached.sum().item() / max(1, int(has.sum())),
        }

    def chance(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Precision of the words of boxes at places drawn evenly."""
        near, has = self.truth(data, self.found(module, data.test, self.num_samples).shape[1:])
        right = near.transpose(1, 2).float() @ has.float() > 0  # [N, P, A]
        asked = has.any(dim=1)[:, None].expand_as(right)  # [N, P, A]
        share = 100 * (right & asked).sum().item() / max(1, int(asked.sum()))
        return {f"{self.name}[epsilon={self.epsilon:g},n={len(near)}]/precision": share}

    def truth(self, data: DataModule | Splits, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Which places touch which boxes [N, K, P] bool, and which words their texts have [N, K, A] bool."""
        places, words = shape
        boxes = boxes_of(data.test, self.name).boxes[: self.num_samples].cpu()  # [N, K, 4]
        ids = (data.test.beside or {})["region_text"][: self.num_samples].cpu().long()  # [N, K, L]
        there = boxes[..., 2] > boxes[..., 0]  # [N, K]
        has = words_of(ids.flatten(0, 1), words).unflatten(0, ids.shape[:2]) & there[..., None]  # [N, K, A]
        near = touched(boxes.flatten(0, 1), places).unflatten(0, there.shape)  # [N, K, P]
        return near & there[..., None], has & ~has[there].all(dim=0)

    def found(self, module: SSLModule | Bare, split: Split, first: int | None) -> Tensor:
        """Which place of the first pictures shows which word of its text: [N, P, A] bool."""
        main = placed(two_towers(module, self.other, [self.head], self.name)[0])
        objective: MapsWords = asked_of(module, MapsWords, "word_scores", "")
        assert split.beside is not None
        index = torch.arange(len(split.rows), device=split.rows.device)[:first]  # [N]

        def scores(raw: Tensor) -> Tensor:
            """[B, C, H, W] -> [B, P, A]"""
            places = Encoder.encode(main, clean(module, raw))["places"]  # [B, P, D']
            rows = main.through_heads(places.flatten(0, 1))[self.head].unflatten(0, places.shape[:2])  # [B, P, D]
            return objective.word_scores(rows)

        with torch.no_grad(), in_eval_mode(module):
            each = extract(scores, Split(chosen(split.rows, index)), module.device)  # [N, P, A]
        refuse_non_finite(each, "the scores of words at places", "test")
        ids = module.views.clean(split.beside[self.other][:first], self.other).cpu()  # [N, L]
        has = words_of(ids, each.shape[2])  # [N, A]
        return mapping(each, has & ~has.all(dim=0), self.epsilon)
