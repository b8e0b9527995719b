"""Pictures of mixers: own image, partners, mixture and ownership map, with the shares that the labels weigh.

B samples, P sources of a mixture, C channels, h x w pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import torch
from hydra import compose
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from omegaconf import DictConfig
from torch import Tensor

from ssl_framework.build import build
from ssl_framework.data.base import Split
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.models.encoder import Encoder
from ssl_framework.report.pictures.base import pictures, save, show_views
from ssl_framework.runs.config import hosted
from ssl_framework.runs.groups import choices, composing
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.types import Batch, Clock
from ssl_framework.views.base import ViewMaker

matplotlib.use("Agg")


COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")
"""Of the sources, own image first, in ownership maps and frames."""


ROWS = 6


class Mixture(NamedTuple):
    """What a mixer did to a batch of whole images; samples lie side by side in every tensor."""

    sources: Tensor  # [B, P, 3, h, w] in [0, 1]
    mixed: Tensor  # [B, 3, h, w] in [0, 1]
    owner: Tensor  # [B, P, h, w] how much of each pixel is of each source
    share: Tensor  # [B, P]


def mixer_names() -> list[str]:
    """All choices of the group ``mixer`` that mix."""
    return [name for name in choices("mixer") if name != "none"]


def while_mixing(mixer: Mixing) -> Clock:
    """A moment of the run at which the mixer mixes."""
    return Clock(step=round(500 * (mixer.start + mixer.stop)), epoch=0, total_steps=1000)


def mix_images(cfg: DictConfig, data: Split, name: str, count: int = ROWS, seed: int = 0) -> Mixture:
    """Mixes whole images, as evaluation sees them: what the picture shows is the mixer's alone.

    Args:
        cfg: a composed config with a mixer; one that looks through the network gets its untrained student.
        data: images to mix; classes take turns where they are known.
        name: of the mixer, for errors.
        count: B.
        seed: of the mixer's draws and the network's weights.

    Raises:
        ValueError: there is no mixer, or it does not mix images.
    """
    if not (cfg.mixer and "_target_" in cfg.mixer):
        raise ValueError("the config has mixer=none, which leaves images as they are: choose one with mixer=<name>")
    torch.manual_seed(seed)
    mixer, student, views = build(cfg.mixer), build(cfg.student), build(cfg.views)
    mixer.attach(student)
    return mixture_of(mixer, student, student, views, data, f"mixer={name}", count, seed)  # a teacher begins as a copy


def mixture_of(
    mixer: Mixing,
    student: Encoder,
    teacher: Encoder | None,
    views: ViewMaker,
    data: Split,
    name: str,
    count: int = ROWS,
    seed: int = 0,
) -> Mixture:
    """As ``mix_images``, with parts that are there already, all on one device.

    Raises:
        ValueError: the mixer makes no images.
    """
    refuse_other_modality(views, name)
    index, device = first_of_each_class(data, count), next(student.parameters()).device
    images = views.clean(data.rows[index].to(device))  # [B, C, h, w]
    label = None if data.label is None else data.label[index].to(device)
    clean = Batch([images] * views.num_views, index.to(device), label)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        batch = mixer(clean, while_mixing(mixer), student, generator, teacher=teacher)
    mixes = [(view, mix) for view, mix in zip(batch.views, batch.mix or [], strict=False) if mix is not None]
    if not mixes or mixes[0][1].owner is None:
        raise ValueError(f"{name} mixes inside the network: it makes no images to draw")
    view, mix = mixes[0]
    sources = rgb(pictures(views, mix.clean)[mix.source.cpu()])  # [B, P, 3, h, w]
    parts = sources, rgb(pictures(views, view)), mix.owner, mix.share
    return Mixture(*(part.cpu() for part in parts))


def refuse_other_modality(views: ViewMaker, what: str) -> None:
    """Raises ValueError where samples are no pictures, so that nothing can be drawn."""
    if views.channels is None:
        raise ValueError(
            f"{what} can be drawn of pictures only, but the samples are of modality {views.modality[0]}: choose data "
            "with pictures, such as data=shapes"
        )


def first_of_each_class(data: Split, count: int) -> Tensor:
    """[count] positions: the first image of each class, then the second ...; without classes the first images."""
    if data.label is None or data.label.is_floating_point():
        return torch.arange(min(count, len(data.rows)))
    order = torch.argsort(data.label, stable=True)
    classes = [order[data.label[order] == c] for c in data.label.unique()]
    turns = [rows[i] for i in range(count) for rows in classes if i < len(rows)]
    return torch.stack(turns[:count])


def rgb(images: Tensor) -> Tensor:
    """[..., C, h, w] -> [..., 3, h, w] in [0, 1]; other than three channels become the grey of their mean."""
    three = images if images.shape[-3] == 3 else images.mean(dim=-3, keepdim=True).expand(*images.shape[:-3], 3, -1, -1)
    return three.clamp(0, 1)


def colour(source: int) -> str:
    """Of a source, the sample itself being number 0."""
    return COLOURS[source % len(COLOURS)]


def ownership(owner: Tensor) -> Tensor:
    """[P, h, w] -> [3, h, w]: the colours of the sources, mixed as the sources are."""
    colours = torch.tensor([to_rgb(colour(p)) for p in range(len(owner))])  # [P, 3]
    return torch.einsum("phw,pc->chw", owner, colours).clamp(0, 1)


def percent(share: Tensor) -> str:
    """A share as a label."""
    return f"{100 * float(share):.0f} %"


def framed(image: Tensor, colour: str) -> Tensor:
    """[3, h, w], small ones with every pixel as a square of several, in a frame of a sixteenth of the shorter side."""
    times = max(1, 64 // min(image.shape[1:]))
    large = image.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)  # [3, h * times, w * times]
    height, width = large.shape[1:]
    edge = min(height, width) // 16
    canvas = torch.tensor(to_rgb(colour))[:, None, None].repeat(1, height + 2 * edge, width + 2 * edge)
    canvas[:, edge : edge + height, edge : edge + width] = large
    return canvas


def draw(axes: Axes, image: Tensor, text: str = "") -> None:
    """One image [3, h, w], pixels as squares, with words below."""
    axes.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(text, fontsize=8, labelpad=1)


def show_mixture(mixture: Mixture, title: str, out: Path) -> None:
    """One row a sample: own image, partners, mixture, ownership map; below each source its share."""
    count, num = mixture.share.shape
    figure, grid = plt.subplots(count, num + 2, figsize=(1.5 * (num + 2), 1.65 * count + 0.5), squeeze=False)
    for b, row in enumerate(grid):
        for p in range(num):
            draw(row[p], framed(mixture.sources[b, p], colour(p)), percent(mixture.share[b, p]))
        draw(row[num], framed(mixture.mixed[b], "white"))
        draw(row[num + 1], framed(ownership(mixture.owner[b]), "white"))
    numbers = [""] if num == 2 else [f" {p}" for p in range(1, num)]
    heads = ["own image", *(f"partner{number}" for number in numbers), "mixture", "of whom"]
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=9)
    figure.suptitle(title, fontsize=10, y=1.0, va="bottom")
    save(figure, out, pad=0.3)


def show_mixers(mixtures: Sequence[tuple[str, Mixture]], out: Path, samples: Sequence[int] = (0, 3)) -> None:
    """One row a mixer: its name, and some of the samples as in ``show_mixture``, partners in one column."""
    widths = [0.9, *([1, 1, 1, 1, 0.15] * len(samples))[:-1]]
    figure, grid = plt.subplots(
        len(mixtures),
        len(widths),
        figsize=(0.75 * sum(widths), 0.89 * len(mixtures) + 0.3),
        gridspec_kw={"width_ratios": widths},
        squeeze=False,
    )
    for axes in grid.flat:
        axes.axis("off")
    for row, (name, mixture) in zip(grid, mixtures, strict=True):
        row[0].text(1, 0.5, name.replace("_", "\n"), ha="right", va="center", fontsize=9, transform=row[0].transAxes)
        for number, b in enumerate(samples):
            own, *others = [framed(image, colour(p)) for p, image in enumerate(mixture.sources[b])]
            shares = [percent(share) for share in mixture.share[b]]
            pictures = [
                (own, shares[0]),
                (torch.cat(others, dim=2), ", ".join(shares[1:])),
                (framed(mixture.mixed[b], "white"), ""),
                (framed(ownership(mixture.owner[b]), "white"), ""),
            ]
            for axes, (image, text) in zip(row[1 + 5 * number :], pictures, strict=False):
                axes.axis("on")
                draw(axes, image, text)
    for number in range(len(samples)):
        for axes, head in zip(grid[0][1 + 5 * number :], ("own", "partner", "mixture", "of whom"), strict=False):
            axes.set_title(head, fontsize=9)
    save(figure, out, pad=0.3)


def show_gallery(mixtures: Sequence[tuple[str, Mixture]], out: Path, sample: int = 0) -> None:
    """One sample and its partner, and side by side what each mixer makes of these two, of whom each pixel is below.

    Left out are mixers that took other partners, and all but the first of those that weigh every pixel alike.
    """
    pair = mixtures[0][1].sources[sample]
    shown, flat = [], False
    for name, mixture in mixtures:
        even = mixture.owner[sample].flatten(1).std(dim=1).max() < 0.01
        if mixture.sources[sample].equal(pair) and not (even and flat):
            shown.append((name, mixture))
            flat = flat or bool(even)
    figure, grid = plt.subplots(2, len(shown) + 1, figsize=(1.05 * (len(shown) + 1), 2.5), squeeze=False)
    for row, image in enumerate(pair):
        draw(grid[row][0], framed(image, colour(row)), ("", "partner")[row])
    grid[0][0].set_title("own image", fontsize=9)
    for column, (name, mixture) in zip(grid.T[1:], shown, strict=True):
        draw(column[0], framed(mixture.mixed[sample], "white"))
        column[0].set_title(name.replace("_", "\n"), fontsize=9)
        shares = " / ".join(percent(share) for share in mixture.share[sample])
        draw(column[1], framed(ownership(mixture.owner[sample]), "white"), shares)
    save(figure, out, pad=0.3)


def composed(overrides: Sequence[str]) -> tuple[DictConfig, str, str]:
    """A config, and the names of its mixer and its data."""
    with composing():
        cfg = compose("train", list(overrides), return_hydra_config=True)
    choices = cfg.hydra.runtime.choices
    refuse_settings(cfg)
    return hosted(cfg), choices.mixer, choices.data


def show_one(overrides: list[str], folder: Path) -> Path:
    """The picture of the mixer that the config names."""
    cfg, mixer, data = composed(overrides)
    mixture = mix_images(cfg, build(cfg.data.source).load("train"), mixer)
    show_mixture(mixture, f"{mixer} on {data}", folder / f"{mixer}_{data}.png")
    return folder / f"{mixer}_{data}.png"


def show_all(overrides: list[str], folder: Path) -> Path:
    """One picture of all mixers on the same images; says which have none."""
    show_mixers(mix_by_all(overrides, mixer_names()), folder / "mixers.png")
    return folder / "mixers.png"


def show_side_by_side(overrides: list[str], folder: Path) -> Path:
    """One picture of what the mixers make of the same two images; mixup's partner is that of all."""
    names = ["mixup", *(name for name in mixer_names() if name != "mixup")]
    show_gallery(mix_by_all(overrides, names), folder / "mixer_gallery.png")
    return folder / "mixer_gallery.png"


