"""Rows of small images with words below them, as one picture."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ssl_framework.report.pictures.base import save
from ssl_framework.report.pictures.mixtures import framed, rgb

matplotlib.use("Agg")


LINE = 0.17
"""Height of a line of words below an image, inches."""


WORDS = (32, 32)
"""Height and width of the tiles of a board that has words only."""


LETTERS, MOST_LINES = 14, 6
"""Of words in a tile: letters of a line, and lines."""


class Tile(NamedTuple):
    """One image of a board, or what stands there in words."""

    image: Tensor | str  # [C, h, w] in [0, 1]
    text: str = ""
    frame: str = "white"  # colour
    bold: bool = False


def draw_board(
    rows: Sequence[Sequence[Tile | None]],
    out: Path,
    side: Sequence[str] = (),
    head: Sequence[str] = (),
    cell: float = 1,
) -> None:
    """Writes a PNG with the tiles of each row side by side.

    Args:
        rows: of the same length; ``None`` leaves half a cell empty, in every row alike.
        out: file to write.
        side: words left of each row.
        head: words above each column.
        cell: width of a tile, inches.
    """
    drawn = [tile.image for row in rows for tile in row if tile is not None and isinstance(tile.image, Tensor)]
    inner = drawn[0].shape[1:] if drawn else WORDS  # h, w of every tile
    height, width = framed(torch.ones(3, *inner), "white").shape[1:]
    band = round(LINE / cell * width) if any(tile and tile.text for row in rows for tile in row) else 0
    lefts, right = [], 0.0
    for tile in rows[0]:
        lefts.append(round(right))
        right += width * (1.03 if tile is not None else 0.4)
    canvas = torch.ones(3, len(rows) * (height + band), round(right))
    figure, axes = plt.subplots(figsize=(right / width * cell, canvas.shape[1] / width * cell))
    axes.axis("off")
    for r, row in enumerate(rows):
        top = r * (height + band)
        for left, tile in zip(lefts, row, strict=True):
            if tile is None:
                continue
            if isinstance(tile.image, str):
                write_words(axes, tile.image, (left + width / 2, top + height / 2))
            else:
                image = framed(fitted(rgb(tile.image), inner), tile.frame)  # [3, height, width]
                canvas[:, top : top + height, left : left + width] = image
            weight = "bold" if tile.bold else "normal"
            middle = top + height + band / 2
            axes.text(left + width / 2, middle, tile.text, ha="center", va="center", fontsize=8, weight=weight)
        if side:
            axes.text(-0.06 * width, top + height / 2, side[r], ha="right", va="center", fontsize=9)
    for left, words in zip(lefts, head, strict=False):
        axes.text(left + width / 2, -0.06 * width, words, ha="center", va="bottom", fontsize=9)
    axes.imshow(canvas.permute(1, 2, 0).numpy(), aspect="equal")
    save(figure, out)


def write_words(axes: plt.Axes, words: str, middle: tuple[float, float]) -> None:
    """Words in the place of an image, in lines of about its width."""
    lines = textwrap.wrap(words, LETTERS)[:MOST_LINES]
    axes.text(*middle, "\n".join(lines), ha="center", va="center", fontsize=5)


def fitted(image: Tensor, size: Sequence[int]) -> Tensor:
    """[3, h, w] -> [3, *size], pixels as squares."""
    return image if list(image.shape[1:]) == list(size) else interpolate(image[None], tuple(size), mode="nearest")[0]


def cut(text: str, length: int) -> str:
    """``text``, its middle replaced by an ellipsis where it is longer: names often differ at their end."""
    end = length // 3
    return text if len(text) <= length else f"{text[: length - 1 - end]}…{text[-end:]}"
