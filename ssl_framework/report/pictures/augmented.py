"""Pictures of what the student is given: augmented views, and mixtures where a mixer makes them."""

from pathlib import Path

import torch

from ssl_framework.report.inspection import Inspection
from ssl_framework.report.pictures.boards import Tile, draw_board
from ssl_framework.report.pictures.mixtures import colour, first_of_each_class, mixture_of, ownership, percent
from ssl_framework.types import Samples
from ssl_framework.views.base import ViewMaker

SHOWN, MOST = 9, 8


def draw_views(seen: Inspection, out: Path) -> str:
    """Images as evaluation sees them and below each the views of one training step; returns words about it."""
    images, views = seen.train, seen.module.views
    index = first_of_each_class(images, min(SHOWN, len(images.rows)))
    generator = torch.Generator().manual_seed(seen.seed)
    device = seen.module.device
    beside = {name: column[index].to(device) for name, column in (images.beside or {}).items()}
    batch = views(Samples(images.rows[index].to(device), index, None, beside=beside), generator)
    rows, side = [[Tile(image) for image in seen.shown(images, index)]], ["clean"]
    sizes = {views.example(v) for v in range(views.num_views)}
    for number, (view, modality) in enumerate(zip(batch.views[:MOST], views.modality, strict=False), start=1):
        rows.append([Tile(views.picture(one, modality)) for one in view])
        alike = len(sizes) == 1
        side.append(f"view {number}" + ("" if alike else f"\n{size_of(views, number - 1)}"))
    draw_board(rows, out, side=side, cell=0.9)
    more = f" The first {MOST} of {len(batch.views)} views." if len(batch.views) > MOST else ""
    return f"Train images as evaluators see them, and the views of one training step.{more}"


def size_of(views: ViewMaker, view: int) -> str:
    """What tells a view from others of another shape: its side in pixels, or its modality."""
    shape = views.example(view)
    return f"{shape[-1]} px" if len(set(views.modality)) == 1 and len(shape) == 3 else views.modality[view]


def draw_mixes(seen: Inspection, out: Path) -> str | None:
    """What the run's mixer makes of clean images; returns words about it, ``None`` without a mixer."""
    module = seen.module
    if module.mixer is None:
        return None
    name = type(module.mixer.rule).__name__
    teacher = module.teacher.encoder if module.teacher is not None else None
    found = mixture_of(module.mixer, module.student, teacher, module.views, seen.train, name, seed=seen.seed)
    blocks = []
    for b, share in enumerate(found.share):
        sources = [Tile(found.sources[b, p], percent(share[p]), colour(p)) for p in range(len(share))]
        blocks.append([*sources, Tile(found.mixed[b]), Tile(ownership(found.owner[b]))])
    num = found.share.shape[1]
    partners = ["partner"] if num == 2 else [f"partner {p}" for p in range(1, num)]
    head = ["own image", *partners, "mixture", "of whom"]
    if num == 2 and len(blocks) % 2 == 0:
        pairs = zip(blocks[::2], blocks[1::2], strict=True)
        draw_board([[*left, None, *right] for left, right in pairs], out, head=[*head, "", *head], cell=1)
    else:
        draw_board(blocks, out, head=head, cell=1)
    return (
        f"{name} on train images. Below each source its share in the mixture; under 'of whom', in the colours of the "
        "frames, the source of each pixel."
    )
