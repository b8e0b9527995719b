"""What a training step computes, counted in the first one, and how much of what the device can that is."""

from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Peaks = dict[str, float]

DATASHEETS: dict[str, Peaks] = {  # name in the device's own -> 1e12 floating-point operations a second
    "GB200": {"bf16": 2500, "tf32": 1250, "fp32": 80},  # NVIDIA GB200 NVL72 datasheet, a share of 72
    "B200": {"bf16": 2250, "tf32": 1100, "fp32": 75},  # NVIDIA DGX B200 datasheet and Blackwell architecture brief
    "H200": {"bf16": 989, "tf32": 494, "fp32": 67},  # NVIDIA H200 datasheet, SXM
    "GH200": {"bf16": 989, "tf32": 494, "fp32": 67},  # NVIDIA GH200 datasheet
    "H100 PCIe": {"bf16": 756, "tf32": 378, "fp32": 51},  # NVIDIA H100 datasheet, PCIe
    "H100": {"bf16": 989, "tf32": 494, "fp32": 67},  # NVIDIA H100 datasheet, SXM
    "A100": {"bf16": 312, "tf32": 156, "fp32": 19.5},  # NVIDIA A100 datasheet
    "A40": {"bf16": 149.7, "tf32": 74.8, "fp32": 37.4},  # NVIDIA A40 datasheet
    "A10": {"bf16": 125, "tf32": 62.5, "fp32": 31.2},  # NVIDIA A10 datasheet
    "L40S": {"bf16": 362, "tf32": 183, "fp32": 91.6},  # NVIDIA L40S datasheet
    "L4": {"bf16": 121, "tf32": 60, "fp32": 30.3},  # NVIDIA L4 datasheet, halved where it counts zeros
    "V100": {"fp16": 125, "fp32": 15.7},  # NVIDIA V100 datasheet, SXM2
    "T4": {"fp16": 65, "fp32": 8.1},  # NVIDIA T4 datasheet
    "RTX 4090": {"bf16": 165.2, "tf32": 82.6, "fp32": 82.6},  # NVIDIA Ada architecture whitepaper, table 2
    "RTX 3090": {"bf16": 71, "tf32": 35.6, "fp32": 35.6},  # NVIDIA GA102 architecture whitepaper, table 2
}
"""Of dense matrices, sums in float32; half of what datasheets give "with sparsity". Unverified: the figures are from
memory, and the papers named are where to check them."""


class Multiplications(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, convolutions and attention, as torch's registry has it.

    Attributes:
        count: so far; a multiplication and an addition are two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.count += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


class FlopCount(L.Callback):
    """Counts the first step of a run: encoders, heads, mixers and objective with their backward pass, not the views and
    not the update. What is computed twice to save memory counts twice. Changes no number of the step.

    Args:
        compiled: whether parts of the module are compiled; the step that is counted runs without.

    Attributes:
        flops: of one batch of this process, or None before it was counted; goes into checkpoints.
    """

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled
        self.flops: int | None = None
        self._mode: Multiplications | None = None
        self._hooks: list[Any] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if self.flops is not None or self._mode is not None:
            return
        if self.compiled:
            torch.compiler.set_stance("force_eager")
        self._mode = mode = Multiplications()
        views = pl_module.views
        if isinstance(views, nn.Module):  # what they do is no part of the model, and may be compiled
            self._hooks = [
                views.register_forward_pre_hook(lambda *_: mode.__exit__(None, None, None)),
                views.register_forward_hook(lambda *_: begin(mode)),
            ]
        mode.__enter__()

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._mode is not None:
            self.flops = self._mode.count
            self._end()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._mode is None:
            return
        if on_top(self._mode):
            self._mode.__exit__(None, None, None)
        for hook in self._hooks:
            hook.remove()
        if self.compiled:
            torch.compiler.set_stance("default")
        self._mode, self._hooks = None, []

    def state_dict(self) -> dict[str, Any]:
        return {"flops": self.flops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.flops = state_dict["flops"]


def begin(mode: TorchDispatchMode) -> None:
    """Enters a mode, and returns nothing, as a hook that changes nothing has to."""
    mode.__enter__()


def on_top(mode: TorchDispatchMode) -> bool:
    """Whether a mode is the innermost one now."""
    depth = torch._C._len_torch_dispatch_stack()
    return depth > 0 and torch._C._get_dispatch_stack_at(depth - 1) is mode


def peak_of(device: str, precision: str) -> float | None:
    """Floating-point operations a second that a device can do at most, by its datasheet; None where that is not known.

    Args:
        device: its name, such as "NVIDIA H100 80GB HBM3".
        precision: as of ``trainer.precision``.
    """
    known = sorted((name for name in DATASHEETS if name in device), key=len)
    if not known:
        return None
    kind = {"bf16-mixed": "bf16", "16-mixed": "bf16"}.get(precision, "fp32")
    if kind == "fp32" and torch.get_float32_matmul_precision() != "highest":
        kind = "tf32"
    peaks = DATASHEETS[known[-1]]
    found = peaks.get(kind, peaks.get("fp16") if precision == "16-mixed" else None)
    return None if found is None else found * 1e12


def shares(
    flops: int | None, cfg: DictConfig, processes: int, images_per_second: float, device: str
) -> dict[str, int | float | None]:
    """``flops_per_step`` of ``result.json``, of all processes together, and ``share_of_peak``, of what their devices
    can do (model FLOPs utilisation: Chowdhery et al., PaLM, arXiv:2204.02311, appendix B). None: not known.

    Args:
        flops: of a batch of one process.
        cfg: of the run.
        processes: W.
        images_per_second: of all of them.
        device: the name of each one's.
    """
    step = None if flops is None else flops * processes * cfg.trainer.accumulate_grad_batches
    peak = peak_of(device, cfg.trainer.precision)
    found: dict[str, Any] = {"flops_per_step": step, "share_of_peak": None}
    if flops is not None and peak is not None:
        batches = images_per_second / cfg.data.batch_size  # a second
        found["share_of_peak"] = round(flops * batches / peak, 4)
    return found
