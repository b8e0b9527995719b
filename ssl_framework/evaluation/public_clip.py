"""Public models of pictures and texts, of the package open_clip: their towers stand where a run's would."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build
from ssl_framework.evaluation.features import Bare
from ssl_framework.models.layouts import read_content
from ssl_framework.models.open_clip_towers import known, load, network, preprocessing_of, towers_of
from ssl_framework.models.weights import refuse_non_finite_weights
from ssl_framework.runs.overrides import composed, merged

PREFIX = "open_clip:"
"""Of the names of such models."""


class PublicCLIP(NamedTuple):
    """What ``backbone=`` names; otherwise as ``Foreign``."""

    said: str  # as it was typed
    name: str  # open_clip's
    path: Path | None  # file of weights; None: random ones

    @staticmethod
    def meant(said: str, model: str | None) -> bool:
        """Whether a command names such a model."""
        return said.startswith(PREFIX) or (model or "").startswith(PREFIX)

    @classmethod
    def read(cls, said: str, model: str | None, pretrained: str | None) -> "PublicCLIP":
        """What a command says, checked before anything is computed.

        Args:
            said: ``open_clip:<name>``, or a file.
            model: ``open_clip:<name>`` of the model that a file holds.
            pretrained: has to be ``None``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a wrong name, or words that do not go together.
        """
        if pretrained is not None:
            raise ValueError(
                f"pretrained={pretrained} is of timm's models, and nothing is fetched for open_clip: give a file of "
                f"its weights, backbone=<file> model={model or said}"
            )
        if said.startswith(PREFIX):
            if model is not None:
                raise ValueError(f"backbone={said} names its model: leave model={model} out, or give a file")
            known(said.removeprefix(PREFIX))
            return cls(said, said.removeprefix(PREFIX), None)
        assert model is not None
        path = Path(said).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"backbone={said} does not exist: give a file of open_clip's weights")
        known(model.removeprefix(PREFIX))
        return cls(said, model.removeprefix(PREFIX), path)

    @property
    def has_weights(self) -> bool:
        """Whether there are weights of a training."""
        return self.path is not None

    def config(self) -> DictConfig:
        """ "seed", "trainer" and "views"; they refer to the data's."""
        cfg = merged(OmegaConf.create({"seed": 0}), composed("trainer", "auto"))
        pictures: Any = composed("views", "uncropped").views
        for key, value in preprocessing_of(self.name).items():
            pictures[key] = value
        texts = {"_target_": "ssl_framework.views.text.TextViews", "tokens": "${data.tokens}", "words": "${data.words}"}
        paired = {"_target_": "ssl_framework.views.base.PairedViews", "parts": [pictures, texts]}
        return merged(cfg, OmegaConf.create({"views": paired}))

    def settled(self, cfg: DictConfig) -> DictConfig:
        """As it is."""
        return cfg

    def refuse_modalities(self, given: Sequence[str], data: str) -> None:
        """Refuses data without texts.

        Raises:
            ValueError: they have none.
        """
        if "text" not in given:
            raise ValueError(
                f"backbone={self.said} compares pictures with texts, but data={data} has no text: choose data with "
                "texts, such as data=captioned_shapes, or backbone=timm:<name>"
            )

    def build(self, cfg: DictConfig, with_weights: bool) -> Bare:
        """Both towers as evaluators read them.

        Args:
            cfg: resolved, with "seed", "views" and "data".
            with_weights: or the random ones of the seed.

        Raises:
            ValueError: the weights do not fit, or the model wants what is not here.
        """
        torch.manual_seed(cfg.seed)
        net = network(self.name)
        if with_weights and self.path is not None:
            load(net, read_content(self.path), self.said)
            refuse_non_finite_weights(net.state_dict(), self.said)
        views = build(cfg.views)
        student: Any = towers_of(net, self.name, views.parts[1].words)
        return Bare(views, student)

    def about(self, model: Bare) -> dict[str, Any]:
        """What a record says of it."""
        weights = "random"
        if self.path is not None:
            weights = f"{self.path}, sha256 {hashlib.sha256(self.path.read_bytes()).hexdigest()}"
        count = sum(p.numel() for p in model.student.parameters())
        about = {"backbone": self.said, "open_clip_name": self.name, "weights": weights, "trained": self.has_weights}
        return {**about, "parameters": count, "dim": model.student.backbone.dim}
