"""An alarm for collapse, which a falling loss hides."""

import warnings
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ssl_framework.distributed import rank
from ssl_framework.evaluation.measures import feature_std
from ssl_framework.functional import positions
from ssl_framework.module import SSLModule
from ssl_framework.objectives.base import Objective


def as_rows(x: Tensor) -> Tensor:
    """The positions of a map [B, D, h, w] as rows [B * h * w, D]; all else as it is."""
    return positions(x).flatten(0, 1) if x.ndim == 4 else x


class CollapseAlarm(L.Callback):
    """Warns once, in one sentence, when the encoder gives nearly the same direction to all images of a batch.

    Looks at the first step and every ``log_every_n_steps`` at what the last training step has computed: pooled features
    and the output of the student's first head, of rank 0's first view; of a map its positions, as if they were
    samples. No pass of its own, no labels; between these steps nothing is computed, so a GPU is not waited for. Logs
    ``train/feature_std`` and ``train/embedding_std``.

    It warns after two looks in a row below ``below`` and below half of the first look's value: an untrained network may
    be low itself, and a healthy one dips. Measured on shapes, 1,000 images, batch 128, tiny backbone; first look,
    lowest and last value of the embeddings, and steps:

        simclr 0.81, 0.49, 0.49 (7); byol 0.81, 0.81, 0.81 (7); barlow_twins 0.80, 0.70, 0.70 (7);
        mocov2 0.48, 0.15, 0.37 (35); byol's projectors drawn together, without predictor and teacher: 0.81, 0.04, 0.04
        (56), and below 0.08 from step 15 on.

    The features alone would not show that collapse: behind batch normalisation they stood at 0.51, 0.51 and 0.69,
    those of healthy runs between 0.49 and 0.69.

    Where the config is known to lack what its method needs against collapse, two thirds of the first look's value are
    low enough. Behind a batch normalisation at the end a batch cannot become one vector: simsiam's embeddings without
    stop-gradient fell from 0.99 to 0.63 in 30 steps and to 0.41 in 110; those of the recipe stayed above 0.95.

    Args:
        below: of ``feature_std``, in (0, 1).
        why: the likely cause and its cure, as ``causes.likely_cause`` tells them.
        known: whether that is a ``causes.known_cause``.
    """

    def __init__(
        self,
        below: float,
        why: str = "most likely because the learning rate is too high: lower it",
        known: bool = False,
    ) -> None:
        if not 0 < below < 1:
            raise ValueError(f"trainer.collapse_below is {below}: it must be between 0 and 1, or null for no alarm")
        self.below = below
        self.why = why
        self.known = known
        self.warned = False
        self.first: dict[str, float] = {}
        self.low: dict[str, int] = {}  # looks in a row that were too low
        self._latest: dict[str, Tensor] = {}  # [B, D] each
        self._looked_at = -1
        self._hook: RemovableHandle | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"warned": self.warned, "first": self.first, "low": self.low, "looked_at": self._looked_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warned, self.first, self.low = state["warned"], state["first"], state["low"]
        self._looked_at = state.get("looked_at", -1)  # a checkpoint of an earlier version has none

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if rank() != 0:
            return
        assert isinstance(pl_module, SSLModule)
        heads = list(pl_module.student.heads)
        names = {"feature": "pooled"} | ({"embedding": heads[0]} if heads else {})

        def keep(objective: Objective, inputs: Any, losses: Any) -> None:
            view = next(view for view in inputs[0] if view is not None)
            # The direction of one number says nothing, and several vectors a sample are no embedding.
            self._latest = {
                what: x.detach()
                for what, name in names.items()
                if name in view and (x := as_rows(view[name])).ndim == 2 and x.shape[1] > 1
            }

        # Of the objective: what evaluators and mixers ask the encoder does not come by, and a batch is whole.
        self._hook = pl_module.objective.register_forward_hook(keep)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not self._latest or step == self._looked_at or (self.first and step % every):
            return
        self._looked_at = step
        found = {what: feature_std(x) for what, x in self._latest.items()}
        self.first = self.first or found
        if step % every == 0:
            for logger in trainer.loggers:  # a training row counts the updates before its own
                logger.log_metrics({f"train/{what}_std": value for what, value in found.items()}, step=step - 1)
        for what, value in found.items():
            alike = value < min(self.below, self.first[what] / 2)
            too_low = alike or (self.known and value < self.first[what] * 2 / 3)
            self.low[what] = self.low.get(what, 0) + 1 if too_low else 0
            if self.low[what] > 1 and not self.warned:
                self.warned = True
                way, state = ("almost all", "has collapsed") if alike else ("more and more", "is collapsing")
                warnings.warn(
                    f"the {what}s of a batch point {way} the same way ({what}_std {value:.2g} at step {step}, "
                    f"{self.first[what]:.2g} at the first; isotropic ones have 1): the encoder {state}, {self.why}"
                )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._latest = None, {}
