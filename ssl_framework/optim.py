"""Optimizers as the papers describe them: parameter groups, LARS, linear warm-up and cosine decay."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssl_framework.arguments import BelowOne, NonNegative, Positive, PositiveFraction, guarded
from ssl_framework.distributed import local, norms_of


@guarded
class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al., arXiv:1708.03888), as SimCLR and BYOL use it.

    torch has none; this one takes divided weights and waits for no device.

    Args:
        params: parameters or groups; a group with ``adapt: False`` is plain SGD with momentum.
        lr: learning rate.
        momentum: of the update.
        weight_decay: added to the gradient before the rate is adapted.
        trust: eta, the trust coefficient.
        clip_rate: the adapted rate is never above ``lr`` (LARC, as solo-learn takes it for small images); otherwise it
            is a factor of ``lr``.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: NonNegative,
        momentum: BelowOne = 0.9,
        weight_decay: NonNegative = 0.0,
        trust: Positive = 0.001,
        clip_rate: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "clipped": clip_rate,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; no synchronisation with the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = [p.grad for p in params if p.grad is not None]
            if group["weight_decay"] or group["adapt"]:
                updates = [*torch._foreach_add(updates, params, alpha=group["weight_decay"])]
            if group["adapt"]:
                rates = adapted_rates(params, updates, group)  # [P]
                torch._foreach_mul_([local(x) for x in updates], [*rates.unbind()])
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in params]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(params, buffers, alpha=-group["lr"])
        return loss


def adapted_rates(params: list[Tensor], updates: list[Tensor], group: Mapping[str, Any]) -> Tensor:
    """LARS's factor of the learning rate of every parameter, in a count of operations that does not grow with theirs.

    Args:
        params, updates: P tensors each, or shares of them that the ranks have divided.
        group: of the optimizer.

    Returns:
        [P]
    """
    norms = norms_of([*params, *updates])  # [2P]
    weights, grads = norms.chunk(2)  # 2 x [P]
    if group.get("clipped"):  # earlier checkpoints do not say
        most = group["trust"] / group["lr"] if group["lr"] else math.inf
        rates = (most * weights / grads).clamp_(max=1)  # [P]
    else:
        rates = group["trust"] * weights / grads  # [P]
    # A zero weight or gradient leaves the rate as it is, as in the authors' code.
    return rates.masked_fill_(torch.minimum(weights, grads) <= 0, 1.0)


@guarded
class OptimizerRecipe:
    """Everything about the update that a paper's appendix states.

    Args:
        algorithm: builds the optimizer from (parameter groups, lr=..., weight_decay=...).
        lr_per_256: learning rate for a global batch of 256, scaled linearly with the global batch.
        weight_decay: for weights.
        exclude_bias_and_norm: biases and normalisation parameters get no weight decay (and no LARS adaptation).
        warmup: share of the run's steps over which the rate rises linearly from 0, in [0, 1].
        layer_decay: factor of the rate from a layer of the backbone to the one before it; heads have the whole rate,
            the last layer ``layer_decay`` times it, and so on (Bao et al., BEiT, ICLR 2022, arXiv:2106.08254). 1: one
            rate for all.
        final_weight_decay: which the weight decay reaches at the end of the run, along half a cosine from
            ``weight_decay`` (Caron et al., DINO, arXiv:2104.14294, section 3.1: 0.04 to 0.4). ``None``: it stays.
    """

    def __init__(
        self,
        algorithm: Callable[..., Optimizer],
        lr_per_256: Positive,
        weight_decay: NonNegative,
        exclude_bias_and_norm: bool,
        warmup: BelowOne,
        layer_decay: PositiveFraction = 1.0,
        final_weight_decay: NonNegative | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.lr_per_256 = lr_per_256
        self.weight_decay = weight_decay
        self.exclude_bias_and_norm = exclude_bias_and_norm
        self.warmup = warmup
        self.layer_decay = layer_decay
        self.final_weight_decay = final_weight_decay

    def build(
        self,
        module: nn.Module,
        global_batch: int,
        total_steps: int,
        own_rates: Mapping[nn.Module, float] = MappingProxyType({}),
        above: Mapping[Tensor, int] = MappingProxyType({}),
        fused: bool = True,
    ) -> tuple[Optimizer, LambdaLR]:
        """The optimizer over the module's trainable parameters, and its schedule in steps.

        Args:
            module: whose parameters are trained.
            global_batch: samples of an optimizer step, over all ranks.
            total_steps: of the run.
            own_rates: parts of the module, and their learning rate relative to all others; they become groups of their
                own behind the rest.
            above: parameters of the backbone, and how many layers lie above each, the heads as one; read where
                ``layer_decay`` is below 1.
            fused: whether the step may be fused where ``algorithm`` asks for it.
        """
        lr = self.lr_per_256 * global_batch / 256
        groups = parameter_groups(module, self.weight_decay, self.exclude_bias_and_norm)
        theirs = {id(p) for part in own_rates for p in part.parameters()}
        groups = [{**group, "params": [p for p in group["params"] if id(p) not in theirs]} for group in groups]
        for part, factor in own_rates.items():
            own = parameter_groups(part, self.weight_decay, self.exclude_bias_and_norm)
            groups += [{**group, "lr": lr * factor} for group in own]
        if self.layer_decay < 1:
            factors = {id(p): self.layer_decay**number for p, number in above.items()}
            groups = [part for group in groups for part in of_one_rate(group, lr, factors)]
        groups = [part for group in groups for part in of_one_kind(group)]
        algorithm = self.algorithm if fused else unfused(self.algorithm)
        optimizer = algorithm(groups, lr=lr, weight_decay=self.weight_decay)
        return optimizer, Schedule(optimizer, total_steps, self.warmup, self.final_weight_decay)


class Schedule(LambdaLR):
    """Learning rate and weight decay of every group in steps; groups without decay stay without.

    Args:
        optimizer: whose groups they are.
        total_steps: of the run.
        warmup: see ``OptimizerRecipe``, as ``final_weight_decay``.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float, final_weight_decay: float | None) -> None:
        self.total_steps = total_steps
        self.final_weight_decay = final_weight_decay
        self.first_weight_decay = [group["weight_decay"] for group in optimizer.param_groups]
        super().__init__(optimizer, lambda step: warmup_cosine(step, total_steps, warmup))

    def state_dict(self) -> dict[str, Any]:
        """Without what the config says: a run may be resumed with more steps."""
        own = ("total_steps", "final_weight_decay", "first_weight_decay")
        return {name: value for name, value in super().state_dict().items() if name not in own}

    def step(self, epoch: int | None = None) -> None:
        """Sets both for the next update."""
        super().step(epoch)
        if self.final_weight_decay is None:
            return
        left = warmup_cosine(self.last_epoch, self.total_steps, 0.0)
        for group, first in zip(self.optimizer.param_groups, self.first_weight_decay, strict=True):
            if first > 0:
                group["weight_decay"] = self.final_weight_decay + (first - self.final_weight_decay) * left


