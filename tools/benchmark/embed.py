"""Vectors of a folder of 10,000 PNG files of 32 px by the tiny net: the command, beside a loop of Pillow and torch."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

from ssl_framework.commands import embed
from ssl_framework.models import small_nets  # registers the net with timm
from tools.benchmark.timing import Figure, figure, interleaved, ratio

FILES, SIZE, BATCH = 10_000, 32, 256
MEAN, STD = 0.5, 0.25
NET = f"ssl_{small_nets.Tiny.__name__.lower()}"


def run(quick: bool) -> dict[str, Figure]:
    """``bare_over_ours``: seconds of the loop over the command's, each round; ``ours_images_per_minute``.

    The command also writes a table of paths, labels and splits, and goes on where it was stopped; the loop neither.
    """
    count, repeats = (64, 1) if quick else (FILES, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", count)
        competitors = {"ours": lambda: ours(folder), "bare": lambda: bare(folder)}
        seconds = interleaved(competitors, repeats)
        with np.load(folder / "ours.npz") as mine, np.load(folder / "bare.npz") as other:
            np.testing.assert_allclose(mine["vector"], other["vectors"], rtol=1e-3, atol=1e-3)
    return {
        "bare_over_ours": ratio(seconds["bare"], seconds["ours"]),
        "ours_images_per_minute": figure([60 * count / taken for taken in seconds["ours"]]),
        "images": figure([float(count)]),
    }


def write_images(folder: Path, count: int) -> None:
    """So many pictures of noise in ten classes."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 10}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)  # [H, W, 3]


def ours(folder: Path) -> None:
    """The command, from its arguments to the file."""
    out = folder / "ours.npz"
    out.unlink(missing_ok=True)
    words = [f"backbone=timm:{NET}", f"images={folder / 'images'}", f"out={out}"]
    words += [f"views.image_size={SIZE}", f"views.mean={[MEAN] * 3}", f"views.std={[STD] * 3}"]
    with contextlib.redirect_stdout(io.StringIO()):
        embed.main(words)


@torch.inference_mode()
def bare(folder: Path) -> None:
    """What a user would write: one file after another, in batches through the same net."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = timm.create_model(NET, num_classes=0).to(device).eval()
    paths = sorted((folder / "images").rglob("*.png"))
    found = []
    for start in range(0, len(paths), BATCH):
        batch = [np.asarray(Image.open(path).convert("RGB")) for path in paths[start : start + BATCH]]
        images = torch.from_numpy(np.stack(batch)).to(device).permute(0, 3, 1, 2).float() / 255  # [B, 3, H, W]
        found.append(net((images - MEAN) / STD).cpu().numpy())  # [B, D]
    np.savez(folder / "bare.npz", vectors=np.concatenate(found))  # [N, D]
