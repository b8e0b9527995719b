"""Contrastive UCB: Qiu et al., Contrastive UCB: Provably Efficient Contrastive Self-Supervised Learning in Online
Reinforcement Learning, ICML 2022 (arXiv:2207.14800): features of a low-rank Markov decision process by a contrast of
transitions with noise, and how far they still are from known. Pure functions: no environment is hosted, so that no
config names them.

``f(s, a, s') = psi(s') . phi(s, a) > 0``. The loss is least where f is ``P(s'|s, a) / P_noise(s')``, which is linear in
phi wherever the transitions are of low rank.

N transitions, d features.
"""

import torch
from torch import Tensor

from ssl_framework.functional import full_precision


def transition_loss(real: Tensor, noise: Tensor) -> Tensor:
    """``mean log(1 + 1 / f)`` of real transitions plus ``mean log(1 + f)`` of noise: a scalar.

    The negative log-likelihood of telling the two apart with odds f, both equally frequent.

    Args:
        real: [N] values of f above 0 where s' followed on (s, a).
        noise: [M] likewise where s' was drawn from the noise, whatever (s, a) was.
    """
    real, noise = full_precision(real), full_precision(noise)
    return real.reciprocal().log1p().mean() + noise.log1p().mean()


def bonus(seen: Tensor, asked: Tensor, regularisation: float, scale: float = 1.0, most: float | None = None) -> Tensor:
    """``min(scale sqrt(phi . inverse(Lambda) phi), most)``, ``Lambda = regularisation I + sum phi phi^T`` of what was
    seen: the upper confidence bound by which the algorithm prefers what it has rarely tried.

    Args:
        seen: [N, d] phi of all pairs (s, a) tried so far.
        asked: [M, d] phi of the pairs that are asked about.
        regularisation: above 0.
        scale: gamma.
        most: the length of an episode, H; ``None``: no limit.

    Returns:
        [M], at least 0.
    """
    seen, asked = full_precision(seen), full_precision(asked)
    covariance = (
        regularisation * torch.eye(seen.shape[1], dtype=seen.dtype, device=seen.device) + seen.T @ seen
    )  # [d, d]
    square = (asked * torch.linalg.solve(covariance, asked.T).T).sum(dim=1)  # [M]
    found = scale * square.clamp(min=0).sqrt()  # [M]
    return found if most is None else found.clamp(max=most)