def parameter_groups(module: nn.Module, weight_decay: float, exclude_bias_and_norm: bool) -> list[dict]:
    """Weights, and (if excluded) one-dimensional parameters without decay and LARS adaptation."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not exclude_bias_and_norm:
        return [{"params": trainable, "weight_decay": weight_decay, "adapt": True}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
    ]


def unfused(algorithm: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """The same without ``fused=True``."""
    if not isinstance(algorithm, partial):
        return algorithm
    keywords = {name: value for name, value in algorithm.keywords.items() if name != "fused"}
    return partial(algorithm.func, *algorithm.args, **keywords)


def of_one_rate(group: dict, lr: float, factors: Mapping[int, float]) -> list[dict]:
    """A group of parameters, divided by their learning rates.

    Args:
        group: of an optimizer.
        lr: of groups that have none of their own.
        factors: ``id`` of a parameter -> its rate relative to the group's; 1 for all others.
    """
    found: dict[float, list[Tensor]] = {}
    for p in group["params"]:
        found.setdefault(factors.get(id(p), 1.0), []).append(p)
    return [{**group, "params": params, "lr": group.get("lr", lr) * factor} for factor, params in found.items()]


def of_one_kind(group: dict) -> list[dict]:
    """A group of parameters, or two if the ranks have divided some of them only: no operation takes both at once.

    Fused steps know no divided parameters, and the alternative is one parameter after another.
    """
    divided = [p for p in group["params"] if isinstance(p, DTensor)]
    if not divided:
        return [group]
    rest = [p for p in group["params"] if not isinstance(p, DTensor)]
    parts = [{**group, "params": divided, "fused": False, "foreach": True}]
    return [*parts, {**group, "params": rest}] if rest else parts


def warmup_cosine(step: int, total_steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step: linear from 0 to 1, then half a cosine towards 0.

    With W steps of warm-up among T, step t = 0, 1, ... T - 1 has ``(t + 1) / W``, and then ``(1 + cos(pi (t - W) /
    (T - W))) / 2``. So the cosine would be 0 at step T, which is not taken, as in the code of SimCLR (a decay of
    ``global_step - warmup_steps`` over ``total_steps - warmup_steps``), BYOL, SwAV and DINO. lightly's is 0 at T - 1.
    """
    rise = round(warmup * total_steps)
    if step < rise:
        return (step + 1) / rise
    return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, total_steps - rise)))) / 2
