"""Every objective as the tests build it: one line a method. What all of them must do is tested over this table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssl_framework.feature_mixers.feature_transform import FeatureTransform
from ssl_framework.feature_mixers.mochi import MoCHi
from ssl_framework.memory import Queue
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.byol import BYOL
from ssl_framework.objectives.dcl import DCL
from ssl_framework.objectives.moco import MoCo
from ssl_framework.objectives.multiview import (
    DHEL,
    MVDHEL,
    PVC,
    AverageViewNTXent,
    MultiPositiveNTXent,
    MultiView,
    MVInfoNCE,
    PairwiseNTXent,
)
from ssl_framework.objectives.sepclr import SepCLR
from ssl_framework.objectives.simclr import SimCLR
from ssl_framework.objectives.supcon import SupCon
from ssl_framework.types import Outputs

DIM = 6


class Case(NamedTuple):
    """An objective, and which views the encoders that it reads have seen."""

    build: Callable[[], Objective]
    student: tuple[int, ...] = (0, 1)
    teacher: tuple[int, ...] = ()
    heads: tuple[str, ...] = ("projector",)

    @property
    def num_views(self) -> int:
        return 1 + max(self.student + self.teacher)

    def outputs(self, views: list[Tensor], seen: tuple[int, ...]) -> list[Outputs | None]:
        """What an encoder with those heads would give for embeddings V x [B, D]: each head another rotation of them."""
        return [
            {head: z.roll(turn, dims=1) for turn, head in enumerate(self.heads)} if v in seen else None
            for v, z in enumerate(views)
        ]


def seeded(build: Callable[[], nn.Module]) -> Any:
    """An objective whose memory and weights start alike wherever it is built."""
    torch.manual_seed(5)
    return build()


def moco(**options: Any) -> MoCo:
    return seeded(lambda: MoCo(0.2, Queue(20, DIM), **options))


def mochi() -> MoCo:
    objective = moco()
    objective.feature_mixer = MoCHi(num_hard=6, num_pair=5, num_query=4, warmup=0.0)
    return objective


def feature_transform() -> MoCo:
    objective = moco()
    objective.feature_mixer = FeatureTransform(2.0, 1.6, True, False, False, 0.0)
    return objective


# One line a method: a new objective is added here.
OBJECTIVES: dict[str, Case] = {
    "simclr": Case(lambda: SimCLR(0.2)),
    "adainf": Case(lambda: SimCLR(0.2)),
    "g_simclr": Case(lambda: SimCLR(0.1)),
    "mcl": Case(lambda: SimCLR(0.2)),
    "dcl": Case(lambda: DCL(0.2, None)),
    "dclw": Case(lambda: DCL(0.2, 0.5)),
    "supcon": Case(lambda: SupCon(0.2, 0.1)),
    "mocov2": Case(moco, student=(0,), teacher=(1,)),
    "moco_decoupled": Case(lambda: moco(positive_in_denominator=False), student=(0,), teacher=(1,)),
    "mochi": Case(mochi, student=(0,), teacher=(1,)),
    "byol": Case(lambda: BYOL(), teacher=(0, 1), heads=("projector", "predictor")),
    "feature_transform": Case(feature_transform, student=(0,), teacher=(1,)),
    "sepclr": Case(lambda: SepCLR(0.5, [0], 0.3, 0.2, 0.4), heads=("common", "salient")),
    "mv_infonce": Case(lambda: MultiView(0.2, MVInfoNCE())),
    "mv_dhel": Case(lambda: MultiView(0.2, MVDHEL())),
    "dhel": Case(lambda: DHEL(0.2, True)),
    "pvc_geometric": Case(lambda: MultiView(0.2, PVC("geometric"))),
    "pvc_arithmetic": Case(lambda: MultiView(0.2, PVC("arithmetic"))),
    "pairwise_ntxent": Case(lambda: MultiView(0.2, PairwiseNTXent())),
    "average_view_ntxent": Case(lambda: MultiView(0.2, AverageViewNTXent())),
    "multi_positive_ntxent": Case(lambda: MultiView(0.2, MultiPositiveNTXent())),
}
