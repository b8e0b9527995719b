"""Contrastive losses over any number of views: Pakoromilas et al., A Principled Framework for Multi-View Contrastive
Learning, 2025 (arXiv:2507.06979), the baselines it compares with, and DHEL, on which it builds.

They differ in which pairs attract within one logarithm and which repel. View l of sample i is u_il, of length one; N is
the global batch, V the number of views; every sum of exponentials is a log-sum-exp. Cost: O(N^2 V) for MVDHEL,
whose views never meet the other samples' other views; O(N^2 V^2) for the others.
"""

import math
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import SameClass, log_sum_exp, unit
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.objectives.infonce import nt_xent
from ssl_framework.objectives.supcon import supcon
from ssl_framework.types import Batch, Clock, Outputs


class ViewsLoss(Protocol):
    """One of the losses of this file."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        """Unit rows [B, V, D] of this rank -> scalar, the mean over its samples."""
        ...


@guarded
class MultiView(Objective):
    """A loss over any number of views.

    Args:
        temperature: tau.
        loss: which of them.
        head: name of the student's head whose output is compared.
    """

    num_views = (2, None)

    def __init__(self, temperature: Positive, loss: ViewsLoss, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.loss = loss
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        u = torch.stack([unit(z) for z in outputs_of(student, self.head)], dim=1)  # [B, V, D]
        return {"loss": self.loss(u, self.temperature)}


class MVInfoNCE:
    """Per sample one logarithm: all ordered pairs of its views over everything its views meet, themselves excluded."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        positive = within_samples(u, temperature).flatten(1).logsumexp(dim=1)  # [B], over l != l'
        everything = against_all(u, temperature, own_views=False)  # [B, V]
        return (everything.logsumexp(dim=1) - positive).mean()