def mix_by_all(overrides: list[str], names: Sequence[str]) -> list[tuple[str, Mixture]]:
    """What each mixer makes of the same images; prints which have none.

    A mixer that refuses the backbone is shown one that it may look through, a ViT.

    Raises:
        ValueError: none can be drawn.
    """
    refuse_other_modality(build(composed(overrides)[0].views), "mixers")
    images, drawn = None, []
    for name in names:
        refused = ""
        for backbone in ([], ["backbone=vit_tiny"]):
            cfg, _, _ = composed([*overrides, *backbone, f"mixer={name}"])
            images = build(cfg.data.source).load("train") if images is None else images
            try:
                drawn.append((name, mix_images(cfg, images, name)))
                break
            except ValueError as error:
                refused = refused or str(error)
        else:
            print(f"left out {name}: {refused}")
    if not drawn:
        raise ValueError("none of the mixers could be drawn: see above")
    return drawn


def show_both_views(overrides: list[str], folder: Path) -> Path:
    """Images and two views of each."""
    cfg, _, data = composed(overrides)
    refuse_other_modality(build(cfg.views), "views")
    images = build(cfg.data.source).load("train")
    if images.label is None:
        raise ValueError(f"data={data} has no labels, and views are drawn class by class: choose another data set")
    show_views(images, build(cfg.views), folder / f"views_{data}.png")
    return folder / f"views_{data}.png"
