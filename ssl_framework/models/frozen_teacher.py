"""A teacher that was trained before: a network of its own, which stays as it is."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import guarded
from ssl_framework.models.base import BackboneProtocol
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.heads import Head
from ssl_framework.types import Clock, Outputs


@guarded
class FrozenTeacher(nn.Module):
    """A backbone, or two, in eval mode and without gradient; the other kind is ``EMATeacher``.

    A run that goes on has it in its checkpoint. What is evaluated and exported is the student.

    Args:
        backbone: of any kind; it names its weights, which ``parts.begin_with_weights`` gives it.
        second: another one, whose outputs are "second" [B, D] and "second.layers"; ``None``: there is one.
        heads: name -> head without layers, whose weights are named likewise (see ``Encoder``); ``None``: it has none.
    """

    shuffle_bn = None
    learns = False

    def __init__(
        self,
        backbone: BackboneProtocol,
        second: BackboneProtocol | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(backbone, heads or {}, beside={} if second is None else {"second": second})
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in eval mode."""
        return super().train(False)

    def follow(self, student: Encoder) -> "FrozenTeacher":
        """Follows nobody; returns itself."""
        return self

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor], which: Sequence[int] | None, clock: Clock) -> list[Outputs | None]:
        """As ``Encoder.forward``, without gradient."""
        return self.encoder(views, which)

    def update(self, student: Encoder, clock: Clock) -> None:
        """Does nothing."""
