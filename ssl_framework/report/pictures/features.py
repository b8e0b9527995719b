"""Pictures of the backbone's features: nearest neighbours, plane, spectrum, confusion of classes, attention.

N train images, M test images, D features, k neighbours.
"""

import importlib.util
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ssl_framework.data.base import Split
from ssl_framework.evaluation.probes.knn import neighbours
from ssl_framework.evaluation.spectrum import effective_rank, normalised, singular_values
from ssl_framework.functional import unit
from ssl_framework.mixers.base import Context
from ssl_framework.mixers.scores import ClassAttention
from ssl_framework.report.escaping import tick_texts
from ssl_framework.report.inspection import Inspection, class_names
from ssl_framework.report.pictures.base import save
from ssl_framework.report.pictures.boards import Tile, cut, draw_board, fitted
from ssl_framework.report.pictures.curves import COLOURS, legend_above
from ssl_framework.report.pictures.mixtures import first_of_each_class, rgb

matplotlib.use("Agg")


RIGHT, WRONG = "#009E73", "#D55E00"


MARKERS = "os^DvP*X<>"


K, TEMPERATURE = 20, 0.1
"""Of the k-NN probe, as configs/evaluation/frozen.yaml has it."""


QUERIES, NEAR = 10, 5


NULL = 1e-6
"""Share of the largest singular value below which a direction is empty, as one is behind a LayerNorm."""


LONGEST = 18
"""Letters of a class's name beside a picture."""


MANY = 30
"""From more classes than this on, names do not fit beside the confusion matrix."""


def draw_neighbours(seen: Inspection, out: Path) -> str:
    """Test images and the train images whose features are nearest; returns words about it."""
    train, test, names = seen.train, seen.test, class_names(seen.train)
    queries = first_of_each_class(test, min(QUERIES, len(test.rows)))
    similarity, near = nearest(seen.train_x, seen.test_x[queries], min(len(train.rows), 2 * NEAR))  # [Q, 2k]
    found = []
    for query, cosines, rows in zip(queries, similarity, near, strict=True):
        # A folder without a test split has the same images in both.
        pairs = zip(cosines, rows, strict=True)
        found.append([(c, row) for c, row in pairs if not train.rows[row].equal(test.rows[query])][:NEAR])
    count = min(map(len, found))
    if not count:
        raise ValueError("a test image has no neighbour but itself")
    blocks = []
    for query, others in zip(queries, found, strict=True):
        tiles: list[Tile | None] = [Tile(seen.shown(test, query[None])[0], label_of(test, query, names), bold=True)]
        images = seen.shown(train, torch.stack([row for _, row in others[:count]]))  # [k, C, h, w]
        for image, (cosine, row) in zip(images, others, strict=False):
            tiles.append(neighbour_tile(image, cosine, train, row, test, query, names))
        blocks.append(tiles)
    head = ["query", "nearest", *[""] * (count - 1)]
    if len(blocks) % 2:
        draw_board(blocks, out, head=head, cell=0.76)
    else:
        halves = zip(blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :], strict=True)
        draw_board([[*left, None, *right] for left, right in halves], out, head=[*head, "", *head], cell=0.76)
    told = (
        "A green frame and ✓: of the query's class; a red frame and ✗: of another. "
        if names
        else f"Below each: {'its label' if train.label is not None else 'the cosine similarity'}. "
    )
    return (
        f"Test images{', the first of each class in turn,' if names else ''} and their {count} nearest of "
        f"{len(train.rows):,} train images by cosine similarity of the features. {told}"
    )


def neighbour_tile(
    image: Tensor | str, cosine: Tensor, train: Split, row: Tensor, test: Split, query: Tensor, names: list[str] | None
) -> Tile:
    """A neighbour, marked as right or wrong where there are classes."""
    if train.label is None:
        return Tile(image, f"{float(cosine):.2f}")
    if names is None or test.label is None:
        return Tile(image, label_of(train, row, names))
    right = bool(train.label[row] == test.label[query])
    return Tile(image, f"{'✓' if right else '✗'} {label_of(train, row, names)}", RIGHT if right else WRONG)


