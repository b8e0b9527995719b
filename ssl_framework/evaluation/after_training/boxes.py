"""What evaluations of the boxes of pictures share: they read boxes, and places of a picture that go through a head."""

import copy

from ssl_framework.arguments import Several
from ssl_framework.data.base import Regions, Split
from ssl_framework.evaluation.after_training.base import AfterRun, two_towers
from ssl_framework.evaluation.features import Bare
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule


class OfBoxes(AfterRun):
    """Base.

    Args:
        protocol: see ``AfterRun``.
        other: modality of the texts, as ``student.towers`` name it.
        head: whose outputs are compared.
        num_samples: N, the first so many pictures of the test split; ``None``: all.
    """

    at_the_end = True
    reads_objective = True

    def __init__(self, protocol: str, other: str, head: str, num_samples: Several | None) -> None:
        super().__init__(protocol)
        self.other = other
        self.head = head
        self.num_samples = num_samples

    def check(self, module: SSLModule | Bare) -> None:
        check_places(module, self.other, self.head, self.name)

    def check_split(self, split: Split) -> None:
        boxes_of(split, self.name)


def boxes_of(split: Split, name: str) -> Regions:
    """The boxes of a split; a ValueError of the evaluation of that name where there are none."""
    if split.regions is None:
        raise ValueError(
            f"evaluation={name} asks what is in the boxes of pictures, which the data have not: choose "
            "data=region_shapes, or evaluation=cross_modal"
        )
    return split.regions


def check_places(module: SSLModule | Bare, other: str, head: str, name: str) -> None:
    """Raises ValueError where places of a picture cannot go through the head that texts are compared by."""
    main, _ = two_towers(module, other, [head], name)
    if "places" not in main.dims or main.dims["places"] != main.backbone.dim:
        raise ValueError(
            f"evaluation={name} passes places of a picture through the head in the place of its pooled features, and "
            f"those of {main.backbone.name} are not as wide or not there: choose another backbone, such as "
            "backbone=tiny or vit_nano, or evaluation=cross_modal"
        )


def placed(tower: Encoder) -> Encoder:
    """The tower, to be asked for places, too; another one is left as it is."""
    found = copy.copy(tower)
    found.shown = tower.shown | {"places"}
    return found
