"""Several encoders, one for each modality, that stand where one encoder stands."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import guarded
from ssl_framework.models.base import BackboneProtocol
from ssl_framework.models.encoder import Encoder, refuse_unknown_heads
from ssl_framework.models.heads import Head
from ssl_framework.models.tuning import Tuning
from ssl_framework.types import Clock, Inputs, Outputs


@guarded
class Towers(nn.Module):
    """Sends every view to the encoder of its modality.

    What evaluators, exports and mixers read of an encoder is the main tower's. The same encoder may stand under several
    names; then its weights are shared, and its views go through it together.

    Args:
        towers: modality -> encoder; the first is the main one.
        frozen: modalities whose encoder is not trained: without gradient, and always in eval mode.

    Raises:
        ValueError: there are no towers, a name of ``frozen`` is no tower's, or all are frozen.
    """

    def __init__(self, towers: Mapping[str, Encoder], frozen: Sequence[str] = ()) -> None:
        super().__init__()
        if not towers:
            raise ValueError("student.towers is empty: name a modality and its encoder")
        if unknown := [name for name in frozen if name not in towers]:
            raise ValueError(f"student.frozen names {unknown}, but student.towers has {list(towers)}")
        self.towers = nn.ModuleDict(dict(towers))
        self.main = next(iter(towers))
        self.frozen = tuple(frozen)
        self.of: tuple[str, ...] = (self.main,)  # the modality of each view, once ``route`` was called
        for name in frozen:
            self.towers[name].requires_grad_(False)
        if not any(p.requires_grad for p in self.parameters()):
            raise ValueError(f"student.frozen is {list(frozen)}: nothing is left to train, so leave one tower out")
        self.train(self.training)

    def train(self, mode: bool = True) -> "Towers":
        """As of any module, but frozen towers stay in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.towers[name].eval()
        return self

    def route(self, modality: Sequence[str]) -> None:
        """Says of which modality each view is. Changes ``of``.

        Raises:
            ValueError: a view has no tower, or a tower no view.
        """
        if missing := [name for name in dict.fromkeys(modality) if name not in self.towers]:
            raise ValueError(
                f"the views are of {' and '.join(dict.fromkeys(modality))}, but student.towers has "
                f"{' and '.join(self.towers)}: add a tower for {missing[0]}, or choose other views"
            )
        if idle := [name for name in self.towers if name not in modality]:
            raise ValueError(
                f"student.towers has {idle[0]}, but no view is of it: the views are of "
                f"{' and '.join(dict.fromkeys(modality))}: leave the tower out, or choose other views"
            )
        self.of = tuple(modality)

    def tower(self, modality: str) -> Encoder:
        """The encoder of a modality."""
        found = self.towers[modality]
        assert isinstance(found, Encoder)
        return found

    def show(self, names: Sequence[str]) -> None:
        """Of every tower."""
        for encoder, _ in self.encoders():
            encoder.show(names)

    def encode(self, x: Inputs, view: int = 0, mask: Tensor | None = None) -> Outputs:
        """What the tower of that view makes of inputs [B, ...]."""
        return self.tower(self.of[view]).encode(x, mask=mask)

    def forward(
        self,
        views: Sequence[Inputs],
        which: Sequence[int] | None = None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> list[Outputs | None]:
        """Encodes the chosen views; as ``Encoder.forward``.

        Args:
            views: V x [B, ...].
            which: positions of the views to encode; ``None`` is all.
            masks: V x [B, N] bool, True where a patch is hidden; ``None`` hides nothing.

        Returns:
            One entry per view, ``None`` where it was not encoded.
        """
        outputs: list[Outputs | None] = [None] * len(views)
        chosen = list(range(len(views)) if which is None else which)
        for encoder, names in self.encoders():
            own = [v for v in chosen if self.of[v] in names]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not set(names) & set(self.frozen)):
                found = encoder(views, own, masks) if own else []
            for v in own:
                outputs[v] = found[v]
        return outputs

    def encoders(self) -> list[tuple[Encoder, list[str]]]:
        """Every encoder once, with the modalities it stands for."""
        names: dict[int, list[str]] = {}
        for name, encoder in self.towers.items():
            names.setdefault(id(encoder), []).append(name)
        return [(self.tower(own[0]), own) for own in names.values()]

    def groups(
        self,
        views: Sequence[Inputs],
        which: Sequence[int] | None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> list[list[int]]:
        """Positions of the views that go through a network as one batch, as ``forward`` does."""
        chosen = list(range(len(views)) if which is None else which)
        found: list[list[int]] = []
        for encoder, names in self.encoders():
            found += encoder.groups(views, [v for v in chosen if self.of[v] in names], masks)
        return found

    def after_backward(self, clock: Clock) -> None:
        """Called between backward and the optimizer step: hands on to every tower."""
        for encoder, _ in self.encoders():
            encoder.after_backward(clock)

    def keep_heads(self, names: Sequence[str]) -> None:
        """Leaves only these heads in every tower that has them. Changes the towers.

        Raises:
            ValueError: no tower has such a head.
        """
        refuse_unknown_heads(names, sorted({name for encoder, _ in self.encoders() for name in encoder.heads}))
        for encoder, _ in self.encoders():
            encoder.keep_heads([name for name in names if name in encoder.heads])

    def compile_parts(self) -> bool:
        """Has every tower compiled at its first call: whether all are."""
        return all([encoder.compile_parts() for encoder, _ in self.encoders()])

    # Of the main tower.

    @property
    def main_tower(self) -> Encoder:
        """The main tower: the encoder of the modality that evaluators score."""
        return self.tower(self.main)

    @property
    def backbone(self) -> BackboneProtocol:
        """Of the main tower."""
        return self.main_tower.backbone

    @property
    def heads(self) -> nn.ModuleDict:
        """Of the main tower."""
        return self.main_tower.heads

    @property
    def dims(self) -> dict[str, int]:
        """Of the main tower: widths of its features."""
        return self.main_tower.dims

    @property
    def beside(self) -> nn.ModuleDict:
        """Of the main tower: its further backbones."""
        return self.main_tower.beside

    @property
    def scored(self) -> tuple[str, ...]:
        """Of the main tower: which features evaluators score."""
        return self.main_tower.scored

    @property
    def earlier(self) -> nn.ModuleList:
        """Of the main tower: backbones of earlier stages."""
        return self.main_tower.earlier

    def embed(self, x: Inputs) -> Tensor:
        """[B, ...] of the main modality -> [B, D], what evaluators score."""
        return self.main_tower.embed(x)

    def embed_layers(self, x: Inputs, heads: Sequence[str]) -> dict[str, Tensor]:
        """Of the main tower: its features and what every layer of some heads gives."""
        return self.main_tower.embed_layers(x, heads)

    def heads_behind(self, outputs: Sequence[str]) -> list[str]:
        """Of the main tower: names of the heads that some outputs come from."""
        return self.main_tower.heads_behind(outputs)

    def through_heads(self, pooled: Tensor) -> Outputs:
        """Every head of the main tower for pooled features [N, D]."""
        return self.main_tower.through_heads(pooled)

    def through_encoder(self, x: Inputs, constant: bool, view: int = 0) -> Outputs:
        """Every output of the tower of a view for inputs [B, ...] that were made elsewhere; as of ``Encoder``."""
        return self.tower(self.of[view]).through_encoder(x, constant)

    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Begins a stage with the main tower's backbones of the stages before."""
        prefix = f"student.towers.{self.main}."
        self.main_tower.take_over({name.replace(prefix, "student.", 1): x for name, x in state.items()})

    @property
    def backbones(self) -> list[BackboneProtocol]:
        """All of every tower, that of the main one first."""
        return [backbone for encoder, _ in self.encoders() for backbone in encoder.backbones]


@guarded
class AlikeTowers(Towers):
    """Towers whose heads are alike, each on a backbone of its own: how a config names them, by ``head=``.

    Args:
        backbone: of the main tower.
        heads: name -> head without layers; every tower has its own (see ``Encoder``).
        join_views: as in ``Encoder``.
        main: modality of the main tower.
        others: modality -> backbone of the further towers.
        frozen: as in ``Towers``.
        tuning: modality -> what is learnt beside the backbone of its tower (see ``Encoder``); the others train.
        main_heads: names of heads that the main tower alone has, if they are there.

    Raises:
        ValueError: as of ``Towers``, or a name of ``tuning`` is no tower's.
    """

    def __init__(
        self,
        backbone: BackboneProtocol,
        heads: Mapping[str, Head],
        main: str,
        others: Mapping[str, BackboneProtocol],
        join_views: bool = True,
        frozen: Sequence[str] = (),
        tuning: Mapping[str, Tuning] | None = None,
        main_heads: Sequence[str] = (),
    ) -> None:
        shared = {name: head for name, head in heads.items() if name not in main_heads}
        backbones, tuned = {main: backbone, **others}, dict(tuning or {})
        if unknown := [name for name in tuned if name not in backbones]:
            raise ValueError(f"student.tuning names {unknown[0]}, but there are towers for {' and '.join(backbones)}")
        towers = {
            name: Encoder(each, heads if name == main else shared, join_views, tuning=tuned.get(name))
            for name, each in backbones.items()
        }
        super().__init__(towers, frozen)
