"""MECO: Learning Unnormalized Statistical Models via Compositional Optimization, ICML 2023 (arXiv:2306.07485):
maximum likelihood with a moving average of the partition function instead of noise-contrastive estimation.

The model is ``p(x) = q(x) exp(-f(x)) / Z`` with noise q; the student's one number f is the energy above that of q, so
that q only has to be drawn, not known. Gradient: ``mean df(data) - (1 / u) mean exp(-f(noise)) df(noise)``.

B samples of this rank, W ranks.
"""

import math

import torch
from torch import Tensor

from ssl_framework.arguments import PositiveFraction, guarded
from ssl_framework.distributed import gather
from ssl_framework.functional import full_precision
from ssl_framework.objectives.base import Objective, outputs_of
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class MECO(Objective):
    """The first view is data, the second noise; u, the estimate of Z, is the same on every rank.

    Args:
        gamma: share of a new batch in the moving average u.
        head: name of the student's head of one number, the energy f.
    """

    log_u: Tensor  # [] float32; u begins at 1, as for a model that is the noise

    def __init__(self, gamma: PositiveFraction, head: str = "energy") -> None:
        super().__init__()
        self.gamma, self.head = gamma, head
        self.reads = (head,)
        self.register_buffer("log_u", torch.zeros(()))

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        data, noise = (full_precision(z)[:, 0] for z in outputs_of(student, self.head))  # [B] each
        log_u = moved(self.log_u, gather(-noise.detach()), self.gamma)  # []
        self.log_u.copy_(log_u)
        loss = likelihood(data, noise, log_u)
        return {"loss": loss, "log_partition": log_u, "energy_gap": (noise.detach() - data.detach()).mean()}


def moved(log_u: Tensor, log_weight: Tensor, gamma: float) -> Tensor:
    """``log((1 - gamma) u + gamma mean w)``: the estimate of Z after one more batch.

    Args:
        log_u: [] the logarithm of u.
        log_weight: [W * B] ``log w``, w = exp(-E(noise)) / q(noise) of the samples of all ranks.
        gamma: in (0, 1].
    """
    fresh = log_weight.logsumexp(dim=0) - math.log(len(log_weight)) + math.log(gamma)  # []
    return fresh if gamma == 1 else torch.logaddexp(log_u.to(fresh.dtype) + math.log(1 - gamma), fresh)


def likelihood(data: Tensor, noise: Tensor, log_u: Tensor) -> Tensor:
    """``mean f(data) + log u``, the negative log-likelihood up to that of q, with MECO's gradient.

    Args:
        data: [B] energies of data.
        noise: [B] energies of noise, ``-log w``.
        log_u: [] without gradient.
    """
    weight = (-noise.detach() - log_u).exp()  # [B] w / u
    pull = -(weight * noise).mean()
    return data.mean() + log_u + pull - pull.detach()