def label_of(images: Split, row: Tensor, names: list[str] | None) -> str:
    """The class or the number of an image, as short words; "" without labels."""
    if images.label is None:
        return ""
    if names is None:
        return f"{float(images.label[row]):.3g}"
    label = int(images.label[row])
    return cut(names[label] if label < len(names) else str(label), 9)


def nearest(bank: Tensor, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and rows of the k nearest of a bank [N, D] for rows [M, D]: [M, k] each."""
    similarity, row = zip(*neighbours(bank, x, k, len(x)), strict=True)
    return torch.cat(similarity), torch.cat(row)


class Plane(NamedTuple):
    """Points in the plane."""

    xy: Tensor  # [M, 2]
    axes: tuple[str, str]
    title: str


def pca(x: Tensor, seed: int) -> Plane:
    """The two principal components of unit features [M, D]; the sign is that of the largest loading."""
    centred = (x - x.mean(dim=0)).double()
    _, singular, direction = torch.linalg.svd(centred, full_matrices=False)  # [R], [R, D]
    top = direction[:2]  # [2, D]
    top = top * top.gather(1, top.abs().argmax(dim=1, keepdim=True)).sign()
    share = 100 * singular.square() / singular.square().sum().clamp(min=1e-12)  # [R]
    return Plane(
        (centred @ top.T).float(),
        (f"component 1 ({share[0]:.0f} % of variance)", f"component 2 ({share[1]:.0f} %)"),
        "PCA",
    )


def tsne(x: Tensor, seed: int) -> Plane:
    """van der Maaten and Hinton, JMLR 2008, by scikit-learn, of unit features [M, D]."""
    from sklearn.manifold import TSNE  # slow to import
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(x) - 1) / 3)
    with threadpool_limits(1):  # a thousand points are too few for threads: they cost more than they save
        xy = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x.numpy())
    return Plane(torch.from_numpy(xy), ("", ""), f"t-SNE (perplexity {perplexity:.0f})")


def umap(x: Tensor, seed: int) -> Plane:
    """McInnes et al., arXiv:1802.03426, by umap-learn, of unit features [M, D]."""
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        xy = UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed).fit_transform(x.numpy())
    return Plane(torch.as_tensor(xy), ("", ""), "UMAP")


PLANES = {"tsne": tsne, "pca": pca, "umap": umap}


def draw_embedding(seen: Inspection, out: Path, kinds: tuple[str, ...]) -> str:
    """Test features in the plane, coloured by their label; returns words about it.

    Args:
        seen: the run.
        out: file to write.
        kinds: of ``PLANES``, one panel each.

    Raises:
        ValueError: UMAP is asked for and not installed, or there are fewer than four images.
    """
    if "umap" in kinds and importlib.util.find_spec("umap") is None:
        raise ValueError("umap-learn is not installed: pip install umap-learn, or choose by=tsne or by=pca")
    x = unit(seen.test_x)  # [M, D]
    if len(x) < 4:
        raise ValueError(f"a plane needs at least 4 images, and there are {len(x)}")
    names = class_names(seen.test)
    figure, grid = plt.subplots(1, len(kinds), figsize=(4.3 * len(kinds) + (0.9 if len(kinds) == 1 else 0), 4.3))
    for axes, kind in zip([grid] if len(kinds) == 1 else grid, kinds, strict=True):
        plane = PLANES[kind](x, seen.seed)
        scatter(axes, plane.xy, seen.test, names)
        axes.set_title(plane.title, fontsize=10)
        axes.set_xlabel(plane.axes[0], fontsize=9)
        axes.set_ylabel(plane.axes[1], fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(False)
    drawn = figure.axes[0].collections
    if names:
        longest = max(len(cut(name, LONGEST)) for name in names[: len(COLOURS)])
        handles, words = figure.axes[0].get_legend_handles_labels()
        legend_above(figure, handles, words, min(5, 55 * len(kinds) // (longest + 4)))
    elif seen.test.label is not None:
        figure.colorbar(drawn[0], ax=figure.axes[-1], label="label", fraction=0.05)
    save(figure, out)
    rest = f" Coloured are the first {len(COLOURS)} of {len(names)} classes." if names and len(names) > 10 else ""
    read = " Distances between far groups mean nothing in t-SNE and UMAP." if {"tsne", "umap"} & {*kinds} else ""
    return f"Features of {len(x):,} test images, at length 1.{rest}{read}"


def scatter(axes: Axes, xy: Tensor, images: Split, names: list[str] | None) -> None:
    """Points [M, 2] by class, each in a colour and a mark; or by number; or all alike."""
    if names is None:
        colour = "#0072B2" if images.label is None else images.label.numpy()
        axes.scatter(*columns(xy), s=9, c=colour, cmap=None if images.label is None else "viridis", linewidths=0)
        return
    assert images.label is not None
    other = xy[images.label >= len(COLOURS)]
    if len(other):
        axes.scatter(*columns(other), s=6, color="#dddddd", linewidths=0, label="other classes")
    for c, name in enumerate(names[: len(COLOURS)]):
        x, y = columns(xy[images.label == c])
        size, words = 30 if MARKERS[c] == "*" else 16, cut(name, LONGEST)
        axes.scatter(x, y, s=size, linewidths=0, alpha=0.75, color=COLOURS[c], marker=MARKERS[c], label=words)


def columns(xy: Tensor) -> tuple[Any, Any]:
    """[M, 2] -> two numpy arrays [M]."""
    return xy[:, 0].numpy(), xy[:, 1].numpy()


def draw_spectrum(seen: Inspection, out: Path) -> str:
    """Singular values of the centred train features, trained and untrained; returns words about it."""
    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    for (name, x), colour, style in zip(
        (("trained", seen.train_x), ("untrained, same seed", seen.untrained_x)), COLOURS, ("-", "--"), strict=False
    ):
        singular = singular_values(x, centred=True)  # [R]
        curve = normalised(singular)
        curve = curve[curve > NULL]
        words = f"{name}: effective rank {effective_rank(singular):.1f} of {len(singular)}"
        axes.plot(range(1, len(curve) + 1), curve.numpy(), color=colour, linestyle=style, linewidth=1.5, label=words)
    axes.set_yscale("log")
    axes.set_xlabel("number of the direction", fontsize=9)
    axes.set_ylabel("singular value / largest", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    save(figure, out)
    return (
        f"Of the centred features of {len(seen.train.rows):,} train images. A curve that drops steeply means that "
        "few directions are used; the effective rank is that of Roy and Vetterli (EUSIPCO 2007)."
    )


def votes(seen: Inspection, classes: int) -> Tensor:
    """The class that the k-NN probe gives each test image, [M]."""
    assert seen.train.label is not None
    similarity, row = nearest(seen.train_x, seen.test_x, min(K, len(seen.train_x)))  # [M, k]
    weight = ((similarity - similarity[:, :1]) / TEMPERATURE).exp()  # [M, k]
    return torch.zeros(len(row), classes).scatter_add_(1, seen.train.label[row], weight).argmax(dim=1)


def draw_confusion(seen: Inspection, out: Path) -> str:
    """Which classes the k-NN probe takes for which, and accuracy by class; returns words about it.

    Raises:
        ValueError: there are no classes.
    """
    names = class_names(seen.train)
    if names is None or seen.test.label is None:
        raise ValueError("the labels are numbers" if seen.train.label is not None else "the data has no labels")
    y = seen.test.label
    names = [*names, *(str(c) for c in range(len(names), int(y.max()) + 1))]
    count = len(names)
    guess = votes(seen, count)
    table = torch.zeros(count, count).index_put_((y, guess), torch.ones(len(y)), accumulate=True)  # [classes, classes]
    share = 100 * table / table.sum(dim=1, keepdim=True).clamp(min=1)
    right = share.diagonal()  # [classes]
    overall = 100 * (guess == y).float().mean().item()
    side = min(0.36 * count + 0.4, 4.6)
    figure, (matrix, bars) = plt.subplots(1, 2, figsize=(side + 4, side), width_ratios=(side, 2.6))
    drawn = matrix.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    matrix.set_xlabel("class by k-NN", fontsize=9)
    matrix.set_ylabel("true class", fontsize=9)
    matrix.tick_params(labelsize=8)
    present = torch.where(table.sum(dim=1) > 0)[0]
    if count <= MANY:
        small = 8 if count <= 16 else 6
        shown = torch.arange(count)
        matrix.set_xticks(range(count), tick_texts(cut(name, 12) for name in names), rotation=90, fontsize=small)
        matrix.set_yticks(range(count), tick_texts(cut(name, 12) for name in names), fontsize=small)
        if count <= 12:
            for i, j in torch.nonzero(share >= 0.5).tolist():
                ink = "white" if share[i, j] > 55 else "black"
                matrix.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=8, color=ink)
        else:
            figure.colorbar(drawn, ax=matrix, label="percent of the true class", fraction=0.04)
    else:
        figure.colorbar(drawn, ax=matrix, label="percent of the true class", fraction=0.04)
        order = present[right[present].argsort(stable=True)]  # [classes]
        shown = order if len(order) <= 20 else torch.cat([order[:10], order[-10:]])
    bars.barh(range(len(shown)), right[shown].numpy(), color=COLOURS[0], height=0.7)
    bars.axvline(overall, color="black", linestyle="--", linewidth=1)
    bars.set_yticks(
        range(len(shown)), tick_texts(cut(names[c], LONGEST) for c in shown), fontsize=8 if len(shown) <= 20 else 6
    )
    bars.set(xlim=(0, 100), ylim=(len(shown) - 0.5, -0.5))
    bars.set_xlabel("right, percent", fontsize=9)
    bars.tick_params(axis="x", labelsize=8)
    bars.spines[["top", "right"]].set_visible(False)
    save(figure, out)
    some = "" if count <= MANY else f" Bars: the ten lowest and the ten highest of {len(present)} classes."
    return (
        f"k-NN (k={min(K, len(seen.train_x))}, T={TEMPERATURE:g}) with {len(seen.train_x):,} train images as its bank, "
        f"on {len(y):,} test images: {overall:.1f} % right (dashed line), {len(y) / max(1, len(present)):.0f} images a "
        f"class. Cells are percent of the true class. The k-NN of the result table has all images.{some}"
    )


def draw_attention(seen: Inspection, out: Path, count: int = 8) -> str | None:
    """Where the last block of a timm ViT looks; returns words about it, ``None`` for another backbone."""
    net = seen.module.student.backbone.net
    if not isinstance(net, VisionTransformer):
        return None
    index = first_of_each_class(seen.test, min(count, len(seen.test.rows)))
    x = seen.module.views.clean(seen.test.rows[index].to(seen.module.device))  # [n, C, h, w]
    maps = ClassAttention()(x, Context(None, None, seen.module.student, None)).cpu()  # [n, h', w']
    heat = colormaps["viridis"]
    images, names = seen.shown(seen.test, index), class_names(seen.test)
    above, below = [], []
    for image, row, share in zip(images, index, maps * maps[0].numel(), strict=True):
        low, high = float(share.min()), float(share.max())
        scaled = (share - low) / max(high - low, 1e-12)  # [h', w']
        coloured = torch.from_numpy(heat(scaled.numpy())[..., :3]).permute(2, 0, 1).float()  # [3, h', w']
        assert isinstance(image, Tensor)  # a ViT of timm sees pictures
        above.append(Tile(rgb(image), label_of(seen.test, row, names)))
        below.append(Tile(fitted(coloured, image.shape[1:]), f"{low:.2f} to {high:.2f}"))
    draw_board([above, below], out, side=("image", "attention"), cell=1)
    who = "of the class token" if net.has_class_token else "that each patch receives"
    return (
        f"Attention {who} in the last block, mean over heads, of test images: dark blue is the least in an image, "
        "yellow the most. Below: both, where 1 is what every patch would have if all had the same."
    )
