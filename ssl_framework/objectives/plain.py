"""An objective on plain tensors, for a training loop of one's own: no config, no encoder and no trainer.

B samples of this rank, D dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from ssl_framework.types import Outputs

View: TypeAlias = Tensor | Mapping[str, Tensor] | None
"""What an encoder made of a view: one tensor [B, D], or one for each head; ``None``: it did not see the view."""

MIXTURES = {"mixer", "added mixtures", "keys of mixtures"}


class AnyHead(dict[str, Tensor]):
    """The outputs of a view of which one tensor is known: it stands for whichever head is asked for."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z

    def __missing__(self, head: str) -> Tensor:
        return self.z


def as_outputs(views: Sequence[View]) -> list[Outputs | None]:
    """Views as encoders give them: V x {head: [B, D]}, half precision widened to float32 as in a run."""
    return [None if view is None else each_head(view) for view in views]


def each_head(view: Tensor | Mapping[str, Tensor]) -> Outputs:
    """{head: [B, D]} of one view."""
    return AnyHead(wide(view)) if isinstance(view, Tensor) else {head: wide(z) for head, z in view.items()}


def without_gradient(view: View) -> View:
    """What a teacher gave is no way for a gradient."""
    if view is None or isinstance(view, Tensor):
        return None if view is None else view.detach()
    return {head: z.detach() for head, z in view.items()}


def wide(z: Tensor) -> Tensor:
    """The tensor itself, or as float32 where it is of half precision."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def tensors_of(views: Sequence[View]) -> list[Tensor]:
    """Every tensor of the views."""
    return [z for view in views if view is not None for z in ([view] if isinstance(view, Tensor) else view.values())]


def refuse_views(name: str, views: Sequence[View], num_views: tuple[int, int | None]) -> None:
    """Refuses views that the objective cannot compare.

    Raises:
        ValueError: too few or too many, or not of the same samples.
    """
    for number, view in enumerate(views):
        refuse_view(f"{name} was given a view {number}", view)
    fewest, most = num_views
    seen = sum(view is not None for view in views)
    if seen < fewest or (most is not None and seen > most):
        wanted = f"{fewest}" if most == fewest else f"at least {fewest}" if most is None else f"{fewest} to {most}"
        raise ValueError(f"{name} reads {wanted} views of a sample, but was given {seen}")
    if len(counts := {len(z) for z in tensors_of(views)}) != 1:
        raise ValueError(f"{name} was given views of {sorted(counts)} samples: row b of each must be of sample b")


def refuse_view(what: str, view: View) -> None:
    """Refuses a view that is not what an encoder's heads give.

    Raises:
        ValueError: which says what it is instead.
    """
    if not (view is None or isinstance(view, Tensor | Mapping)):
        raise ValueError(f"{what} of type {type(view).__name__}: give a tensor [B, D], a mapping of heads, or None")
    for z in tensors_of([view]):
        if not isinstance(z, Tensor) or z.ndim != 2 or not z.is_floating_point():
            kind = f"{z.dtype} {list(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"{what} of {kind}: give what a head makes of the view, floating point [B, D]")


def shapes_of(views: Sequence[View], teacher: Sequence[View] | None) -> str:
    """What was given, for an error."""
    said = [f"views {[list(z.shape) for z in tensors_of(views)]}"]
    return " and ".join([*said, *([f"a teacher's {[list(z.shape) for z in tensors_of(teacher)]}"] if teacher else [])])


def refuse_beside(name: str, samples: int, **beside: Tensor | None) -> None:
    """Refuses labels or positions that are not one for each sample.

    Raises:
        ValueError: which names them.
    """
    for what, value in beside.items():
        if value is not None and (not isinstance(value, Tensor) or value.shape != (samples,)):
            found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{name} was given {what}={found} with views of {samples} samples: give a tensor [{samples}]"
            )


def refuse_lacking(name: str, requires: frozenset[str], given: set[str]) -> None:
    """Refuses an objective that needs more than it was given.

    Raises:
        ValueError: which names it.
    """
    if lacking := sorted(requires & MIXTURES):
        raise ValueError(f"{name} needs mixtures ({lacking[0]}), which plain tensors do not tell: call it with a Batch")
    if "masks" in requires:
        raise ValueError(
            f"{name} needs patches of which some are hidden, which plain tensors do not tell: call it instead"
        )
    for what, argument in (
        ("teacher", "teacher=[k0, ...], what a teacher made of the views"),
        ("label", "label=, the class of each sample"),
        ("number", "label=, the number of each sample"),
        ("index", "index=, the position of each sample in the training set, after objective.allocate(num_samples)"),
        ("maps", "maps and a Batch: call it instead"),
        ("geometry", "a Batch with geometry: call it instead"),
        ("inputs", "a Batch with the views that were encoded: call it instead"),
        ("encoder", "its attribute through_encoder: inputs [B, ...], and whether the encoder is a constant -> outputs"),
        ("heads", "its attribute through_heads: pooled features [N, D] -> the output of every head"),
    ):
        if what in requires and what not in given:
            raise ValueError(f"{name} needs more than views: give it {argument}")
