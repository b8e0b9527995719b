"""What an update is made of, logged: the norm of the gradient and the learning rates."""

from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssl_framework.distributed import local


class StepLog(L.Callback):
    """Logs ``train/grad_norm`` and ``train/lr`` every ``log_every_n_steps``, in the row of the loss.

    The norm is the Euclidean one of all gradients together, before clipping, over all ranks; ``inf`` where a step in
    16-mixed is skipped. Groups of parameters whose rate is another than those of the groups before have theirs in
    ``train/lr_<number of the group>``. In other steps nothing is computed, and the device is not waited for before the
    step is made.

    A run that goes on with another length has another schedule: its rate is that of the new one from the first step on,
    and one line says so.

    Args:
        console: for that line.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._found: dict[str, Tensor | float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (schedule,) = (each.scheduler for each in trainer.lr_scheduler_configs)
        assert isinstance(schedule, LambdaLR)
        steps = int(trainer.estimated_stepping_batches)
        said = follow(schedule, steps) if trainer.global_step < steps else ""
        if said and trainer.is_global_zero:
            self.console.print(said, highlight=False, markup=False, soft_wrap=True)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            norm = gradient_norm(pl_module.parameters()) / scale_of(trainer.precision_plugin, optimizer)  # []
            self._found = {"grad_norm": norm, **rates(optimizer.param_groups)}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self._found:
            found = {f"train/{name}": float(value) for name, value in self._found.items()}
            for logger in trainer.loggers:
                logger.log_metrics(found, step=trainer.global_step - 1)  # a training row counts the updates before it
            self._found = {}


def follow(schedule: LambdaLR, steps: int) -> str:
    """Sets the rates to what their schedule says now, and tells of a change; "" where a run goes on as it was.

    Args:
        schedule: as it was restored, with rates that were computed for the run's former length.
        steps: the length of the run.
    """
    at, groups = schedule.last_epoch, schedule.optimizer.param_groups
    before = [group["lr"] for group in groups]
    now = [base * factor(at) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    if now == before:
        return ""
    for group, rate in zip(groups, now, strict=True):
        group["lr"] = rate
    schedule._last_lr = now
    return f"the learning rate goes on at {now[0]:.4g}; it was {before[0]:.4g}: its schedule is of {steps:,} steps now"


def rates(groups: Sequence[dict[str, Any]]) -> dict[str, float]:
    """``lr`` of the first group of parameters, ``lr_<n>`` of each group n whose rate began as none before it."""
    found: dict[Any, tuple[str, float]] = {}
    for number, group in enumerate(groups):
        found.setdefault(group["initial_lr"], (f"lr_{number}" if number else "lr", group["lr"]))
    return dict(found.values())


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """[]: the Euclidean norm of all gradients, with the shares of other ranks; all ranks ask at once. Nothing waits for
    the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    divided = [local(x) for x in grads if isinstance(x, DTensor)]
    norms = [euclidean([x for x in grads if not isinstance(x, DTensor)])]
    if divided:
        square = euclidean(divided).square()  # []
        dist.all_reduce(square)
        norms.append(square.sqrt())
    return torch.linalg.vector_norm(torch.stack([x.to(norms[-1].device) for x in norms]))  # []


def euclidean(tensors: Sequence[Tensor]) -> Tensor:
    """[]: of all numbers of the tensors, at least in float32."""
    if not tensors:
        return torch.zeros(())
    each = torch.stack([x.to(torch.promote_types(x.dtype, torch.float32)) for x in torch._foreach_norm([*tensors])])
    return torch.linalg.vector_norm(each)


def scale_of(precision: Any, optimizer: Optimizer) -> float:
    """By what the gradients are too large: in 16-mixed, an optimizer may divide by the scale of the loss itself."""
    if not isinstance(precision, MixedPrecision) or precision.scaler is None:
        return 1.0
    own = getattr(optimizer, "_step_supports_amp_scaling", False)  # as Lightning asks before it divides
    return precision.scaler.get_scale() if own else 1.0
