"""A contrastive loss regularised by a pretext task, as in ScatSimCLR: Kinakh, Taran and Voloshynovskiy, ICCV workshops
2021 (arXiv:2108.13939): ``L = L_contrastive + weight * cross-entropy of the pretext task``.

The last view of a sample was changed in a way that the views know (see ``views.pretext``), and a head of its own has to
say how; the views before it are the host's.

B samples of this rank.
"""

import torch.nn.functional as F
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class Pretext(Objective):
    """A host's loss, and the cross-entropy of the change of the last view.

    Args:
        host: an objective without a state of every sample, such as SimCLR, DCL or BarlowTwins.
        weight: of the cross-entropy; lambda.
        head: of the student, that gives scores of the changes.
    """

    def __init__(self, host: Objective, weight: Positive, head: str = "pretext") -> None:
        super().__init__()
        if host.requires & {"mixer", "added mixtures", "index", "heads", "encoder", "teacher"}:
            raise ValueError(
                f"objective.host is {type(host).__name__}, which needs more than two views of a batch: choose SimCLR, "
                "DCL or BarlowTwins"
            )
        self.host = host
        self.requires = host.requires | {"answer"}
        self.modality = host.modality
        self.reads = (*host.reads, head)
        low, high = host.num_views
        self.num_views = (low + 1, high and high + 1)
        self.weight = weight
        self.head = head

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: nothing says how the last view was changed."""
        if not batch.targets or student[-1] is None:
            raise ValueError(
                "Pretext asks how the last view was changed, but nothing has changed it: choose views=scatsimclr, or "
                "set views.noise to Rotation or Jigsaw of ssl_framework.views.pretext"
            )
        out = self.host(student[:-1], None, batch, clock)
        answer, scores = batch.targets[-1], student[-1][self.head]  # [B], [B, answers]
        pretext = F.cross_entropy(scores, answer)
        right = (scores.argmax(dim=1) == answer).float().mean()
        loss = out["loss"] + self.weight * pretext
        return {**out, "loss": loss, "host_loss": out["loss"], "pretext_loss": pretext, "pretext_accuracy": right}
