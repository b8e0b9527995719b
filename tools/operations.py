"""How many operations the host dispatches in a training step, part by part, as on a GPU; no GPU is needed.

    python -m tools.operations [METHOD ...] [--backbone NAME] [--optimizer NAME] [--compiled]

A step of small images on a GPU costs what its dispatches cost, not what it computes. Views, encoders, loss and backward
pass run on meta tensors, which have shapes and no numbers and take the branches of a GPU; optimizer and teacher, which
have none, run on the CPU. "kernels" leaves out what only looks at a tensor otherwise, such as a transposition.
"""

import argparse
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_framework.build import build_module
from ssl_framework.module import SSLModule
from ssl_framework.runs.config import hosted
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.types import Clock, Samples

PARTS = ("views", "student", "teacher", "objective", "backward", "optimizer", "teacher update", "other")
METHODS = ("simclr", "mocov2", "byol")


class Operations(TorchDispatchMode):
    """Counts operations by the part of the step that they belong to.

    Attributes:
        part: the running one.
        counts: part -> name of an operation -> how often.
        looks: names of operations that compute nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = "other"
        self.counts: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
        self.looks: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.counts[self.part][str(function)] += 1
        if function.is_view:
            self.looks.add(str(function))
        return function(*args, **(kwargs or {}))

    @contextlib.contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """Meanwhile another part runs."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    def found(self, kernels: bool = False) -> dict[str, int]:
        """Part -> operations.

        Args:
            kernels: without those that only look at a tensor otherwise.
        """
        return {
            part: sum(n for name, n in counter.items() if not (kernels and name in self.looks))
            for part, counter in self.counts.items()
        }


class Anywhere(Clock):
    """A clock whose random numbers are torch's own: there is no generator of meta tensors."""

    def generator(self, device: torch.device | str = "cpu") -> Any:
        return None


def count(cfg: DictConfig, batch: int = 8) -> Operations:
    """The operations of one step after the first.

    Args:
        cfg: resolved, of pictures.
        batch: samples.
    """
    module = build_module(cfg, True, 64)
    operations = Operations()
    update(module, operations)
    module.to("meta")
    channels, size = cfg.data.channels, cfg.data.image_size
    pixels = torch.empty(batch, channels, size, size, dtype=torch.uint8, device="meta")  # [B, C, H, W]
    index = torch.empty(batch, dtype=torch.long, device="meta")  # [B]
    clock = Anywhere(5, 0, 10)
    with mock.patch("torch.autocast", lambda *args, **kwargs: contextlib.nullcontext()):  # meta tensors have none
        watch(module, operations)
        with operations:
            loss = module.losses(Samples(pixels, index, index), clock)["loss"]
            with operations.inside("backward"):
                loss.backward()
                module.objective.after_backward(clock)
                module.student.after_backward(clock)
    return operations


def update(module: SSLModule, operations: Operations) -> None:
    """Optimizer and teacher, on the CPU."""
    optimizer, _ = module.recipe.build(module, 256, 10)
    for number in range(2):  # the first step makes the optimizer's state
        for p in module.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        with operations if number else contextlib.nullcontext():
            with operations.inside("optimizer"):
                optimizer.step()
            with operations.inside("teacher update"):
                if module.teacher is not None:
                    module.teacher.update(module.student, Clock(5, 0, 10))
    module.zero_grad()


def watch(module: SSLModule, operations: Operations) -> None:
    """Has the parts of the module say when they run. Changes the module."""
    parts = {"views": module.views, "student": module.student, "teacher": module.teacher, "objective": module.objective}
    for name, part in parts.items():
        if part is not None:
            part.forward = within(part.forward, name, operations)  # type: ignore[union-attr]


def within(forward: Any, name: str, operations: Operations) -> Any:
    """The same call, counted for a part."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with operations.inside(name):
            return forward(*args, **kwargs)

    return call


def composed(method: str, *overrides: str) -> DictConfig:
    """The resolved config of a method, on CIFAR-10 unless it is told otherwise."""
    data = [] if any(item.startswith("data=") for item in overrides) else ["data=cifar10"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = hosted(compose("train", [f"method={method}", *data, *overrides]))
    OmegaConf.resolve(cfg)
    return cfg


def main() -> None:
    """Entry point; prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tools.operations", description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--optimizer", help="in the place of the method's own")
    given = parser.parse_args()
    overrides = [f"backbone={given.backbone}"] + ([f"optimizer={given.optimizer}"] if given.optimizer else [])
    table = Table("method", *PARTS, "all", title="operations dispatched in a step (kernels)", title_justify="left")
    for method in given.methods:
        operations = count(composed(method, *overrides))
        every, kernels = operations.found(), operations.found(kernels=True)
        cells = [f"{every[part]} ({kernels[part]})" for part in PARTS]
        table.add_row(method, *cells, f"{sum(every.values())} ({sum(kernels.values())})")
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
