"""Scores of a construct: how far a text says what the items of a questionnaire say, by its mean cosine to them (CCR;
Surveying the Dead Minds, EMNLP 2024, arXiv:2403.00509). Items here are ways to name a class and nothing else."""

from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.evaluation.probes.text_similarity import below
from ssl_framework.evaluation.wordings import Wordings


@guarded
class ConstructScore:
    """Whether texts of a class score higher than others on the items of that class; nothing is fitted."""

    def __call__(self, test: Wordings) -> dict[str, float]:
        """``construct[shape,items=4]/auc`` of each factor, percent: the share of pairs of a text of the class and one
        of another that the score orders rightly, the mean over classes."""
        found = {}
        for factor, items in test.items.items():
            score = test.z[:, 0] @ items.mean(dim=1).T  # [N, classes]
            label = test.label[factor]  # [N]
            parts = [(score[label != c, c], score[label == c, c]) for c in range(len(items))]
            aucs = [below(others, own) for others, own in parts if len(others) and len(own)]
            found[self.name(factor, items)] = 100 * sum(aucs) / max(1, len(aucs))
        return found

    def chance(self, test: Wordings) -> dict[str, float]:
        """Half of the pairs."""
        return {self.name(factor, items): 50.0 for factor, items in test.items.items()}

    def name(self, factor: str, items: Tensor) -> str:
        """With the number of items of a class."""
        return f"construct[{factor},items={items.shape[1]}]/auc"
