"""Zero-shot classification by prompts (CLIP, arXiv:2103.00020, section 3.1)."""

from torch import Tensor

from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.probes.base import right
from ssl_framework.functional import unit


class ZeroShot:
    """Every sample is given the class whose prompts lie nearest, factor by factor; nothing is fitted.

    A class is the mean of its prompts' unit embeddings, normalised again (section 3.1.4: an ensemble in embedding
    space).
    """

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Top-1 in percent, named ``zero_shot[colour,classes=6,prompts=4]/top1``."""
        return {
            name_of(factor, prompts): right((test.main @ class_rows(prompts).T).argmax(dim=1), test.label[factor])
            for factor, prompts in test.prompts.items()
        }

    def chance(self, test: Pairs) -> dict[str, float]:
        """100 / classes."""
        return {name_of(factor, prompts): 100 / len(prompts) for factor, prompts in test.prompts.items()}


def class_rows(prompts: Tensor) -> Tensor:
    """Unit rows of prompts [classes, P, D] -> one of each class [classes, D]."""
    return unit(prompts.mean(dim=1))


def name_of(factor: str, prompts: Tensor) -> str:
    """The metric of a factor with prompts [classes, P, D]."""
    classes, count = prompts.shape[:2]
    return f"zero_shot[{factor},classes={classes},prompts={count}]/top1"
