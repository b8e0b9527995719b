"""How far the states of the tokens of a text point apart: the isotropy of Su and Xu, Contrastive Search Is What You
Need For Neural Text Generation (arXiv:2210.14140), section 3.

N texts, L tokens, D features.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.features import Bare, Splits, extract
from ssl_framework.module import SSLModule
from ssl_framework.objectives.simctg import isotropy


@guarded
class TokenIsotropy(AfterRun):
    """The mean over texts of the test split of one minus the mean cosine of their different tokens.

    Args:
        protocol: see ``AfterRun``.
        num_samples: the first so many texts, at most.
    """

    images_shown = "clean texts of the test split, the first wording of each"
    at_the_end = True

    def __init__(self, protocol: str, num_samples: Count) -> None:
        super().__init__(protocol)
        self.num_samples = num_samples

    def check(self, module: SSLModule | Bare) -> None:
        if "tokens" not in module.student.dims:
            raise ValueError(
                f"evaluation={self.name} reads tokens, which {module.student.backbone.name} has not: choose data of "
                "texts, such as data=caption_texts, or another evaluation"
            )

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """``token_isotropy[n=500]/backbone`` in [0, 2]: 0 where all tokens of a text point one way, near 1 where they
        are as different as random directions. Texts of one token are left out.

        Raises:
            ValueError: the backbone gives no tokens.
        """
        self.check(module)
        student = frozen_copy(module)
        rows = data.test.rows
        first = torch.arange(min(self.num_samples, len(rows)), device=rows.device)  # [N]

        def of_each(x: Tensor) -> Tensor:
            """[B, ...] -> [B, 1]"""
            return isotropy(student.features(clean(module, x))["tokens"])[:, None]

        found = extract(of_each, Split(chosen(rows, first)), module.device)[:, 0]  # [N]
        return {f"{self.name}[n={len(found)}]/backbone": torch.nanmean(found.double()).item()}
