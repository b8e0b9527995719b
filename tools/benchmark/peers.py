"""The competitors, as their users run them. They come from the ``bench`` extra."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

WORKERS = 2


def need(name: str) -> Any:
    """A peer's module, or a ValueError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is not installed, and this benchmark compares with it: pip install -e .[bench]"
        ) from error


def random_images(count: int, size: int) -> Tensor:
    """Smooth random pictures: [count, 3, size, size] uint8."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))  # [count, 3, 4, 4]
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)  # [count, 3, size, size]


class Pictures(Dataset):
    """A map-style set of PIL images under a transform, as torchvision's CIFAR10 is."""

    def __init__(self, pixels: Tensor, count: int, transform: Callable[[Image.Image], Any]) -> None:
        self.arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()  # [N, H, W, 3]
        self.count = count
        self.transform = transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.arrays[index % len(self.arrays)])), index


class LightlyBatches:
    """Batches of two views from PIL transforms in worker processes.

    Every iteration is an epoch of ``batches`` batches, from the first request to the last batch, and leaves no work
    behind, so that it does not slow down what is measured next. The workers live on between epochs.

    Args:
        pixels: [B, 3, H, W] uint8; B is the batch size.
        batches: of an epoch.
        kind: "lightly" or "torchvision", whose transform.
    """

    def __init__(self, pixels: Tensor, batches: int, kind: str) -> None:
        size = pixels.shape[-1]
        transform = lightly_transform(size) if kind == "lightly" else torchvision_transform(size)
        self.loader = DataLoader(
            Pictures(pixels, batches * len(pixels), transform),
            batch_size=len(pixels),
            shuffle=True,
            num_workers=WORKERS,
            persistent_workers=True,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        )

    def __iter__(self) -> Iterator[list[Tensor]]:
        for views, _ in self.loader:
            yield views


def lightly_transform(size: int) -> Callable[[Image.Image], Any]:
    """lightly's SimCLR transform with the strengths of its CIFAR-10 benchmark."""
    return need("lightly.transforms").SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.0)


def torchvision_transform(size: int) -> Callable[[Image.Image], Any]:
    """The same augmentation by torchvision's v2 transforms, on tensors from the first step on."""
    from torchvision.transforms import v2

    one = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    return lambda image: [one(image), one(image)]
