"""Which of two captions fits a picture, its own or the same with one thing changed: Winoground's text score (Thrush et
al., CVPR 2022, arXiv:2204.03162, section 4)."""

from ssl_framework.evaluation.cross_modal import Pairs
from ssl_framework.evaluation.features import Accuracy


class Preference:
    """Shows whether a model reads a whole caption: all words but those of one factor are the same in both."""

    def __call__(self, test: Pairs) -> dict[str, float]:
        """Percent of samples nearer to their own caption than to the one whose factor was changed, factor by factor:
        ``preference[colour]/top1``. A tie counts against the model. Nothing where the data have no such captions."""
        own = (test.main * test.other).sum(dim=1)  # [N]
        right = {factor: int((own > (test.main * other).sum(dim=1)).sum()) for factor, other in test.swapped.items()}
        return {f"preference[{factor}]/top1": Accuracy(count, len(own)) for factor, count in right.items()}

    def chance(self, test: Pairs) -> dict[str, float]:
        """One of two."""
        return {f"preference[{factor}]/top1": 50.0 for factor in test.swapped}
