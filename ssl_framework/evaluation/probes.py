"""Probes: what frozen features are scored with. Each states its protocol in its metric's name."""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.evaluation.frozen import Frozen


class KNN:
    """Weighted k-nearest-neighbour vote on cosine similarity (Wu et al., arXiv:1805.01978, section 3.4).

    A neighbour votes for its class with weight ``exp(similarity / temperature)``; the bank is the train split.

    Args:
        k: neighbours, or several numbers of them (each is a metric of its own).
        temperature: T.
        chunk: test rows compared with the bank at once; memory is chunk x N floats.
    """

    def __init__(self, k: int | Sequence[int], temperature: float, chunk: int = 1024) -> None:
        self.ks = [k] if isinstance(k, int) else list(k)
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"evaluation.probes.knn.k is {k}: it must be at least 1")
        if not temperature > 0:
            raise ValueError(f"evaluation.probes.knn.temperature is {temperature}: it must be above 0")
        self.temperature = temperature
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent for each k, named ``knn[k=20,T=0.1]/top1``.

        A k larger than the bank is left out, with one warning that says so.
        """
        ks = [k for k in self.ks if k <= len(train.x)]
        if ks != self.ks:
            left_out = sorted(set(self.ks) - set(ks))
            warnings.warn(f"k-NN with k={left_out} skipped: the train split has only {len(train.x)} samples")
        if not ks:
            return {}
        classes = int(torch.cat([train.y, test.y]).max()) + 1
        bank, queries = F.normalize(train.x, dim=1), F.normalize(test.x, dim=1)  # [N, D], [M, D]
        hits = dict.fromkeys(ks, 0)
        for rows, y in zip(queries.split(self.chunk), test.y.split(self.chunk), strict=True):
            similarity, neighbour = (rows @ bank.T).topk(max(ks), dim=1)  # [m, k]
            # Subtracting the largest changes no vote and keeps the exponential in range for small T.
            weight = ((similarity - similarity[:, :1]) / self.temperature).exp()  # [m, k]
            for k in ks:
                votes = torch.zeros(len(rows), classes)  # [m, classes]
                votes.scatter_add_(1, train.y[neighbour[:, :k]], weight[:, :k])
                hits[k] += int((votes.argmax(dim=1) == y).sum())
        return {f"knn[k={k},T={self.temperature:g}]/top1": 100 * n / len(test.y) for k, n in hits.items()}


class LinearProbe:
    """Multinomial logistic regression on standardised frozen features, by full-batch L-BFGS.

    Deterministic: no augmentation, no learning rate, no choice made on the test split.

    Args:
        weight_decay: coefficient of ``|weight|^2 / 2`` beside the mean cross-entropy; the bias has none.
        max_iter: L-BFGS iterations.
    """

    def __init__(self, weight_decay: float, max_iter: int) -> None:
        if weight_decay < 0 or max_iter < 1:
            raise ValueError(
                f"evaluation.probes.linear has weight_decay={weight_decay}, max_iter={max_iter}: "
                "they must be at least 0 and at least 1"
            )
        self.weight_decay = weight_decay
        self.max_iter = max_iter

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent, named ``linear/top1``."""
        mean, std = train.x.mean(dim=0), train.x.std(dim=0)
        std = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, torch.ones_like(std))  # dead features stay dead
        weight, bias = self.fit((train.x - mean) / std, train.y)
        predicted = F.linear((test.x - mean) / std, weight, bias).argmax(dim=1)  # [M]
        return {"linear/top1": 100 * (predicted == test.y).float().mean().item()}

    @torch.enable_grad()
    def fit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [classes, D] and bias [classes] for standardised features x [N, D]."""
        classes = int(y.max()) + 1
        weight = torch.zeros(classes, x.shape[1], requires_grad=True)  # this layout is 4 times as fast as its transpose
        bias = torch.zeros(classes, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=self.max_iter, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), y) + self.weight_decay / 2 * weight.square().sum()
            loss.backward()
            return loss

        solver.step(closure)
        return weight.detach(), bias.detach()
