"""What each mixer costs beside a training step of the tiny net: SimCLR, two views of 128 images of 32 px, one mixed."""

from collections.abc import Callable

import torch

from ssl_framework.build import build
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.models.encoder import Encoder
from ssl_framework.report.pictures.mixtures import composed, mixer_names, while_mixing
from ssl_framework.types import Batch
from tools.benchmark.peers import random_images
from tools.benchmark.step import SIZE, Product
from tools.benchmark.timing import Figure, figure, ratio

BATCH = 128


def run(quick: bool) -> dict[str, Figure]:
    """For every file of configs/mixer, as it is shipped; those that refuse the tiny net are left out.

    ``<mixer>/over_step``: seconds of mixing one view, over those of a step without a mixer, in the same round.
    ``<mixer>/milliseconds``: of mixing one view.
    """
    batch, steps, rounds = (16, 1, 1) if quick else (BATCH, 10, 9)
    product = Product("tiny", batch, random_images(batch, SIZE), precision="32-true")
    loops = {name: mixing(name, product, steps) for name in mixer_names()}
    measured: dict[str, Callable[[], object]] = {name: loop for name, loop in loops.items() if loop is not None}
    seconds = product.against(measured, steps, rounds)
    result: dict[str, Figure] = {}
    for name in measured:
        result[f"{name}/over_step"] = ratio(seconds[name], seconds["ours"])
        result[f"{name}/milliseconds"] = figure([1000 * taken / steps for taken in seconds[name]])
    return result


def mixing(name: str, product: Product, steps: int) -> Callable[[], None] | None:
    """As many mixtures of a batch as a round has steps, with an untrained network for mixers that look through it.
    ``None`` for a mixer that refuses the network.

    Mixers that work inside the network cost next to nothing here, where only their shares are drawn.
    """
    cfg = composed(["data=cifar10", "backbone=tiny", f"mixer={name}"])[0]
    mixer: Mixing = build(cfg.mixer)
    student: Encoder = build(cfg.student)
    mixer.attach(student)
    mixer.to(product.device), student.to(product.device)
    views = [torch.randn(product.batch, 3, SIZE, SIZE, device=product.device) for _ in range(2)]  # 2 x [B, 3, h, w]
    index = torch.arange(product.batch, device=product.device)
    batch, clock = Batch(views, index, index % 10), while_mixing(mixer)

    def loop() -> None:
        for _ in range(steps):
            mixer(batch, clock, student, teacher=student)

    try:
        mixer(batch, clock, student, teacher=student)
    except ValueError:
        return None
    return loop
