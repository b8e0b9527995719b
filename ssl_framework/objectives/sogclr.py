"""SogCLR: Yuan et al., Provable Stochastic Optimization for Global Contrastive Learning: Small Batch Does Not Harm
Performance, ICML 2022 (arXiv:2202.12387); and iSogCLR: Qiu et al., Not All Semantics are Created Equal:
Contrastive Self-supervised Learning with Automatic Temperature Individualization, ICML 2023 (arXiv:2305.11965).

The denominator of every sample is estimated over the whole data set by a moving average u_i of what its batches show,
so that small batches suffice; iSogCLR also learns a temperature tau_i for every sample. The loss is a surrogate: its
gradient is that of the global loss, its value is not, so that one is logged as "gcl".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_framework.arguments import NonNegative, Positive, PositiveFraction, guarded
from ssl_framework.distributed import gather, gather_with_grad, rank
from ssl_framework.functional import by_tiles, unit
from ssl_framework.memory import SampleBank
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class SogCLR(Objective):
    """Global contrastive loss at one temperature. It keeps one number a sample, log u_i.

    Args:
        temperature: tau.
        gamma: share of the new estimate in u_i, in (0, 1]; a sample's first estimate is taken whole.
        head: name of the student's head whose output is compared.
    """

    requires = frozenset({"index"})
    bank: SampleBank

    def __init__(self, temperature: Positive, gamma: PositiveFraction, head: str = "projector") -> None:
        super().__init__()
        self.temperature = temperature
        self.gamma = gamma
        self.head = head
        self.reads = (head,)

    def allocate(self, num_samples: int) -> None:
        self.bank = SampleBank({"log_u": torch.zeros(num_samples)})

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = torch.stack([unit(z) for z in outputs_of(student, self.head)])  # [2, B, D]
        tau = torch.full_like(self.bank.read("log_u", batch.index), self.temperature)  # [B]
        found = global_contrast(z, tau, self.bank, batch.index, self.gamma)
        self.bank.write(batch.index, {"log_u": found.log_mean_u})
        return {"loss": found.loss, "gcl": found.gcl}


@guarded
class ISogCLR(Objective):
    """Robust global contrastive loss, with a temperature for every sample. It keeps three numbers a sample: log u_i,
    tau_i and the momentum of its gradient. Smallest, mean and largest tau_i of the batch are logged.

    Args:
        temperature: tau_i at the start.
        min_temperature, max_temperature: bounds of tau_i.
        gamma: share of the new estimate in u_i, in (0, 1]; a sample's first estimate is taken whole.
        rho: radius of the ambiguity set; the larger, the lower the temperatures.
        eta: step size of tau_i.
        beta: share of the new gradient in the momentum of tau_i, in (0, 1] (beta_u in the authors' code).
        head: name of the student's head whose output is compared.
    """

    requires = frozenset({"index"})
    bank: SampleBank

    def __init__(
        self,
        temperature: Positive,
        min_temperature: Positive,
        max_temperature: Positive,
        gamma: PositiveFraction,
        rho: NonNegative,
        eta: NonNegative,
        beta: PositiveFraction,
        head: str = "projector",
    ) -> None:
        super().__init__()
        if not min_temperature <= temperature <= max_temperature:
            raise ValueError(
                f"objective.temperature is {temperature}: it must lie between objective.min_temperature="
                f"{min_temperature} and objective.max_temperature={max_temperature}"
            )
        self.temperature = temperature
        self.bounds = min_temperature, max_temperature
        self.gamma = gamma
        self.rho = rho
        self.eta = eta
        self.beta = beta
        self.head = head
        self.reads = (head,)

    def allocate(self, num_samples: int) -> None:
        zero = torch.zeros(num_samples)  # [N]
        tau = torch.full_like(zero, self.temperature)  # [N]
        self.bank = SampleBank({"log_u": zero, "tau": tau, "momentum": zero.clone()})

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        z = torch.stack([unit(z) for z in outputs_of(student, self.head)])  # [2, B, D]
        tau, momentum = (self.bank.read(name, batch.index) for name in ("tau", "momentum"))  # [B] each
        found = global_contrast(z, tau, self.bank, batch.index, self.gamma)
        # The authors' code for images alone clamps this gradient to +-3, their library does not.
        gradient = (found.log_u + self.rho - found.repulsion / tau).mean(dim=0)  # [B]
        momentum = (1 - self.beta) * momentum + self.beta * gradient  # [B]
        tau = (tau - self.eta * momentum).clamp(*self.bounds)  # [B]
        self.bank.write(batch.index, {"log_u": found.log_mean_u, "tau": tau, "momentum": momentum})
        tau = gather(tau)  # [W * B]; not of all N samples, which would cost more the more there are
        low, high = tau.aminmax()
        return {"loss": found.loss, "gcl": found.gcl, "tau_min": low, "tau_mean": tau.mean(), "tau_max": high}


class GlobalContrast(NamedTuple):
    """What one batch shows of the global loss; all but ``loss`` without gradient."""

    loss: Tensor  # [] the surrogate, both views summed, the mean over this rank's samples
    gcl: Tensor  # [] the global contrastive loss itself as u estimates it, the mean over both views
    log_u: Tensor  # [2, B] log of the new u_i, for each view
    log_mean_u: Tensor  # [B] log of their mean, which is kept
    repulsion: Tensor  # [2, B] sum over the negatives of p s / count


def global_contrast(z: Tensor, tau: Tensor, bank: SampleBank, index: Tensor, gamma: float) -> GlobalContrast:
    """The surrogate loss. Negatives of a view are both views of all other samples of the global batch.

    Args:
        z: [2, B, D] unit rows of this rank.
        tau: [B] temperature of each sample.
        bank: with log u_i in "log_u"; it is read, not written. As a logarithm u cannot overflow, which exp(1 / tau)
            does in float32 below tau = 0.012.
        index: [B] int64 samples in the bank.
        gamma: share of the new estimate.
    """
    rows, batch = z.flatten(0, 1), len(index)  # [2B, D]
    keys = gather_with_grad(rows)  # [W * 2B, D]
    own = torch.arange(len(rows), device=z.device)  # [2B]
    # Row b of one view pairs with row b of the other.
    left_out = rank() * len(rows) + torch.stack([own, own.roll(batch)], dim=1)  # [2B, 2]
    old = bank.read("log_u", index)  # [B]
    # Per sample: a batch may mix samples that come for the first time with others.
    share = torch.full_like(old, gamma).masked_fill(~bank.read("visited", index), 1.0)  # [B]
    count = len(keys) - 2

    def weigh(
        keys: Tensor, rows: Tensor, left_out: Tensor, tau: Tensor, old: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        s = rows @ keys.T  # [R, W * 2B]
        logits = (s.detach() / tau[:, None]).scatter(1, left_out, float("-inf"))  # [R, W * 2B]
        log_g = logits.logsumexp(dim=1) - math.log(count)  # [R]
        log_u = torch.logaddexp(torch.log1p(-share) + old, share.log() + log_g)  # [R]
        p = torch.exp(logits - log_u[:, None])  # [R, W * 2B]
        return (p * s).sum(dim=1) / count, log_u

    both = (x.repeat(2) for x in (tau, old, share))  # [2B] each
    repulsion, log_u = by_tiles(weigh, keys, rows, left_out, *both)  # [2B] each
    attraction = (z[0] * z[1]).sum(dim=1)  # [B]
    loss = repulsion.sum() / batch - 2 * attraction.mean()
    log_u = log_u.detach().view(2, batch)
    gcl = (tau * log_u).mean() - attraction.detach().mean()
    log_mean_u = log_u.logsumexp(dim=0) - math.log(2)  # [B]
    return GlobalContrast(loss, gcl, log_u, log_mean_u, repulsion.detach().view(2, batch))
