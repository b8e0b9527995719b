"""TERA: Liu et al., TERA: Self-Supervised Learning of Transformer Encoder Representation for Speech, TASLP 2021
(arXiv:2007.06028), section III.

A transformer sees a log-mel picture of which frames, bands and loudness were altered, and says what it was before. The
error counts where something was altered.

B samples, M mel bands, F frames.
"""

from torch import Tensor

from ssl_framework.arguments import guarded
from ssl_framework.distributed import mean_of
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class TERA(Objective):
    """Mean absolute error at the altered places.

    Logs the share of places that are altered.

    Args:
        head: name of the student's output that predicts, [B, F, M], a vector a frame.
    """

    requires = frozenset({"maps", "originals"})
    num_views = (1, 1)

    def __init__(self, head: str = "frames") -> None:
        super().__init__()
        self.head = head
        self.reads = self.token_reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Raises ValueError: nothing says what the sounds were, or the student's tokens are no frames."""
        (prediction,) = outputs_of(student, self.head)  # [B, F, M]
        if batch.targets is None or len(batch.targets) != 2:
            raise ValueError(
                "TERA asks what altered pictures were before, but the views do not tell: choose views=tera"
            )
        target, altered = (x[:, 0].transpose(1, 2) for x in batch.targets)  # [B, F, M] each
        if prediction.shape != target.shape:
            raise ValueError(
                f"TERA predicts {target.shape[1]} frames of {target.shape[2]} bands, but {self.head} gives "
                f"{prediction.shape[1]} tokens of {prediction.shape[2]} numbers: choose backbone=frames"
            )
        share = altered.float().mean()
        return {"loss": mean_of((prediction - target).abs(), altered), "altered": share}
