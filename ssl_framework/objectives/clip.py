"""CLIP: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021
(arXiv:2103.00020), section 2.3 and figure 3.

The two views of a sample are of two modalities, a picture and a text, say. Each has to find the other among those of
the global batch, in both directions, by cosine similarity times a scale that is learnt. ALIGN (Jia et al., ICML 2021,
arXiv:2102.05918) is the same with label smoothing 0.1; M2-Encoder (arXiv:2401.15896) looks among those of its group of
ranks only.
"""

import math

import torch
from torch import Tensor, nn

from ssl_framework.arguments import BelowOne, Count, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank, world_size
from ssl_framework.functional import nce, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs

GATHERS = ("global", "group", "none")


@guarded
class CLIP(Objective):
    """Mean of the cross-entropies of both directions: view 0 finds view 1 and the other way round.

    Args:
        temperature: 1 / scale in the first step; the logarithm of the scale is trained (figure 3: t).
        largest_scale: what the scale may grow to (section 2.5: 100).
        label_smoothing: share of the target that is spread over all candidates, in [0, 1).
        gather: where the candidates are from: "global" (the batches of all ranks), "group" (those of the own part of
            the global batch) or "none" (this rank's).
        head: name of the head, the same in every tower, whose outputs are compared.
        groups: with "group", into how many parts the global batch is cut, in its order, however many ranks share it.
            Either divides the other: ranks that share a part gather among themselves, a rank of several cuts its own.
    """

    def __init__(
        self,
        temperature: Positive,
        largest_scale: Positive,
        label_smoothing: BelowOne = 0.0,
        gather: str = "global",
        head: str = "projector",
        groups: Count = 1,
    ) -> None:
        super().__init__()
        if not largest_scale * temperature >= 1:
            raise ValueError(
                f"objective.largest_scale is {largest_scale}, less than the scale at the beginning, 1 / "
                f"objective.temperature = {1 / temperature:g}: raise one of the two"
            )
        if gather not in GATHERS:
            raise ValueError(f"objective.gather is {gather}: choose one of {', '.join(GATHERS)}")
        if groups > 1 and gather != "group":
            raise ValueError(f"objective.groups is {groups}, but objective.gather is {gather}: set it to group")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))  # no dimensions: no weight decay
        self.largest = math.log(largest_scale)
        self.label_smoothing = label_smoothing
        self.gather = gather
        self.groups = groups
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        """Changes ``log_scale`` where it has grown beyond its bound.

        Raises:
            ValueError: the outputs of the two towers are of different widths, or ranks and groups do not go together.
        """
        self.bound()
        z0, z1 = rows_of(student, self.head)  # [B, D] each
        return {"loss": self.both_ways(z0, z1).mean(), "scale": self.log_scale.detach().exp()}

    @torch.no_grad()
    def bound(self) -> None:
        """Takes the scale back to its bound: the parameter, which behind a clamp in the graph would stay for ever."""
        self.log_scale.clamp_(max=self.largest)

    @property
    def temperature(self) -> Tensor:
        """1 / scale, with gradient."""
        return (-self.log_scale).exp()

    def both_ways(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The mean of both directions for each sample: two [B, D] of unit rows -> [B]."""
        return (self.one_way(z0, z1) + self.one_way(z1, z0)) / 2  # [B]

    def one_way(self, anchors: Tensor, others: Tensor) -> Tensor:
        """Cross-entropy of each anchor finding its own other view: two [B, D] of unit rows -> [B]."""
        parts = self.parts()
        found = [self.find(*pair) for pair in zip(anchors.tensor_split(parts), others.tensor_split(parts), strict=True)]
        return torch.cat(found)  # [B]

    def find(self, anchors: Tensor, others: Tensor) -> Tensor:
        """As ``one_way`` for rows that are all of one group."""
        keys, own = self.candidates(others)  # [M, D], [B]
        temperature = self.temperature.to(anchors.dtype)
        loss = nce(anchors, keys, own, temperature)  # [B]
        if self.label_smoothing:
            # The smoothed target is linear in the keys: its similarity is that to the mean of all of them.
            advantage = (anchors * (keys[own] - keys.mean(dim=0))).sum(dim=1) / temperature  # [B]
            loss = loss + self.label_smoothing * advantage
        return loss

    def candidates(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, D] -> those that anchors choose among [M, D], with gradient, and where z itself is among them [B].

        Raises:
            ValueError: neither of groups and ranks divides the other.
        """
        own = torch.arange(len(z), device=z.device)  # [B]
        if self.gather == "none":
            return z, own
        ranks = self.ranks_a_group()
        return gather_with_grad(z, ranks), rank() % ranks * len(z) + own

    def ranks_a_group(self) -> int:
        """How many ranks choose among the same candidates."""
        ranks = world_size()
        if max(ranks, self.groups) % min(ranks, self.groups):
            raise ValueError(
                f"objective.groups is {self.groups}, but {ranks} ranks train, and neither divides the other: set "
                f"objective.groups={ranks}, or train on another number of ranks"
            )
        return max(1, ranks // self.groups)

    def parts(self) -> int:
        """How many groups this rank has."""
        return max(1, self.groups // world_size())


def rows_of(student: list[Outputs | None], head: str) -> list[Tensor]:
    """Unit rows of the views that were encoded, which can be compared: V x [B, D].

    Raises:
        ValueError: they are of different widths.
    """
    rows = [unit(z) for z in outputs_of(student, head)]  # V x [B, D]
    widths = list(dict.fromkeys(z.shape[1] for z in rows))
    if len(widths) > 1:
        raise ValueError(
            f"{head} of all towers is compared, but one has {widths[0]} values and the other {widths[1]}: choose a "
            "head that gives both one width (head=linear)"
        )
    return rows
