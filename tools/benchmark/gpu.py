"""What a GPU session measures: compiled views beside plain ones, and the step of SimCLR beside a bare loop of it."""

from collections.abc import Callable

import torch

from ssl_framework.device import device_name, keep_freed_memory
from ssl_framework.runs.messages import quiet
from ssl_framework.training.flops import Multiplications, peak_of
from ssl_framework.types import Samples
from ssl_framework.views.image import Views
from ssl_framework.views.making import Graph
from tools.benchmark.peers import random_images
from tools.benchmark.step import Product, bare_loop, model_only
from tools.benchmark.timing import Figure, figure, interleaved, ratio
from tools.benchmark.views import GROUPS, repeat

BLURRED = [{**GROUPS[0], "blur": 0.5}]


def run(quick: bool) -> dict[str, Figure]:
    """Views of 32 and 224 px, then steps of the tiny network and of ResNet-18 in the precision of ``trainer=auto``.

    ``views/<px>/compiled_over_plain``: times as fast as without the graph; ``views/<px>/milliseconds``: of a batch.
    ``<net>/ours_over_bare``, ``<net>/full_over_model``: as of the benchmark ``step``; ``<net>/share_of_peak``.
    """
    quiet()
    keep_freed_memory()
    found: dict[str, Figure] = {}
    for size, batch in ((32, 8),) if quick else ((32, 512), (224, 256)):
        found |= views(size, batch, GROUPS if size == 32 else BLURRED, 2 if quick else 20)
    shapes = {"tiny": (32, 2, 2)} if quick else {"tiny": (512, 50, 7), "resnet18": (512, 50, 7)}
    for net, (batch, steps, rounds) in shapes.items():
        found |= {f"{net}/{name}": value for name, value in step(net, batch, steps, rounds).items()}
    return found


def views(size: int, batch: int, groups: list[dict], batches: int) -> dict[str, Figure]:
    """Two SimCLR views of a batch, made with and without a compiled graph."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain, compiled = (Views(groups, size, 3, [0.5] * 3, [0.25] * 3).to(device) for _ in range(2))
    compiled.graph = Graph("inductor" if device == "cuda" else "eager")  # a C++ compiler on the CPU takes a minute
    samples = Samples(random_images(batch, size).to(device), torch.arange(batch, device=device))
    for _ in range(3):  # compiles, records the kernels, and starts them
        compiled(samples)
    calls: dict[str, Callable[[], object]] = {
        "plain": lambda: repeat(lambda: plain(samples), batches),
        "compiled": lambda: repeat(lambda: compiled(samples), batches),
    }
    seconds = interleaved(calls, repeats=7)
    assert compiled.graph is not None, "the views could not be compiled"
    return {
        f"views/{size}/compiled_over_plain": ratio(seconds["plain"], seconds["compiled"]),
        f"views/{size}/milliseconds": figure([1000 * s / batches for s in seconds["compiled"]]),
    }


def step(net: str, batch: int, steps: int, rounds: int) -> dict[str, Figure]:
    """The product in turns with a bare loop of the same operations, and with the model alone."""
    pixels = random_images(batch, 32)  # [B, 3, H, W]
    product = Product(net, batch, pixels, precision="auto")
    product.cfg.trainer.log_every_n_steps = steps
    if product.device.type == "cuda":
        product.module.views.compile_parts()  # as trainer.compile_views=auto does; the bare loop has a copy of it
        torch.cuda.reset_peak_memory_stats()
    once = model_only(product, pixels, 1)
    with Multiplications() as counted:
        once()
    competitors = {"bare": bare_loop(product, pixels, steps), "model": model_only(product, pixels, steps)}
    seconds = product.against(competitors, steps, rounds)
    found = {
        "ours_over_bare": ratio(seconds["bare"], seconds["ours"]),
        "full_over_model": ratio(seconds["model"], seconds["ours"]),
        "images_per_second": figure([steps * batch / s for s in seconds["ours"]]),
    }
    if product.device.type == "cuda":
        found["peak_mib"] = figure([torch.cuda.max_memory_allocated() / 2**20])
    if (peak := peak_of(device_name(product.device), product.precision)) is not None:
        found["share_of_peak"] = figure([counted.count * steps / s / peak for s in seconds["ours"]])
    return found
