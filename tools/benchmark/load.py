"""How fast images are read and decoded: ratios between ways of doing the same, measured in turns.

decode/...   time of a decoder over that of Pillow with its draft mode: two random crops of a JPEG, one thread
store/...    batches per second from a mapped store in the file cache over batches per second from memory
files/...    batches per second of ``data=files`` over those of torchvision's ImageFolder and a plain DataLoader
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ssl_framework.data.base import Split
from ssl_framework.data.images.decoding import open_image, read_crops
from ssl_framework.data.images.files import Files, FilesLoader
from ssl_framework.data.images.store import Mapped, write_pixels
from ssl_framework.data.loader import HostLoader, ResidentLoader
from ssl_framework.views.crops import draw_crops
from ssl_framework.views.image import Views
from ssl_framework.views.reading import Group
from tools.benchmark.timing import Figure, interleaved, ratio

CPU = torch.device("cpu")


SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the random crops, as most methods have them


Box: TypeAlias = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


Decoder: TypeAlias = Callable[[Path, Sequence[Box], int], Sequence[object]]
"""A JPEG, boxes and the side of the results -> the boxes, cut and resized."""


def run(quick: bool) -> dict[str, Figure]:
    """All figures; ``quick`` takes fewer pictures and repeats, for a first look."""
    repeats = 3 if quick else 7
    with tempfile.TemporaryDirectory() as name, one_thread():
        folder = Path(name)
        figures: dict[str, Figure] = {}
        for width, height in ((500, 375), (2000, 1500)):
            paths = write_jpegs(folder / str(width) / "any", 4 if quick else 12, width, height)
            for size in (224, 64):
                figures |= decoders(paths, (height, width), size, repeats)
    with tempfile.TemporaryDirectory() as name:
        return figures | store(Path(name), quick, repeats) | files(Path(name), quick, repeats)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as in a worker process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_jpegs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """JPEGs of quality 90 with structure at several scales."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    paths = []
    for number in range(count):
        total = np.zeros((height, width, 3))
        for step in (4, 16, 64, 256):
            coarse = generator.integers(0, 256, (height // step + 2, width // step + 2, 3), dtype=np.uint8)
            wide = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            total += step**0.5 * np.asarray(wide)
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray((255 * total / total.max()).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def decoders(paths: Sequence[Path], shape: tuple[int, int], size: int, repeats: int) -> dict[str, Figure]:
    """Time of each decoder that is installed over that of Pillow with its draft mode."""
    generator = torch.Generator().manual_seed(0)
    boxes: list[list[Box]] = [draw_crops(2, *shape, SCALE, RATIO, CPU, generator).tolist() for _ in paths]

    def all_of(decode: Decoder) -> Callable[[], object]:
        return lambda: [decode(path, own, size) for path, own in zip(paths, boxes, strict=True)]

    known: dict[str, tuple[str, Decoder]] = {
        "pillow_draft": ("PIL", pillow_draft),
        "pillow_whole": ("PIL", pillow_whole),
        "read_crops": ("PIL", lambda path, own, side: read_crops(open_image(path), own, [side] * len(own), 3)),
        "torchvision": ("torchvision", torchvision_whole),
        "simplejpeg": ("simplejpeg", simplejpeg_scaled),
    }
    installed = {name: all_of(decode) for name, (package, decode) in known.items() if importlib.util.find_spec(package)}
    seconds = interleaved(installed, repeats)
    what = f"{shape[1]}x{shape[0]}_to_{size}"
    others = [name for name in installed if name != "pillow_draft"]
    return {f"decode/{name}/{what}": ratio(seconds[name], seconds["pillow_draft"]) for name in others}


def pillow_whole(path: Path, boxes: Sequence[Box], size: int) -> Sequence[object]:
    """Pillow decodes all pixels and resizes."""
    with Image.open(path) as image:
        return cut(image.convert("RGB"), boxes, size, 1)


def pillow_draft(path: Path, boxes: Sequence[Box], size: int) -> Sequence[object]:
    """Pillow decodes at a fraction of the size where no box is enlarged by it, and resizes."""
    with Image.open(path) as image:
        divisor = divisor_of(boxes, size)
        image.draft("RGB", (image.width // divisor, image.height // divisor))
        return cut(image.convert("RGB"), boxes, size, divisor)


def torchvision_whole(path: Path, boxes: Sequence[Box], size: int) -> Sequence[object]:
    """torchvision decodes all pixels (deprecated since 0.29) and resizes."""
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms.v2.functional import resized_crop

    pixels = decode_image(str(path), ImageReadMode.RGB)  # [3, H, W]
    return [resized_crop(pixels, *box, [size, size], antialias=True) for box in boxes]


def simplejpeg_scaled(path: Path, boxes: Sequence[Box], size: int) -> Sequence[object]:
    """simplejpeg (libjpeg-turbo) decodes at a fraction of the size, Pillow resizes."""
    simplejpeg = importlib.import_module("simplejpeg")
    data = path.read_bytes()
    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    divisor = divisor_of(boxes, size)
    pixels = simplejpeg.decode_jpeg(
        data, "RGB", min_height=-(-height // divisor), min_width=-(-width // divisor), min_factor=1
    )
    return cut(Image.fromarray(pixels), boxes, size, divisor)


def divisor_of(boxes: Sequence[Box], size: int) -> int:
    """The greatest of 1, 2, 4, 8 by which all boxes can be reduced and still not be enlarged."""
    return max(d for d in (1, 2, 4, 8) if d <= max(1, min(min(box[2:]) for box in boxes) / size))


def cut(image: Image.Image, boxes: Sequence[Box], size: int, divisor: int) -> Sequence[object]:
    """Boxes of the whole image out of the reduced one."""
    edges = [(left, top, left + wide, top + tall) for top, left, tall, wide in boxes]
    limits = (image.width, image.height) * 2
    scaled = [[min(edge / divisor, limit) for edge, limit in zip(four, limits, strict=True)] for four in edges]
    resized = [image.resize((size, size), Image.Resampling.BILINEAR, box=(a, b, c, d)) for a, b, c, d in scaled]
    return [torch.from_numpy(np.array(picture)) for picture in resized]


def store(folder: Path, quick: bool, repeats: int) -> dict[str, Figure]:
    """One epoch from a mapped store, gathered in the background, and one from the memory of the device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, side = (600, 96) if quick else (1200, 160)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    write_pixels(folder / "train.npy", pixels, count, pixels.shape[1:])
    mapped = Mapped(folder / "train.npy")
    views = Views([{"count": 2, "scale": SCALE, "flip": 0.5}], side, 3, [0.5] * 3, [0.5] * 3).to(device)
    loaders = {
        "memory": ResidentLoader(Split(pixels.to(device)), 100, seed=0),
        "disk": HostLoader(Split(mapped), device, 100, seed=0),
    }
    figures = {}
    for what, use in (("bare", lambda batch: batch), ("two_views", views)):
        calls = {name: lambda loader=loader, use=use: consume(loader, use) for name, loader in loaders.items()}
        seconds = interleaved(calls, repeats)
        figures[f"store/mapped_over_resident/{side}px_{what}"] = ratio(seconds["memory"], seconds["disk"])
    return figures


def files(folder: Path, quick: bool, repeats: int) -> dict[str, Figure]:
    """One epoch of two crops of 224 pixels of JPEGs of 500 x 375, by two worker processes."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    paths = write_jpegs(folder / "images" / "any", 64 if quick else 256, 500, 375)
    groups: list[Group] = Views([{"count": 2, "scale": SCALE}], 224, 3, [0.5] * 3, [0.5] * 3).groups
    ours = FilesLoader(Files(paths, 224, 3, 2), None, groups, CPU, 32, seed=0)
    crop = v2.Compose([v2.RandomResizedCrop(224, SCALE, RATIO, antialias=True), v2.PILToTensor()])
    dataset = ImageFolder(str(folder / "images"), lambda image: (crop(image), crop(image)))
    theirs: DataLoader = DataLoader(dataset, 32, shuffle=True, num_workers=2, persistent_workers=True, drop_last=True)
    seconds = interleaved({"ours": lambda: consume(ours), "theirs": lambda: consume(theirs)}, repeats)
    ours.close()
    return {"files/over_image_folder/500x375_to_224": ratio(seconds["theirs"], seconds["ours"])}


def consume(loader: Iterable[object], use: Callable[..., object] = lambda batch: batch) -> None:
    """One epoch."""
    for batch in loader:
        use(batch)
