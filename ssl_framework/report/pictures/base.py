"""Pictures of data and runs, drawn from the data itself and from the records of runs."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from ssl_framework.data.base import Split
from ssl_framework.report.escaping import write_literally
from ssl_framework.runs.durable import replacing
from ssl_framework.types import Samples
from ssl_framework.views.base import ViewMaker

matplotlib.use("Agg")


def tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """[N, C, H, W] in [0, 1] -> [rows * (H + gap), columns * (W + gap), C], white between."""
    num, channels, height, width = images.shape
    rows = -(-num // columns)
    canvas = torch.ones(channels, rows * (height + gap), columns * (width + gap))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas.permute(1, 2, 0).clamp(0, 1)


def show_views(data: Split, views: ViewMaker, out: Path, columns: int = 20, seed: int = 0) -> None:
    """One image of each class after the other, and below each image two views the student sees of it."""
    assert data.label is not None
    by_class = [torch.where(data.label == c)[0] for c in range(int(data.label.max()) + 1)]
    index = torch.stack([rows[i] for i in range(columns // len(by_class) + 1) for rows in by_class])[:columns]
    torch.manual_seed(seed)
    batch = views(Samples(data.rows[index], index, None))
    shown = [pictures(views, view) for view in batch.views[:2]]  # 2 x [n, C, h, w]
    picture = tile(torch.cat([data.rows[index].float() / 255, *shown]), columns)
    figure, axes = plt.subplots(figsize=(12, 12 * picture.shape[0] / picture.shape[1]))
    axes.imshow(picture, interpolation="nearest", cmap="gray")  # the colour map is for one channel only
    axes.axis("off")
    save(figure, out)


def pictures(views: ViewMaker, batch: Tensor) -> Tensor:
    """Pictures of views of one modality: [n, C, h, w] in [0, 1] on the CPU.

    Raises:
        ValueError: the modality is shown in words.
    """
    shown = [views.picture(one) for one in batch]
    drawn = [picture for picture in shown if isinstance(picture, Tensor)]
    if len(drawn) < len(shown):
        raise ValueError(f"views of {views.modality[0]} are words, not pictures")
    return torch.stack(drawn)


def save(figure: plt.Figure, out: Path, pad: float = 1.08) -> None:
    """Writes a PNG and closes the figure; ``pad`` is the space around axes, in letters."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_literally(figure)
    figure.tight_layout(pad=pad)
    with replacing(out) as partial:
        figure.savefig(partial, dpi=110, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    plt.close(figure)
