"""A weighted sum of objectives on the same views.

Fini et al., Improved Baselines for Vision-Language Pre-training, TMLR 2023 (arXiv:2305.08675), section 3, compare
sums of a contrastive loss of pictures and texts and one that needs no negatives.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Natural, Positive, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs

REFUSED = frozenset({"mixer", "added mixtures", "heads", "encoder", "masks", "geometry", "inputs"})


@guarded
class Terms(Objective):
    """``sum of weight * mean of the term over its tuples of views``.

    Args:
        terms: name -> objective.
        weights: name -> its weight, one of every term.
        views: name -> tuples of positions among the views; a term sees one tuple after another, and the mean counts. A
            term that is not named sees all views at once.

    Logs what every term logs behind its name, "clip_scale".

    Raises:
        ValueError: names that do not belong together, or a term that needs more than views of a batch.
    """

    def __init__(
        self,
        terms: Mapping[str, Objective],
        weights: Mapping[str, Positive],
        views: Mapping[str, Sequence[Sequence[Natural]]],
    ) -> None:
        super().__init__()
        if not terms or set(weights) != set(terms) or not set(views) <= set(terms):
            raise ValueError(
                f"objective.terms has {listed(terms)}, but objective.weights has {listed(weights)} and objective.views "
                f"{listed(views)}: give every term one weight, and views to terms alone"
            )
        for name, term in terms.items():
            if lacking := sorted(term.requires & REFUSED):
                raise ValueError(
                    f"objective.terms.{name} is {type(term).__name__}, which needs {' and '.join(lacking)}: choose an "
                    "objective of views alone, such as CLIP, BarlowTwins, SimSiam or SwAV"
                )
        if empty := [name for name, tuples in views.items() if not tuples or not all(tuples)]:
            raise ValueError(f"objective.views.{empty[0]} names no view: name some, or leave the key out")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = dict(weights)
        self.shown = {name: [list(each) for each in tuples] for name, tuples in views.items()}
        self.requires = frozenset().union(*(term.requires for term in terms.values()))
        self.reads = tuple(dict.fromkeys(head for term in terms.values() for head in term.reads))
        self.teacher_reads = tuple(dict.fromkeys(head for term in terms.values() for head in term.teacher_reads))
        whole = [term.num_views for name, term in terms.items() if name not in views]
        fewest = max([1 + v for tuples in views.values() for each in tuples for v in each] + [low for low, _ in whole])
        most = [high for _, high in whole if high is not None]
        self.modality = {view: name for term in terms.values() for view, name in term.modality.items()}
        self.num_views = (fewest, min(most) if most else None)
        counted = [term.num_classes for term in terms.values() if term.num_classes is not None]
        self.num_classes = min(counted) if counted else None

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        total = None
        logged: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            outs = [
                term(shown(student, which), teacher and shown(teacher, which), batch, clock)
                for which in self.shown.get(name, [list(range(len(student)))])
            ]
            means = {key: torch.stack([out[key] for out in outs]).mean() for key in outs[0]}
            logged |= {f"{name}_{key}": value.detach() for key, value in means.items()}
            own = self.weights[name] * means["loss"]
            total = own if total is None else total + own
        assert total is not None
        return {"loss": total, **logged}

    def allocate(self, num_samples: int) -> None:
        for term in self.hosted():
            term.allocate(num_samples)

    def meet(self, teacher: Mapping[str, int]) -> None:
        for term in self.hosted():
            term.meet(teacher)

    def on_epoch(self, clock: Clock) -> None:
        for term in self.hosted():
            term.on_epoch(clock)

    def after_backward(self, clock: Clock) -> None:
        for term in self.hosted():
            term.after_backward(clock)

    def hosted(self) -> list[Objective]:
        """The terms in their order."""
        return [term for term in self.terms.values() if isinstance(term, Objective)]


def shown(outputs: list[Outputs | None], which: Sequence[int]) -> list[Outputs | None]:
    """The outputs of some views, in their order."""
    return [outputs[view] for view in which]


def listed(names: Mapping[str, object]) -> str:
    """Names in a sentence."""
    return ", ".join(names) or "none"
