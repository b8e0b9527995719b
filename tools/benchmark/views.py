"""Views alone: two SimCLR views (hue included, no blur, as for CIFAR-10) of 256 images of 32 px."""

import importlib
from collections.abc import Callable

import torch

from ssl_framework.types import Samples
from ssl_framework.views.image import Views
from tools.benchmark.peers import LightlyBatches, random_images
from tools.benchmark.timing import Figure, figure, interleaved, ratio

BATCH, SIZE = 256, 32


GROUPS = [{"count": 2, "scale": [0.08, 1.0], "flip": 0.5, "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_p": 0.8, "gray": 0.2}]
"""``configs/views/simclr.yaml`` without blur."""


def run(quick: bool) -> dict[str, Figure]:
    """Seconds of a competitor over ours for one batch of two views, and megabytes that ours need for a while.

    ``ours_over_lightly``: lightly's SimCLRTransform in a DataLoader with two workers. ``ours_over_torchvision``:
    torchvision's v2 transforms in the same DataLoader. ``ours_over_kornia``: kornia on the batch, as ours.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels = random_images(BATCH, SIZE)  # [B, 3, H, W]
    views = Views(GROUPS, SIZE, 3, [0.5] * 3, [0.25] * 3).to(device)
    samples = Samples(pixels.to(device), torch.arange(BATCH, device=device))
    batches = 2 if quick else 8
    competitors: dict[str, Callable[[], object]] = {"ours": lambda: repeat(lambda: views(samples), batches)}
    lightly = LightlyBatches(pixels, batches, "lightly")
    torchvision = LightlyBatches(pixels, batches, "torchvision")
    kornia = kornia_views().to(device)
    floats = pixels.to(device).float() / 255  # [B, 3, H, W]
    competitors["lightly"] = lambda: sum(1 for _ in lightly)
    competitors["torchvision"] = lambda: sum(1 for _ in torchvision)
    competitors["kornia"] = lambda: repeat(lambda: (kornia(floats), kornia(floats)), batches)
    with torch.no_grad():
        seconds = interleaved(competitors, repeats=2 if quick else 7)
    result = {f"ours_over_{name}": ratio(seconds[name], seconds["ours"]) for name in competitors if name != "ours"}
    result["ours_milliseconds"] = figure([1000 * s / batches for s in seconds["ours"]])
    return result


def repeat(function: Callable[[], object], times: int) -> None:
    """Calls it so often."""
    for _ in range(times):
        function()


def kornia_views() -> torch.nn.Module:
    """The same augmentation by kornia."""
    k = importlib.import_module("kornia.augmentation")
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    return k.AugmentationSequential(
        k.RandomResizedCrop((SIZE, SIZE), scale=(0.08, 1.0), p=1.0),
        k.RandomHorizontalFlip(p=0.5),
        k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.Normalize(mean, std),
        same_on_batch=False,
    )
