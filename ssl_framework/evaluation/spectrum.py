"""What the spectrum of features says of how many directions they use, without labels.

All in float64. ``singular_values`` and ``covariance_eigenvalues`` read the features, once each; the measures read the
spectrum. A matrix of zeros, such as centred features that are all equal, has rank 0 in every measure of rank.

N samples, D features, R = min(N, D).
"""

import math

import torch
from torch import Tensor


def singular_values(x: Tensor, centred: bool = False) -> Tensor:
    """Singular values of features [N, D], largest first: [R] float64.

    Those that are no more than rounding of the features' size are 0. Cost: about ``4 N D R`` operations, memory two or
    three copies of the features in float64.

    Args:
        x: [N, D].
        centred: whether the mean row is taken off first.
    """
    x = x.double()
    rounding = torch.finfo(x.dtype).eps * max(x.shape) * x.norm()
    found = torch.linalg.svdvals(x - x.mean(dim=0) if centred else x)  # [R]
    return torch.where(found > rounding, found, 0.0)


def covariance_eigenvalues(x: Tensor) -> Tensor:
    """The R largest eigenvalues of the covariance (divided by N) of features [N, D], largest first: [R] float64."""
    return singular_values(x, centred=True).square() / len(x)


def normalised(spectrum: Tensor) -> Tensor:
    """A spectrum [R] relative to its largest value, for curves of several networks in one picture: [R] in [0, 1].

    Jing et al., Understanding dimensional collapse, ICLR 2022 (arXiv:2110.09348) read the collapse off such a curve.
    """
    return spectrum / spectrum[0] if spectrum[0] > 0 else torch.zeros_like(spectrum)


def entropy_rank(spectrum: Tensor, epsilon: float) -> float:
    """``exp(-sum_k p_k log p_k)`` with ``p_k = spectrum_k / sum(spectrum) + epsilon``; 0 where the spectrum is 0.

    Args:
        spectrum: [R], none negative.
        epsilon: at least 0; with 0, values of 0 have no part in the sum.
    """
    if spectrum.sum() == 0:
        return 0.0
    p = spectrum.double() / spectrum.double().sum() + epsilon  # [R]
    return (-torch.special.xlogy(p, p).sum()).exp().item()


def effective_rank(singular: Tensor) -> float:
    """The effective rank of a matrix with singular values [R]: in [1, R]. Roy and Vetterli, The effective rank, EUSIPCO
    2007."""
    return entropy_rank(singular, 0.0)


def rankme(singular: Tensor, epsilon: float) -> float:
    """RankMe: Garrido et al., ICML 2023 (arXiv:2210.02885): ``effective_rank`` of the features, not centred, with an
    epsilon that keeps the logarithm finite. It grows with N as far as N limits the rank (the paper takes 25,600).

    Args:
        singular: [R] of the features.
        epsilon: added to every share; the paper's 1e-7 moves the value by about R * 1e-6 of itself.
    """
    return entropy_rank(singular, epsilon)


def participation_ratio(eigenvalue: Tensor) -> float:
    """``(sum_k l_k)^2 / sum_k l_k^2`` of the covariance's eigenvalues [R]: in [1, R].

    Gao et al., A theory of multineuronal dimensionality, dynamics and measurement, bioRxiv 2017 (214262). Large values
    weigh more than in the effective rank, so that it is less than or equal to that of the same spectrum.
    """
    total = eigenvalue.double().sum().square()
    return (total / eigenvalue.double().square().sum()).item() if total > 0 else 0.0


def fitted_ranks(eigenvalue: Tensor, first: int, last: int) -> tuple[int, int]:
    """The ranks ``alpha_req`` fits: from ``first`` to ``last``, or to the last eigenvalue that is not 0."""
    return first, min(last, int((eigenvalue > 0).sum()))


def alpha_req(eigenvalue: Tensor, first: int, last: int) -> float:
    """alpha-ReQ: Agrawal et al., NeurIPS 2022: alpha in ``l_k ~ k^-alpha``, the decay of the covariance's spectrum.

    Near 1 generalises best according to the paper; far above, few directions carry all; near 0, all carry alike. The
    line is fitted to ``log l_k`` over ``log k`` by least squares with weights ``1 / k``, as in the authors' package
    reptrix (which follows Stringer et al., Nature 2019): each stretch of ``log k`` counts alike.

    Args:
        eigenvalue: [R], largest first.
        first: the lowest rank that is fitted, counted from 1.
        last: the highest; see ``fitted_ranks``.

    Returns:
        alpha; NaN where fewer than three eigenvalues remain.
    """
    first, last = fitted_ranks(eigenvalue, first, last)
    if last - first < 2:
        return math.nan
    rank = torch.arange(first, last + 1, dtype=torch.float64, device=eigenvalue.device)  # [K]
    share = (1 / rank) / (1 / rank).sum()  # [K]
    across, up = rank.log(), eigenvalue[first - 1 : last].double().log()  # [K] each
    across = across - (share * across).sum()  # [K]
    return -((share * across * up).sum() / (share * across.square()).sum()).item()


def lidar(x: Tensor, delta: float, epsilon: float) -> float:
    """LiDAR: Thilak et al., ICLR 2024 (arXiv:2312.04000): the effective rank of linear discriminant analysis whose
    classes are the samples and whose members are their views. Directions that differ between views of one sample, which
    RankMe counts, do not count here.

    With ``S_b`` the covariance of the samples' means and ``S_w`` that of the views around them plus ``delta I``, it is
    ``entropy_rank`` of the eigenvalues of ``S_w^-1/2 S_b S_w^-1/2``. Cost: about ``2 N q D^2 + 5 D^3`` operations,
    memory one sample's views and three D x D matrices beside the means, in float64.

    Args:
        x: [N, q, D], q views of each of N samples.
        delta: above 0, in units of the features' variance.
        epsilon: as in ``rankme``.

    Raises:
        ValueError: there are fewer than two samples or views, or delta is not above 0.
    """
    if x.ndim != 3 or min(x.shape[:2]) < 2:
        raise ValueError(f"LiDAR takes [N, q, D] with two or more samples and views, but was given {list(x.shape)}")
    if not delta > 0:
        raise ValueError(f"LiDAR's delta is {delta}: it must be above 0, or the views' covariance may be singular")
    mean = torch.stack([views.double().mean(dim=0) for views in x])  # [N, D]
    within = delta * torch.eye(x.shape[2], dtype=torch.float64, device=x.device)  # [D, D]
    for views, centre in zip(x, mean, strict=True):
        apart = views.double() - centre  # [q, D]
        within.addmm_(apart.T, apart, alpha=1 / (len(x) * x.shape[1]))
    offset = mean - mean.mean(dim=0)  # [N, D]
    # With S_w = L L^T, the matrix L^-1 S_b L^-T has the eigenvalues wanted, and no root of S_w is needed.
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), offset.T, upper=False)  # [D, N]
    return entropy_rank(torch.linalg.eigvalsh(whitened @ whitened.T / len(x)).clamp(min=0), epsilon)
