"""Training in stages (MCL): Zhang et al., Learning the Unlearned: Mitigating Feature Suppression in Contrastive
Learning, ECCV 2024 (arXiv:2402.11816).

The images are clustered by what one stage has learned, and the next stage trains a new encoder with negatives from the
anchor's own cluster only: what tells those apart is what the earlier stages have missed. The representation is that of
all stages side by side.

A stage is an ordinary run in a folder of its own; ``main.go_through`` runs one after another. From the one before it
takes the backbones (``Encoder.take_over``) and the clusters, which are here.

N images, D features, K clusters a stage.
"""

from pathlib import Path

import torch
from torch import Tensor

from ssl_framework.data.loader import PSEUDO_LABELS
from ssl_framework.data.pseudo_labels import CHUNK, clusters, read_pseudo_labels
from ssl_framework.data.sources import Images, chosen
from ssl_framework.evaluation.again import load_run
from ssl_framework.functional import unit


class StageClusters:
    """Pseudo-labels of a stage: k-means on the features of the stage before, within what earlier stages told apart.

    Args:
        num_clusters: K of every stage; after s stages there are at most K^s pseudo-labels.
        previous: folder of the stage before, which ``main`` fills in.
    """

    def __init__(self, num_clusters: int, previous: str | None) -> None:
        if num_clusters < 1:
            raise ValueError(f"pseudo_labels.num_clusters is {num_clusters}: it must be at least 1")
        self.num_clusters = num_clusters
        self.previous = previous

    def __call__(self, images: Images, seed: int, device: torch.device) -> Tensor:
        """[N] int64: the clusters of all stages so far as the digits of one number, the first stage's last.

        Raises:
            ValueError: there is no stage before.
        """
        if self.previous is None:
            raise ValueError(
                "pseudo_labels=stages clusters what the stage before has learned, but this run has no stages: set "
                "student.earlier to at least 1"
            )
        folder = Path(self.previous)
        _, module = load_run(folder, [])
        module.to(device).eval()
        parts = []
        with torch.no_grad():
            for index in torch.arange(images.shape[0]).split(CHUNK):
                part = chosen(images.pixels, index.to(images.pixels.device)).to(device)  # [n, C, H, W]
                parts.append(unit(module.student.backbone(module.views.clean(part))["pooled"]).cpu())  # [n, D]
        found = clusters(torch.cat(parts), self.num_clusters, seed)  # [N]
        done = len(module.student.earlier)
        return found if done == 0 else read_pseudo_labels(folder / PSEUDO_LABELS) + self.num_clusters**done * found
