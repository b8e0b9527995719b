"""Whether a backdoor opens: how often a trigger makes a picture the class that poisoned pairs have tied to it
(CleanCLIP, arXiv:2303.03323, section 4.1)."""

from ssl_framework.arguments import Natural, guarded
from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.features import Accuracy
from ssl_framework.evaluation.probes.zero_shot import class_rows


@guarded
class Attack:
    """Zero-shot classification of pictures that carry the trigger.

    Args:
        factor: whose classes are asked.
        target: number of the class that poisoned pictures were called.
        column: of the pictures with the trigger, among ``evaluation.cross.further``.
    """

    def __init__(self, factor: str, target: Natural, column: str) -> None:
        self.factor = factor
        self.target = target
        self.column = column

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Percent of the pictures of other classes that are given the target: with the trigger,
        ``attack[shape]/success``, and as they are, ``attack[shape]/without``, with which it has to be compared."""
        rows, others = class_rows(test.prompts[self.factor]), test.label[self.factor] != self.target  # [N]
        given = {
            name: int(((x[others] @ rows.T).argmax(dim=1) == self.target).sum())
            for name, x in (("success", test.further[self.column]), ("without", test.main))
        }
        return {f"attack[{self.factor}]/{name}": Accuracy(count, int(others.sum())) for name, count in given.items()}

    def chance(self, test: Pairs) -> dict[str, float]:
        """100 / classes."""
        share = 100 / len(test.prompts[self.factor])
        return {f"attack[{self.factor}]/{name}": share for name in ("success", "without")}
