"""A head that says which words places of a picture look like, as the objective of a finished run has learnt it.

B samples, P places of each, A words, D the width of the common space.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Several, guarded
from ssl_framework.functional import unit
from ssl_framework.models.heads import Head
from ssl_framework.models.weights import read_objective


@guarded
class WordScores(Head):
    """Cosines of places, behind a frozen head, with the vectors of words: [B, P, D'] -> [B, P, A]. Nothing learns.

    Args:
        source: which features it reads, "places".
        projector: the frozen head that they go through, without layers.
        vocabulary: A.
        weights: folder of the run whose objective has the vectors, as ViLLA's ``attributes`` [A, D]; ``None``: a new
            run is refused.
    """

    def __init__(self, source: str, projector: Head, vocabulary: Several, weights: str | None) -> None:
        super().__init__(source)
        self.projector = projector
        self.out = vocabulary
        self.weights = weights

    def build(self, width: int) -> None:
        self.projector.build(width)
        vectors = torch.empty(self.out, self.projector.out)  # [A, D]
        self.attributes = nn.Parameter(nn.init.normal_(vectors), requires_grad=False)

    def begin(self) -> str:
        """As ``Head.begin``: of the projector, and the vectors of words.

        Raises:
            FileNotFoundError, ValueError: there is no such run, or it has learnt no such vectors.
        """
        said = self.projector.begin()
        assert self.weights is not None  # which the projector refuses
        found = read_objective(Path(self.weights).expanduser()).get("attributes")
        if found is None:
            raise ValueError(
                f"{self.weights} is a run whose objective has no vectors of words: name the folder of a run of the "
                "first stage"
            )
        if found.shape != self.attributes.shape:
            raise ValueError(
                f"{self.weights} knows {len(found)} words by {found.shape[1]} numbers each, but the run has "
                f"{self.out} and {self.attributes.shape[1]}: choose the data and the head of that run"
            )
        with torch.no_grad():
            self.attributes.copy_(found)
        return f"{said}\n{self.weights}: the vectors of {len(found)} words"

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, P, D'] -> [B, P, A] in [-1, 1]"""
        return unit(self.projector(outputs)) @ unit(self.attributes).T
