"""The training step: the product against a bare loop and against lightly, on SimCLR with two views of 32 px.

The product is the Lightning run that ``train.py`` starts, with its callbacks and its log. It is stopped between two
steps, again and again, while a competitor does as many steps, so that all of them meet the same machine.
"""

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn

from ssl_framework.build import build, build_module
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.device import accelerator_of, keep_freed_memory
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.messages import quiet
from ssl_framework.training.metrics_log import MetricsCSV
from ssl_framework.training.nonfinite import NonFiniteWatch
from ssl_framework.training.precision import settle_precision
from ssl_framework.training.progress import Progress
from ssl_framework.training.signals import StopSignals
from ssl_framework.training.step_log import StepLog
from ssl_framework.training.trainer import build_trainer
from ssl_framework.types import Samples
from tools.benchmark.peers import LightlyBatches, need, random_images
from tools.benchmark.timing import Figure, figure, ratio, wait

SIZE = 32


def run(quick: bool) -> dict[str, Figure]:
    """For the tiny net and ResNet-18: how many times as fast as a competitor ours is (seconds of theirs over ours).

    ``<net>/ours_over_bare``: a hand-written loop of the same operations in the same precision and layout.
    ``<net>/ours_over_lightly``: lightly's transform, DataLoader with two workers and loss, in float32 on both sides.
    ``<net>/best_over_lightly``: with the precision that ``trainer=auto`` chooses here, where that is another one.
    On a GPU also ``<net>/full_over_model``: seconds of the model's forward and backward pass on ready views, over
    those of the whole step; and ``<net>/peak_mib``.
    """
    quiet()
    keep_freed_memory()
    if quick:
        sizes = {"tiny": (32, 1, 1)}
    elif torch.cuda.is_available():
        sizes = {"tiny": (512, 30, 7), "resnet18": (512, 30, 7)}
    else:
        sizes = {"tiny": (256, 20, 7), "resnet18": (64, 2, 5)}
    result: dict[str, Figure] = {}
    for net, (batch, steps, rounds) in sizes.items():
        result |= {f"{net}/{name}": value for name, value in compare(net, batch, steps, rounds).items()}
    return result


def compare(net: str, batch: int, steps: int, rounds: int) -> dict[str, Figure]:
    """The figures of one backbone; ``steps`` of each competitor in every one of ``rounds``."""
    pixels = random_images(batch, SIZE)  # [B, 3, H, W]
    product = Product(net, batch, pixels, precision="32-true")
    best = Product(net, batch, pixels, precision="auto")
    competitors: dict[str, Callable[[], object]] = {
        "lightly": lightly_loop(net, pixels, steps),
        "bare": bare_loop(product, pixels, steps),
    }
    seconds = product.against(competitors, steps, rounds)
    figures = {
        "ours_over_bare": ratio(seconds["bare"], seconds["ours"]),
        "ours_over_lightly": ratio(seconds["lightly"], seconds["ours"]),
    }
    if best.precision != "32-true":
        competitors = {"lightly": lightly_loop(net, pixels, steps), "bare": bare_loop(best, pixels, steps)}
        if torch.cuda.is_available():
            competitors["model"] = model_only(best, pixels, steps)
            torch.cuda.reset_peak_memory_stats()
        seconds = best.against(competitors, steps, rounds)
        figures["best_over_bare"] = ratio(seconds["bare"], seconds["ours"])
        figures["best_over_lightly"] = ratio(seconds["lightly"], seconds["ours"])
        if torch.cuda.is_available():
            figures["full_over_model"] = ratio(seconds["model"], seconds["ours"])
            figures["peak_mib"] = figure([torch.cuda.max_memory_allocated() / 2**20])
    figures["images_per_second"] = figure([steps * batch / s for s in seconds["ours"]])
    return figures


class Product:
    """What ``python train.py method=simclr data=cifar10`` runs, on random pictures."""

    def __init__(self, net: str, batch: int, pixels: Tensor, precision: str) -> None:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = compose(
                "train",
                [
                    "method=simclr",
                    "data=cifar10",
                    f"backbone={net}",
                    f"data.batch_size={batch}",
                    f"trainer.precision={precision}",
                    "trainer.max_epochs=1",
                    "evaluation=none",
                ],
            )
        assert isinstance(cfg, DictConfig)
        OmegaConf.resolve(cfg)
        self.cfg = cfg
        self.batch = batch
        self.rows = pixels
        L.seed_everything(0, verbose=False)
        self.module: SSLModule = build_module(cfg, has_labels=True)
        self.folder = Path(tempfile.mkdtemp())
        settle_precision(cfg, self.folder)
        self.precision: str = cfg.trainer.precision
        self.device = torch.device("cuda" if accelerator_of(cfg.trainer) == "gpu" else "cpu")

    def data(self, steps: int) -> DataModule:
        """One epoch of ``steps`` batches."""
        return DataModule(Repeated(self.rows, steps * self.batch), self.batch, seed=0, resident_share=0.5)

    def against(self, competitors: dict[str, Callable[[], object]], steps: int, rounds: int) -> dict[str, list[float]]:
        """Seconds of ``steps`` steps of ours and of each competitor, round by round; the first round does not count."""
        turns = Turns(competitors, steps)
        console = Console(quiet=True)
        watch = NonFiniteWatch(RunFolder(self.folder))
        callbacks = [StopSignals(), watch, Progress(console), StepLog(console), turns]
        trainer = build_trainer(self.cfg.trainer, self.folder, callbacks, [MetricsCSV(self.folder)])
        module = copy.deepcopy(self.module)
        trainer.fit(module, datamodule=self.data(steps * (rounds + 1)))
        return {name: taken[1:] for name, taken in turns.seconds.items()}


