"""Retrieval of texts by texts within every class: how good an encoder of several domains is in each of them."""

import re
from collections.abc import Callable

from ssl_framework.arguments import guarded
from ssl_framework.evaluation.probes.text_retrieval import TextRetrieval
from ssl_framework.evaluation.wordings import Wordings


@guarded
class RetrievalByClass:
    """The samples of each class look for each other's second wordings and find no other class's.

    Args:
        retrieval: scores the samples of one class.
    """

    def __init__(self, retrieval: TextRetrieval) -> None:
        self.retrieval = retrieval

    def __call__(self, test: Wordings) -> dict[str, float]:
        """As the retrieval has it, named ``retrieval[first-to-second,<class>,n=64]/mrr`` and so on; nothing where the
        data have no classes."""
        return self.of_each(test, self.retrieval)

    def chance(self, test: Wordings) -> dict[str, float]:
        """Of a random order."""
        return self.of_each(test, self.retrieval.chance)

    def of_each(self, test: Wordings, score: Callable[[Wordings], dict[str, float]]) -> dict[str, float]:
        """What is said of the samples of each class alone."""
        found: dict[str, float] = {}
        for number, kind in enumerate(test.kinds if test.kind is not None else ()):
            own = test.kind == number  # [N] bool
            scores = score(Wordings(test.z[own], test.group[own], None))
            spelt = re.sub(r"[^\w.-]+", "-", kind)
            found |= {name.replace(",", f",{spelt},", 1): value for name, value in scores.items()}
        return found
