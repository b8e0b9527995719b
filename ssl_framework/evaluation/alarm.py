"""An alarm for collapse, which a falling loss hides."""

import warnings
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ssl_framework.distributed import rank
from ssl_framework.evaluation.measures import feature_std


class CollapseAlarm(L.Callback):
    """Warns once, in one sentence, when the backbone gives nearly the same feature for every image.

    Looks at the end of every epoch at the pooled features that training computed last, so it needs no pass of its own
    and no labels: ``feature_std`` of one batch (of one micro-batch, if data.micro_batch_size divides it) of rank 0.

    Args:
        threshold: of ``feature_std``, in (0, 1).
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"the collapse alarm's threshold is {threshold}: it must be between 0 and 1")
        self.threshold = threshold
        self.warned = False
        self._latest: Tensor | None = None  # [B, D]
        self._hook: RemovableHandle | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warned = state["warned"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hook = pl_module.get_submodule("student.backbone").register_forward_hook(self._look)

    def _look(self, backbone: nn.Module, args: Any, outputs: dict[str, Tensor]) -> None:
        if backbone.training:  # evaluators call it too
            self._latest = outputs["pooled"].detach()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.is_last_batch or self.warned or self._latest is None or rank() != 0:
            return
        found = feature_std(self._latest)
        if found < self.threshold:
            self.warned = True
            warnings.warn(
                f"features are collapsing: after epoch {trainer.current_epoch + 1} their standard deviation is "
                f"{found:.2g} (1: spread over all directions, 0: all equal), below {self.threshold:g}; likely causes "
                "are a learning rate that is too high (optimizer.lr_per_256), a temperature that is too high, or an "
                "objective without negatives that lost its predictor or teacher"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._latest = None