class MVDHEL:
    """Per sample one logarithm of its pairs, and for every view the energy of that view alone; positives decoupled."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        # Every unordered pair once: half of the ordered ones.
        positive = within_samples(u, temperature).flatten(1).logsumexp(dim=1) - math.log(2)  # [B]
        energies = [energy(u[:, view], temperature) for view in range(u.shape[1])]  # V x [B]
        return (torch.stack(energies).sum(dim=0) - positive).mean()


@guarded
class DHEL(Objective):
    """Decoupled hyperspherical energy (Koromilas et al., Bridging Mini-Batch and Asymptotic Analysis in Contrastive
    Learning, ICML 2024, arXiv:2405.18045): the pair's similarity against the energy within each view.

    Args:
        temperature: tau.
        second_view_energy: ``False`` leaves out the energy of the second view.
        head: name of the student's head whose output is compared.
    """

    def __init__(self, temperature: Positive, second_view_energy: bool, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.second_view_energy = second_view_energy
        self.head = head
        self.reads = (head,)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        a, b = map(unit, outputs_of(student, self.head))  # [B, D] each
        loss = energy(a, self.temperature) - (a * b).sum(dim=1) / self.temperature  # [B]
        return {"loss": (loss + energy(b, self.temperature) if self.second_view_energy else loss).mean()}


class CL1:
    """The paper's control for one logarithm a sample: one a view, its positives over the other views of all samples."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        batch, num_views, _ = u.shape
        keys = gather_with_grad(u).flatten(0, 1)  # [W * B * V, D]
        view = torch.arange(num_views, device=u.device)  # [V]
        own_view = SameClass(view.repeat(batch), view.repeat(len(keys) // num_views))
        everything = log_sum_exp(u.flatten(0, 1), keys, temperature, [own_view])[0]  # [B * V]
        return (everything - within_samples(u, temperature).logsumexp(dim=2).flatten()).mean()


class CL2:
    """The paper's control for decoupled energies: those of MVDHEL, but the positives in one logarithm a view."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        energies = [energy(u[:, view], temperature) for view in range(u.shape[1])]  # V x [B]
        return torch.stack(energies).sum(dim=0).mean() - within_samples(u, temperature).logsumexp(dim=2).mean()


@guarded
class PVC:
    """Poly-view contrast: every ordered pair of a sample's views is told from all views of the other samples.

    Args:
        mean: over the partners of a view, of log-probabilities ("geometric") or of probabilities ("arithmetic").
    """

    def __init__(self, mean: str) -> None:
        if mean not in ("geometric", "arithmetic"):
            raise ValueError(f"objective.loss.mean is {mean}: choose geometric or arithmetic")
        self.mean = mean

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        num_views = u.shape[1]
        others = against_all(u, temperature, own_views=True)[..., None]  # [B, V, 1]
        pair = within_samples(u, temperature)  # [B, V, V], -inf where a view meets itself
        apart = ~torch.eye(num_views, dtype=torch.bool, device=u.device)  # [V, V]
        # log p = -log(1 + exp(others - pair)), which stays finite where the pair is no pair
        log_p = -torch.nn.functional.softplus(others - pair.masked_fill(~apart, 0.0))  # [B, V, V]
        if self.mean == "geometric":
            return -(log_p * apart).sum(dim=2).div(num_views - 1).mean()
        return (math.log(num_views - 1) - log_p.masked_fill(~apart, float("-inf")).logsumexp(dim=2)).mean()


class PairwiseNTXent:
    """NT-Xent of every pair of views, averaged (PWE in the paper)."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        views = u.unbind(dim=1)  # V x [B, D]
        return torch.stack([nt_xent(a, b, temperature) for a, b in combinations(views, 2)]).mean()


class AverageViewNTXent:
    """NT-Xent of every view against the mean of the others, which is not brought back to length one (AVG)."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        total, num_views = u.sum(dim=1), u.shape[1]  # [B, D]
        views = u.unbind(dim=1)  # V x [B, D]
        return torch.stack([nt_xent(a, (total - a) / (num_views - 1), temperature) for a in views]).mean()


class MultiPositiveNTXent:
    """NT-Xent over all views of all samples, the mean over a view's positives: SupCon with the sample as class."""

    def __call__(self, u: Tensor, temperature: float) -> Tensor:
        batch, num_views, _ = u.shape
        sample = rank() * batch + torch.arange(batch, device=u.device)  # [B]
        return supcon(u.transpose(0, 1).flatten(0, 1), sample.repeat(num_views), temperature)


def within_samples(u: Tensor, temperature: float) -> Tensor:
    """Similarities of a sample's views over tau, -inf where a view meets itself: [B, V, D] -> [B, V, V]."""
    itself = torch.eye(u.shape[1], dtype=torch.bool, device=u.device)  # [V, V]
    return (u @ u.mT / temperature).masked_fill(itself, float("-inf"))  # [B, V, V]


def energy(x: Tensor, temperature: float) -> Tensor:
    """``log sum_{j != i} exp(x_i . x_j / tau)`` over the global batch, one view alone: [B, D] -> [B]."""
    own = rank() * len(x) + torch.arange(len(x), device=x.device)  # [B]
    return log_sum_exp(x, gather_with_grad(x), temperature, [own])[0]


def against_all(u: Tensor, temperature: float, own_views: bool) -> Tensor:
    """For every view the log-sum-exp over all views of the global batch.

    Args:
        u: [B, V, D] unit rows of this rank.
        temperature: tau.
        own_views: leave out all views of the own sample, not the view itself only.

    Returns:
        [B, V]
    """
    batch, num_views, _ = u.shape
    keys = gather_with_grad(u).flatten(0, 1)  # [W * B * V, D]
    own = rank() * batch * num_views + torch.arange(batch * num_views, device=u.device)  # [B * V]
    if own_views:
        sample = own // num_views * num_views  # [B * V] first view of the own sample
        own = sample[:, None] + torch.arange(num_views, device=u.device)  # [B * V, V]
    return log_sum_exp(u.flatten(0, 1), keys, temperature, [own])[0].unflatten(0, (batch, num_views))  # [B, V]