class Repeated:
    """So many images, all of them from a few."""

    def __init__(self, pixels: Tensor, count: int) -> None:
        self.images = Split(pixels.repeat(-(-count // len(pixels)), 1, 1, 1)[:count], torch.arange(count) % 10)

    def load(self, split: str) -> Split:
        """The same for every split."""
        return self.images


class Turns(L.Callback):
    """Lets every competitor run after each ``steps`` steps of the product, and times all of them."""

    def __init__(self, competitors: dict[str, Callable[[], object]], steps: int) -> None:
        self.competitors = competitors
        self.steps = steps
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *competitors)}
        self.started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        wait()
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step % self.steps:
            return
        wait()
        self.seconds["ours"].append(time.perf_counter() - self.started)
        for name, function in self.competitors.items():
            started = time.perf_counter()
            with torch.enable_grad():
                function()
            wait()
            self.seconds[name].append(time.perf_counter() - started)
        self.started = time.perf_counter()


def bare_loop(product: Product, pixels: Tensor, steps: int) -> Callable[[], None]:
    """The same operations written down by hand: gather, views, network, NT-Xent, SGD with its schedule."""
    device, batch = product.device, product.batch
    module = copy.deepcopy(product.module).to(device)
    views, student = module.views, module.student
    optimizer = torch.optim.SGD(student.parameters(), lr=0.12, momentum=0.9, weight_decay=5e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(step / 1e6)) / 2)
    resident = pixels.repeat(steps, 1, 1, 1).to(device)  # [steps * B, 3, H, W]

    def loop() -> None:
        order = torch.randperm(len(resident), device=device)
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]  # [B]
            two = views(Samples(resident[index], index)).views
            with torch.autocast(device.type, torch.bfloat16, enabled=product.precision == "bf16-mixed"):
                z = student.encode(torch.cat(two))["projector"]  # [2B, D]
            loss = nt_xent(z.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    return loop


def model_only(product: Product, pixels: Tensor, steps: int) -> Callable[[], None]:
    """Forward and backward pass of the network on views that are there already: the limit of any pipeline."""
    device = product.device
    student = copy.deepcopy(product.module.student).to(device)
    ready = torch.cat([(pixels.to(device).float() / 255 - 0.5) / 0.25] * 2)  # [2B, 3, H, W]

    def loop() -> None:
        for _ in range(steps):
            student.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=product.precision == "bf16-mixed"):
                z = student.encode(ready)["projector"]  # [2B, D]
            z.float().square().mean().backward()

    return loop


def lightly_loop(net: str, pixels: Tensor, steps: int) -> Callable[[], None]:
    """lightly's SimCLR as its documentation writes it: transform, DataLoader, projection head, loss, SGD; float32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    heads, losses = need("lightly.models.modules.heads"), need("lightly.loss")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["data=cifar10", f"backbone={net}"])
    backbone = build(cfg.backbone).to(device)
    plain = backbone.net.to(memory_format=torch.contiguous_format)
    head: nn.Module = heads.SimCLRProjectionHead(backbone.dim, 512, 128).to(device)
    criterion = losses.NTXentLoss(temperature=0.2)
    parameters: Iterable[nn.Parameter] = [*plain.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.06, momentum=0.9, weight_decay=5e-4)
    batches = LightlyBatches(pixels, steps, "lightly")

    def embed(x: Tensor) -> Tensor:
        features = plain.forward_head(
            plain.forward_features(x.to(device, non_blocking=True)), pre_logits=True
        )  # [B, D]
        return head(features)

    def loop() -> None:
        for x0, x1 in batches:
            loss = criterion(embed(x0), embed(x1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return loop


def nt_xent(z: Tensor) -> Tensor:
    """Dense NT-Xent of two views of every sample, [2B, D] -> scalar."""
    z = F.normalize(z, dim=1)  # [2B, D]
    own = torch.arange(len(z), device=z.device)  # [2B]
    logits = (z @ z.T / 0.2).fill_diagonal_(float("-inf"))  # [2B, 2B]
    return F.cross_entropy(logits, own.roll(len(z) // 2))
