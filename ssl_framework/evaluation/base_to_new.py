"""From base classes to new ones: what a student's own class scores say where half of the classes had no samples.

Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022 (arXiv:2203.05557), section 4.1: samples
of the first classes are scored among the first classes, those of the others among the others, and the harmonic mean
stands for both.

M test samples, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_framework.arguments import PositiveFraction, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.labels import num_known
from ssl_framework.evaluation.features import Bare, extract_in_eval, refuse_non_finite
from ssl_framework.evaluation.probes.base import right
from ssl_framework.module import SSLModule
from ssl_framework.runs.suggestions import choices


@guarded
class BaseToNew:
    """Accuracy of a head's class scores on base and new classes, as ``evaluation.cross``.

    Args:
        head: of the student, [M, C].
        known: share of the classes that the student has seen samples of, the first ones, rounded up; 1: all, and then
            there are no new ones.
    """

    def __init__(self, head: str, known: PositiveFraction) -> None:
        self.head = head
        self.known = known

    def check(self, module: SSLModule | Bare) -> None:
        """Raises ValueError if the student has no such head."""
        if self.head not in module.student.heads:
            others = choices("head", lambda node: self.head in node)
            raise ValueError(
                f"evaluation.cross reads the class scores of the head {self.head}, which the student has not: choose "
                f"{others}evaluation=frozen"
            )

    def check_split(self, split: Split) -> list[Tensor]:
        """Raises ValueError if the split has no classes; there are no further columns."""
        if split.label is None or split.label.is_floating_point():
            raise ValueError("evaluation.cross reads classes, which the data lack: choose evaluation=frozen")
        return []

    def score(self, module: SSLModule | Bare, split: Split) -> dict[str, float]:
        """Percent, named ``base_to_new[base=5,new=5]/harmonic``; the same on every rank."""
        self.check(module)
        self.check_split(split)
        encode, main = module.student.encode, split._replace(beside=None)
        logits = extract_in_eval(module, lambda x: encode(x)[self.head], main, torch.float32, None)  # [M, C]
        assert split.label is not None
        refuse_non_finite(logits, f"the outputs of the head {self.head}", "test")
        return base_to_new(logits, split.label.cpu(), self.known)

    def chance(self, module: SSLModule | Bare, split: Split) -> dict[str, float]:
        """What guesses would score among the classes of each part."""
        base, classes = num_known(module.student.dims[self.head], self.known), module.student.dims[self.head]
        name, shares = name_of(base, classes), [100 / part for part in (base, classes - base) if part]
        return scored(name, shares)


def base_to_new(logits: Tensor, label: Tensor, known: float) -> dict[str, float]:
    """The metrics of class scores [M, C] of samples of the classes [M] int64; a part without samples has none."""
    classes = logits.shape[1]
    base = num_known(classes, known)
    old = label < base  # [M]
    parts = ((old, logits[:, :base], label), (~old, logits[:, base:], label - base))
    found = [right(scores[rows].argmax(dim=1), wanted[rows]) for rows, scores, wanted in parts if rows.any()]
    return scored(name_of(base, classes), found)


def name_of(base: int, classes: int) -> str:
    """How the metrics begin."""
    return f"base_to_new[base={base},new={classes - base}]"


def scored(name: str, found: Sequence[float]) -> dict[str, float]:
    """Percent of base and new classes as metrics, and their harmonic mean where there are both."""
    if len(found) == 1:
        return {f"{name}/base": found[0]}
    base, new = found
    harmonic = 2 * base * new / (base + new) if base + new else 0.0
    return {f"{name}/base": base, f"{name}/new": new, f"{name}/harmonic": harmonic}
