"""A backbone that is evaluated without having been trained here."""

import torch
from torch import nn

from ssl_framework.data.views import Views
from ssl_framework.models.encoder import Encoder


class Bare(nn.Module):
    """What evaluators read of an ``SSLModule``: a student, and the transform of clean images.

    Args:
        views: of which only ``clean`` is used.
        student: the encoder, usually without heads.
    """

    def __init__(self, views: Views, student: Encoder) -> None:
        super().__init__()
        self.views = views
        self.student = student

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.student.parameters()).device
