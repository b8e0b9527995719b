"""How alike the embeddings of some pictures and of their texts are, every picture with every text."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from omegaconf import OmegaConf

from ssl_framework.functional import unit
from ssl_framework.models.towers import Towers
from ssl_framework.report.inspection import Inspection
from ssl_framework.report.pictures.base import save
from ssl_framework.report.pictures.boards import cut
from ssl_framework.report.pictures.mixtures import first_of_each_class, rgb

matplotlib.use("Agg")

SHOWN, LETTERS = 10, 60


@torch.no_grad()
def draw_similarity(seen: Inspection, out: Path) -> str | None:
    """Cosines of test samples of two modalities, texts in rows; words about it, ``None`` where there is one tower."""
    other, head = (OmegaConf.select(seen.stored, f"evaluation.cross.{key}") for key in ("other", "head"))
    if other is None or seen.test.beside is None:
        return None
    student, views = seen.module.student, seen.module.views
    assert isinstance(student, Towers)  # or the evaluation would have been refused
    index, device = first_of_each_class(seen.test, min(SHOWN, len(seen.test.rows))), seen.module.device
    texts = views.clean(seen.test.beside[other][index].to(device), other)  # [n, ...]
    pictures = views.clean(seen.test.rows[index].to(device))  # [n, ...]
    z = [
        unit(student.tower(name).encode(x)[head]).cpu() for name, x in ((other, texts), (student.main, pictures))
    ]  # 2 x [n, D]
    cosine = z[0] @ z[1].T  # [n, n]
    figure, axes = plt.subplots(figsize=(9, 5.2))
    axes.imshow(cosine.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for row in range(len(index)):
        for column in range(len(index)):
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{cosine[row, column]:.2f}", ha="center", va="center", fontsize=7, weight=weight)
    said = [words if isinstance(words := views.picture(text, other), str) else "" for text in texts]
    axes.set_yticks(range(len(said)), [cut(words, LETTERS) for words in said], fontsize=7)
    axes.set_xticks([])
    for column, picture in enumerate(seen.shown(seen.test, index)):
        if not isinstance(picture, str):
            shown = OffsetImage(rgb(picture).permute(1, 2, 0).numpy(), zoom=32 / picture.shape[2])
            axes.add_artist(AnnotationBbox(shown, (column, -1.05), frameon=False, annotation_clip=False))
    save(figure, out)
    best = int((cosine.argmax(dim=1) == torch.arange(len(index))).sum())
    return (
        f"Cosines of the embeddings of {len(index)} test samples, {student.main} in columns and {other} in rows; pairs "
        f"lie on the diagonal, and {best} rows have their largest value there."
    )
