"""LeJEPA: Balestriero and LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, 2025
(arXiv:2511.08544): ``lam * SIGReg(all views) + (1 - lam) * prediction``.

Every view is drawn to the mean of the large ones, while the embeddings' distribution is drawn to the standard Gaussian:
along random directions, by the distance of the empirical characteristic function. No teacher, no stop-gradient.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Count, Fraction, Positive, Several, guarded
from ssl_framework.distributed import gather_with_grad, world_size
from ssl_framework.functional import full_precision, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class LeJEPA(Objective):
    """The sum of both terms; outputs are compared as they are, not normalised.

    Args:
        lam: weight of SIGReg, in [0, 1].
        num_global: so many first views have the mean that all views are drawn to; without small crops all of them.
        num_directions: M, random directions of a step, alike on all ranks.
        num_knots: of the integral over t.
        t_max: where it ends.
        head: name of the student's head whose output is compared.
    """

    num_views = (2, None)
    against_collapse = ("lam",)

    def __init__(
        self,
        lam: Fraction,
        num_global: Count,
        num_directions: Count,
        num_knots: Several,
        t_max: Positive,
        head: str = "projector",
    ) -> None:
        super().__init__()
        self.lam = lam
        self.num_global = num_global
        self.num_views = (max(2, num_global), None)
        self.num_directions = num_directions
        self.num_knots = num_knots
        self.t_max = t_max
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = views_of(student, self.head, self.num_global)  # [V, B, D]
        distance = prediction(z, self.num_global)
        sigreg = self.sigreg(z, directions(self.num_directions, z, clock))
        loss = self.lam * sigreg + (1 - self.lam) * distance
        return {"loss": loss, "prediction": distance.detach(), "sigreg": sigreg.detach()}

    def sigreg(self, z: Tensor, along: Tensor) -> Tensor:
        """Epps-Pulley statistic, W * B times the integral over |t| <= t_max of ``|ecf(t) - exp(-t^2 / 2)|^2
        exp(-t^2 / 2)``, its mean over views and directions: [V, B, D] and unit [M, D] -> scalar.

        By the trapezoid rule on [0, t_max], doubled.
        """
        t = torch.linspace(0, self.t_max, self.num_knots, dtype=z.dtype, device=z.device)  # [T]
        gaussian = (-t.square() / 2).exp()  # [T]
        angle = (z @ along.T)[..., None] * t  # [V, B, M, T]
        ecf = torch.stack([angle.cos().mean(dim=1), angle.sin().mean(dim=1)])  # [2, V, M, T]
        real, imaginary = gather_with_grad(ecf[None]).mean(dim=0)  # [V, M, T] each: over the samples of all ranks
        error = ((real - gaussian).square() + imaginary.square()) * gaussian  # [V, M, T]
        return world_size() * z.shape[1] * 2 * torch.trapezoid(error, t).mean()


def views_of(student: list[Outputs | None], head: str, num_global: int) -> Tensor:
    """The named head's output for all views, [V, B, D] in float32 or float64.

    Raises:
        ValueError: there are fewer views than are global.
    """
    z = torch.stack([full_precision(x) for x in outputs_of(student, head)])  # [V, B, D]
    if len(z) < num_global:
        raise ValueError(f"objective.num_global is {num_global}, but the student encodes only {len(z)} views")
    return z


def prediction(z: Tensor, num_global: int) -> Tensor:
    """Mean squared distance of every view to the mean of the first ones: [V, B, D] -> scalar."""
    return (z - z[:num_global].mean(dim=0)).square().mean()


def directions(count: int, z: Tensor, clock: Clock) -> Tensor:
    """Random unit vectors [M, D] for embeddings [..., D], alike on all ranks and other ones at every step."""
    drawn = torch.randn(count, z.shape[-1], generator=clock.generator(z.device), device=z.device)  # [M, D]
    return unit(drawn).to(z.dtype)
