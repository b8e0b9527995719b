"""Probes: what frozen features are scored with. Each states its protocol in its metric's name."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import BelowOne, Count, NonNegative, OpenFraction, Positive, Seed, guarded
from ssl_framework.evaluation.features import Frozen
from ssl_framework.evaluation.probes.base import accuracies, are_classes, are_finite, moments, right


@guarded
class LinearProbe:
    """Multinomial logistic regression on standardised frozen features, by full-batch L-BFGS.

    Deterministic: no augmentation, no learning rate, no choice made on the test split.

    Args:
        weight_decay: coefficient of ``|weight|^2 / 2`` beside the mean cross-entropy; the bias has none.
        max_iter: L-BFGS iterations.
    """

    def __init__(self, weight_decay: NonNegative, max_iter: Count) -> None:
        self.weight_decay = weight_decay
        self.max_iter = max_iter

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent, named ``linear[l2=0.0001]/top1``; nothing, with a warning, for numbers."""
        if not (are_classes(train.y, "the linear probe") and are_finite("the linear probe", train, test)):
            return {}
        return {f"{name}/top1": right(answer, test.y) for name, answer in self.answers(train, test.x).items()}

    def answers(self, train: Frozen, x: Tensor) -> dict[str, Tensor]:
        """The class that rows [M, D] are given: ``linear[l2=0.0001]`` -> [M] int64."""
        mean, std = moments(train.x)
        weight, bias = self.fit((train.x.float() - mean) / std, train.y)
        return {f"linear[l2={self.weight_decay:g}]": F.linear((x.float() - mean) / std, weight, bias).argmax(dim=1)}

    @torch.enable_grad()
    def fit(
        self, x: Tensor, y: Tensor, start: tuple[Tensor, Tensor] | None = None, tolerance: float = 1e-5
    ) -> tuple[Tensor, Tensor]:
        """Weights [classes, D] and bias [classes] for standardised features x [N, D].

        Args:
            x: [N, D].
            y: [N] int64 classes, or [N, classes] float32 shares of them.
            start: weights and bias to start from, which stay as they are; None: zeros.
            tolerance: largest part of the gradient at which the fit is done.
        """
        classes = int(y.max()) + 1 if y.ndim == 1 else y.shape[1]
        weight = torch.zeros(classes, x.shape[1])  # this layout is 4 times as fast as its transpose
        bias = torch.zeros(classes)
        if start is not None:
            weight.copy_(start[0])
            bias.copy_(start[1])
        weight.requires_grad_()
        bias.requires_grad_()
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=self.max_iter, tolerance_grad=tolerance, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), y) + self.weight_decay / 2 * weight.square().sum()
            loss.backward()
            return loss

        solver.step(closure)
        return weight.detach(), bias.detach()


@guarded
class LinearSGD:
    """Linear classifiers trained by SGD on cached features, one for each learning rate, all of them at once.

    Their weights lie side by side, so a step is one matrix product whatever their number. The rate is chosen on a part
    of the train split that was held out; the test split is scored once, by the classifier chosen.

    Args:
        learning_rates: for a batch of 256, scaled linearly with ``batch_size``; each decays along a cosine to 0.
        epochs: over the train split without the held-out part.
        batch_size: rows a step.
        momentum: of SGD.
        weight_decay: of SGD, on weights and biases.
        held_out: share of the train split the rate is chosen on, in (0, 1).
        seed: of the held-out part and of the order.
    """

    def __init__(
        self,
        learning_rates: Annotated[Sequence[Positive], Len(1)],
        epochs: Count,
        batch_size: Count,
        momentum: BelowOne,
        weight_decay: NonNegative,
        held_out: OpenFraction,
        seed: Seed,
    ) -> None:
        self.learning_rates = [float(rate) for rate in learning_rates]
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.held_out = held_out
        self.seed = seed

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent, named ``linear_sgd[epochs=...]/top1``, and the rate that was chosen; nothing,
        with a warning, for numbers."""
        if not (are_classes(train.y, "the linear probe") and are_finite("the linear probe", train, test)):
            return {}
        order = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(self.seed))  # [N]
        cut = max(1, round(self.held_out * len(order)))
        held, kept = order[:cut], order[cut:]
        mean, std = moments(train.x[kept])

        def standardised(x: Tensor) -> Tensor:
            return (x.float() - mean) / std

        classes = int(torch.cat([train.y, test.y]).max()) + 1
        weight, bias = self.fit(standardised(train.x[kept]), train.y[kept], classes)  # [L, classes, D], [L, classes]
        chosen = int(accuracies(weight, bias, standardised(train.x[held]), train.y[held]).argmax())
        predicted = F.linear(standardised(test.x), weight[chosen], bias[chosen]).argmax(dim=1)  # [M]
        top1 = right(predicted, test.y)
        name = f"linear_sgd[epochs={self.epochs}]"
        return {f"{name}/top1": top1, f"{name}/learning_rate": self.learning_rates[chosen]}

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """One classifier a rate: x [N, D], y [N] -> weights [L, classes, D] and biases [L, classes]."""
        num, dim = len(self.learning_rates), x.shape[1]
        rates = torch.tensor(self.learning_rates) * self.batch_size / 256  # [L]
        generator = torch.Generator().manual_seed(self.seed)
        start = 0.01 * torch.randn(classes, dim, generator=generator)  # [classes, D], the same for every rate
        both = torch.cat([start, torch.zeros(classes, 1)], dim=1).repeat(num, 1, 1)  # [L, classes, D + 1]
        speed = torch.zeros_like(both)  # [L, classes, D + 1]
        rows = F.pad(x, (0, 1), value=1.0)  # [N, D + 1]: the bias is the weight of a constant
        steps = self.epochs * -(-len(x) // self.batch_size)
        step = 0
        for _ in range(self.epochs):
            for index in torch.randperm(len(x), generator=generator).split(self.batch_size):
                part = rows[index]  # [b, D + 1]
                share = (
                    F.linear(part, both.flatten(0, 1)).view(len(part), num, classes).softmax(dim=2)
                )  # [b, L, classes]
                share[torch.arange(len(part)), :, y[index]] -= 1  # the gradient of the cross-entropy
                gradient = (share.flatten(1).T @ part).view_as(both).div_(len(part))  # [L, classes, D + 1]
                speed.mul_(self.momentum).add_(gradient).add_(both, alpha=self.weight_decay)
                decay = (1 + math.cos(math.pi * step / steps)) / 2
                both.sub_(speed * (decay * rates)[:, None, None])
                step += 1
        return both[..., :-1], both[..., -1]
