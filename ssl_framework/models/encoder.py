"""Student and teacher: a backbone with named heads, and its exponential moving average."""

import contextlib
import copy
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from ssl_framework.arguments import Fraction, Several, guarded
from ssl_framework.distributed import gather, own_rows
from ssl_framework.functional import as_constant, positions, unit
from ssl_framework.models.base import BackboneProtocol, Block, Dense, Patched, layered
from ssl_framework.models.heads import Head, built
from ssl_framework.models.tuning import Tuning
from ssl_framework.runs.suggestions import choices, towers_of
from ssl_framework.types import Clock, Graph, Inputs, Outputs, joined

PLACES = ("patches", "tokens", "map")
"""What "places" are made of, [B, N, D]: the first of these that a backbone has."""


@guarded
class Encoder(nn.Module):
    """A backbone and heads that read it or each other, in the order of the config.

    Args:
        backbone: see ``BackboneProtocol``.
        heads: name -> head without layers, a copy of which is built here, where the widths are known.
        join_views: views of one size go through the network as one batch, so that they share batch statistics (and
            the step is faster); otherwise each view is a batch of its own.
        beside: name -> a further backbone, whose pooled features heads and objectives find under that name, and its
            last blocks under "<name>.layers" where it gives them.
        scored: which features evaluators score, side by side: "pooled", or names of ``beside``.
        earlier: backbones that earlier stages of the run have trained (see ``stages``). They are frozen and take no
            part in training; evaluators score the normalised features of all stages side by side.
        tuning: what is learnt beside the backbone, whose own weights then stay (see ``tuning``); ``None``: it trains.

    Raises:
        ValueError: names that do not exist or are taken, or a backbone that cannot be tuned so.
    """

    def __init__(
        self,
        backbone: BackboneProtocol,
        heads: Mapping[str, Head],
        join_views: bool = True,
        beside: Mapping[str, BackboneProtocol] | None = None,
        scored: Sequence[str] = ("pooled",),
        earlier: Annotated[int, Interval(ge=0, le=1000)] = 0,
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if tuning is not None:
            tuning.attach(backbone)
        self.join_views = join_views
        self.beside = nn.ModuleDict(dict(beside or {}))  # type: ignore[arg-type]
        self.scored = tuple(scored)
        self.earlier = nn.ModuleList(copy.deepcopy(backbone) for _ in range(earlier))  # type: ignore[misc]
        self.earlier.requires_grad_(False)
        dims = {"pooled": backbone.dim, **{name: further.dim for name, further in (beside or {}).items()}}
        if not scored or not set(scored) <= dims.keys():
            raise ValueError(f"student.scored is {list(scored)}: name one or more of {', '.join(dims)}")
        dims |= backbone.dense_dims if isinstance(backbone, Dense) else {}
        self.placed = next((name for name in PLACES if name in dims), None)
        dims |= {"places": dims[self.placed]} if self.placed else {}
        for name, further in (beside or {}).items():
            if isinstance(further, Dense) and "layers" in further.dense_dims:
                dims[f"{name}.layers"] = further.dense_dims["layers"]
        if taken := sorted(dims.keys() & heads.keys()):
            raise ValueError(f"student.heads has {taken[0]}, which names a backbone already: call the head otherwise")
        self.heads = nn.ModuleDict()
        for name, head in heads.items():
            self.heads[name] = own = built(head, dims, backbone)
            dims[name] = own.out
        self.dims = dims
        self.shown: set[str] = {head.source for head in heads.values()}
        self.blocks: dict[str, Block | None] = {}

    def show(self, names: Sequence[str]) -> None:
        """Is told which outputs an objective reads, for what is made only where somebody reads it: a "map" of a
        transformer's tokens, "places" of whatever keeps places apart, one vector each: words, patches, positions of a
        map; or "block_-2", the map behind the last block but one. Changes ``shown``, ``blocks`` and
        ``dims``.

        Raises:
            ValueError: the backbone has no such block, or does not name its blocks.
        """
        self.shown |= set(names)
        for name in names:
            if number := re.fullmatch(r"block_(-?[1-9]\d*)", name):
                key = f"objective, which reads {name},"
                self.blocks[name] = block = layered(self.backbone, key).block(int(number[1]), key)
                assert block is not None
                self.dims[name] = block.channels

    def route(self, modality: Sequence[str]) -> None:
        """Is told of which modality each view is: one encoder takes one.

        Raises:
            ValueError: there are several.
        """
        if len(several := dict.fromkeys(modality)) > 1:
            others = choices("method", lambda node: set(several) <= set(towers_of(node)))
            raise ValueError(
                f"the views are of {' and '.join(several)}, but the student is one encoder: choose {others}views of "
                "one of them"
            )

    def compile_parts(self) -> bool:
        """Has the encoder compiled at its first call, unless somebody looks into it or its backbone is tuned: whether
        it is. The names of weights stay as they are."""
        if self.blocks or getattr(self.backbone, "tuning", None) is not None:
            return False
        self.encode = torch.compile(self.encode)  # type: ignore[method-assign]
        return True

    def encoders(self) -> list[tuple["Encoder", list[str]]]:
        """Itself, without a name of a modality: as ``Towers.encoders``, which has several."""
        return [(self, [])]

    @property
    def backbones(self) -> list[BackboneProtocol]:
        """All that train: the main one, and those beside it."""
        return [self.backbone, *self.beside.values()]  # type: ignore[list-item]

    def encode(self, x: Inputs, view: int = 0, mask: Tensor | None = None) -> Outputs:
        """Views [B, ...] -> the backbone's features and every head's output, whichever view it is.

        With a mask [B, N] of what is hidden it stands beside them as "mask", for heads and objectives.
        """
        outputs = self.features(x, mask) | self.features_beside(x)
        for name, head in self.heads.items():
            outputs[name] = head(outputs)
        return outputs

    def features_beside(self, x: Inputs) -> Outputs:
        """What the backbones ``beside`` make of views [B, ...]."""
        outputs: Outputs = {}
        for name, further in self.beside.items():
            found = further(x)
            outputs[name] = found["pooled"]
            outputs |= {f"{name}.layers": found["layers"]} if "layers" in found else {}
        return outputs

    def features(self, x: Inputs, mask: Tensor | None = None) -> Outputs:
        """What the backbone makes of views [B, ...], and what ``show`` has asked for beside."""
        looks: dict[str, Tensor] = {}
        with contextlib.ExitStack() as looking:
            for name, block in self.blocks.items():
                note = partial(looks.__setitem__, name)  # which returns None: the map goes on as it is
                looking.enter_context(layered(self.backbone, name).changed_at(block, note))
            if mask is None:
                outputs = self.backbone(x)
            else:
                assert isinstance(self.backbone, Patched)
                outputs = {**self.backbone(x, mask), "mask": mask}
        for name, found in looks.items():
            outputs[name] = found if found.ndim == 4 else self.backbone.map_of(found)  # type: ignore[attr-defined]
        if "map" in self.shown and "map" in self.dims and "map" not in outputs:
            outputs["map"] = self.backbone.map_of(outputs["tokens"])  # type: ignore[attr-defined]  # [B, D', h, w]
        if "places" in self.shown and self.placed:
            found = outputs[self.placed]
            outputs["places"] = positions(found) if self.placed == "map" else found  # [B, N, D']
        return outputs

    def forward(
        self,
        views: Sequence[Tensor],
        which: Sequence[int] | None = None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> list[Outputs | None]:
        """Encodes the chosen views.

        Args:
            views: V x [B, ...], pictures [B, C, h_v, w_v].
            which: positions of the views to encode; ``None`` is all.
            masks: V x [B, N] bool, True where a patch of a view is hidden from this pass; ``None`` hides nothing.

        Returns:
            One entry per view, ``None`` where it was not encoded.
        """
        outputs: list[Outputs | None] = [None] * len(views)
        hidden = masks or [None] * len(views)
        for group in self.groups(views, which, hidden):
            if len(group) == 1:
                outputs[group[0]] = self.encode(views[group[0]], mask=hidden[group[0]])
                continue
            own = [mask for v in group if (mask := hidden[v]) is not None]
            joint_mask = torch.cat(own) if own else None  # [G * B, N]
            joint = self.encode(joined([views[v] for v in group]), mask=joint_mask)  # [G * B, ...]
            parts = {name: x.chunk(len(group)) for name, x in joint.items()}
            for i, v in enumerate(group):
                outputs[v] = {name: x[i] for name, x in parts.items()}
        return outputs

    def heads_behind(self, outputs: Sequence[str]) -> list[str]:
        """Names of the heads that some outputs come from, in the order in which they are computed.

        Args:
            outputs: names of heads or of features; a head may read another.
        """
        found: set[str] = set()
        for name, head in reversed([*self.heads.items()]):  # a head reads features or a head before it
            if name in outputs or name in found:
                assert isinstance(head, Head)
                found |= {name, *head.sources}
        return [name for name in self.heads if name in found]

    def through_heads(self, pooled: Tensor) -> Outputs:
        """Every head's output for pooled features [N, D] that were made elsewhere, by mixing, say."""
        outputs = {"pooled": pooled}
        for name, head in self.heads.items():
            outputs[name] = head(outputs)
        return outputs

    def through_encoder(self, x: Inputs, constant: bool, view: int = 0) -> Outputs:
        """Every output for inputs [B, ...] that were made elsewhere, by a learned view, say.

        Args:
            x: inputs, as views.
            constant: the encoder's own parameters get no gradient, but the inputs do.
            view: as which they are encoded; there is one encoder for all.
        """
        (found,) = as_constant(self, [x]) if constant else self([x])
        assert found is not None
        return found

    def after_backward(self, clock: Clock) -> None:
        """Called between backward and the optimizer step: hands on to the heads."""
        for head in self.heads.values():
            assert isinstance(head, Head)
            head.after_backward(clock)

    def groups(
        self,
        views: Sequence[Tensor],
        which: Sequence[int] | None,
        masks: Sequence[Tensor | None] | None = None,
    ) -> list[list[int]]:
        """Positions of the views that go through the network as one batch, group after group, as ``forward`` does.

        Views of which patches are hidden and others go apart.
        """
        chosen = range(len(views)) if which is None else which
        if not self.join_views:
            return [[v] for v in range(len(views)) if v in chosen]
        hidden = masks or [None] * len(views)
        kinds = {v: (views[v].shape, hidden[v] is not None) for v in chosen}
        return [[v for v in chosen if kinds[v] == kind] for kind in dict.fromkeys(kinds.values())]

    def embed(self, x: Tensor) -> Tensor:
        """Views [B, ...] -> [B, D], what evaluators score: pooled features of the backbones that ``scored`` names."""
        parts = [self.beside[name](x) if name in self.beside else self.backbone(x) for name in self.scored]
        own = torch.cat([part["pooled"] for part in parts], dim=1)  # [B, D]
        if not self.earlier:
            return own
        before = [unit(backbone(x)["pooled"]) for backbone in self.earlier]  # S x [B, D]
        return torch.cat([*before, unit(own)], dim=1)  # [B, (S + 1) * D]

    def keep_heads(self, names: Sequence[str]) -> None:
        """Leaves only these heads, those that they read, and no backbones of earlier stages, which only evaluators of a
        student read. Changes the encoder.

        Raises:
            ValueError: there is no such head.
        """
        refuse_unknown_heads(names, list(self.heads))
        kept = self.heads_behind(names)
        self.dims = {name: dim for name, dim in self.dims.items() if name not in self.heads or name in kept}
        self.heads = nn.ModuleDict({name: self.heads[name] for name in kept})
        self.earlier = nn.ModuleList()

    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Begins a stage with the backbones of the stage before, and of those before it. Changes ``earlier``.

        Args:
            state: names and tensors of the module (``SSLModule``) that the stage before has trained.
        """
        last = len(self.earlier) - 1
        for number, backbone in enumerate(self.earlier):
            prefix = "student.backbone." if number == last else f"student.earlier.{number}."
            backbone.load_state_dict({k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)})

    def embed_layers(self, x: Tensor, heads: Sequence[str]) -> dict[str, Tensor]:
        """The backbone's features and what every layer of some heads gives, in one pass.

        Args:
            x: views [B, ...].
            heads: names of heads.

        Returns:
            "" for the backbone's pooled features [B, D], "<head>.1", "<head>.2" ... for the layers [B, width].

        Raises:
            ValueError: a layer gives maps or tokens instead of one vector a sample.
        """
        outputs = self.features(x) | self.features_beside(x)
        found = {"": outputs["pooled"]}
        for name, head in self.heads.items():
            assert isinstance(head, Head)
            layers = head.each_layer(outputs)
            outputs[name] = layers[-1]
            if name in heads:
                if any(layer.ndim != 2 for layer in layers):
                    raise ValueError(
                        f"evaluation.head_layers names {name}, which gives several vectors a sample: name others"
                    )
                found |= {f"{name}.{number}": layer for number, layer in enumerate(layers, start=1)}
        return found


def refuse_unknown_heads(names: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError if a teacher asks for heads that the student does not have."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"teacher.heads names {unknown}, but the student has {list(known)}: choose another teacher=<name> or "
            "head=<name>, or set teacher.heads"
        )


@guarded
class EMATeacher(nn.Module):
    """Exponential moving average of a student (MoCo eq. 2, BYOL eq. 1), which it is told of by ``follow``.

    Args:
        heads: which of the student's heads the teacher has, beside those that these read.
        momentum: share of the old teacher kept at each optimizer step.
        final_momentum: if given, the momentum rises to it along a cosine over the run.
        shuffle_bn: keys are normalised in groups of this many samples, drawn at random from the global batch (MoCo's
            shuffled batch normalisation; 256 images on 8 GPUs are groups of 32). It means the same on one device as
            on many. ``None``: batch statistics of the whole local batch, unshuffled. Views of a graph are never
            shuffled: batch statistics are those of all its nodes, which tell nothing of the batch.
    """

    encoder: Encoder
    learns = False  # nothing but the student moves it

    def __init__(
        self,
        heads: Sequence[str],
        momentum: Fraction,
        final_momentum: Fraction | None = None,
        shuffle_bn: Several | None = None,
    ) -> None:
        super().__init__()
        self.heads = list(heads)
        self.momentum = momentum
        self.final_momentum = final_momentum
        self.shuffle_bn = shuffle_bn

    def follow(self, student: Encoder) -> "EMATeacher":
        """Begins as a copy of a student, without the heads that it is not to have; returns itself.

        Raises:
            ValueError: the student lacks one of ``heads``.
        """
        self.encoder = copy.deepcopy(student)
        self.encoder.keep_heads(self.heads)
        self.encoder.requires_grad_(False)
        return self

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor], which: Sequence[int] | None, clock: Clock) -> list[Outputs | None]:
        """As ``Encoder.forward``, without gradient. ``clock`` seeds the shuffle, alike on all ranks."""
        if self.shuffle_bn is None or isinstance(views[0], Graph):
            return self.encoder(views, which)
        chosen = range(len(views)) if which is None else which
        return [self._shuffled(view, v, clock) if v in chosen else None for v, view in enumerate(views)]

    def _shuffled(self, view: Tensor, number: int, clock: Clock) -> Outputs:
        assert self.shuffle_bn is not None
        everyone = gather(view)  # [W * B, C, h, w]
        generator = clock.generator(view.device)  # of the device: moving the order there would make the host wait
        order = torch.randperm(len(everyone), generator=generator, device=view.device)  # [W * B]
        mine = everyone[own_rows(order)]  # [B, C, h, w]
        groups = mine.tensor_split(max(1, len(mine) // self.shuffle_bn))
        parts = [self.encoder.encode(group, number) for group in groups]
        back = own_rows(order.argsort())  # [B]: where this rank's samples went
        return {name: gather(torch.cat([part[name] for part in parts]))[back] for name in parts[0]}

    @torch.no_grad()
    def update(self, student: Encoder, clock: Clock) -> float:
        """Moves the teacher towards the student, after the optimizer step; returns the momentum used.

        A rising momentum is that of the step just made, t = 0, 1, ... T - 1: ``1 - (1 - momentum) * (1 + cos(pi t / T))
        / 2`` where it ends at 1, as in the code of BYOL and DINO. lightly's examples move the teacher before the
        student's pass instead, with the momentum of the pass that follows, and know epochs only.
        """
        momentum = self.momentum
        if self.final_momentum is not None:
            rise = (1 - math.cos(math.pi * clock.progress)) / 2
            momentum += (self.final_momentum - momentum) * rise
        sources = dict(student.named_parameters())
        names, mine = zip(*self.encoder.named_parameters(), strict=True)
        torch._foreach_lerp_(list(mine), [sources[name] for name in names], 1 - momentum)
        return momentum
