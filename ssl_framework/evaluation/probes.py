"""Probes: what frozen features are scored with. Each states its protocol in its metric's name."""

import math
import warnings
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_framework.evaluation.frozen import Accuracy, Frozen


class KNN:
    """Weighted k-nearest-neighbour vote on cosine similarity (Wu et al., arXiv:1805.01978, section 3.4).

    A neighbour votes for its class with weight ``exp(similarity / temperature)``; the bank is the train split.

    Several k and T are a grid that one pass over the similarities scores. Each pair is a metric of its own; to report
    the best of them is to choose on the test split.

    Args:
        k: neighbours, or several numbers of them.
        temperature: T, or several.
        chunk: test rows compared with the bank at once; memory is chunk x N floats, about twice.
    """

    def __init__(self, k: int | Sequence[int], temperature: float | Sequence[float], chunk: int = 1024) -> None:
        self.ks = list(dict.fromkeys([k] if isinstance(k, int) else k))
        several = [temperature] if isinstance(temperature, int | float) else temperature
        self.temperatures = list(dict.fromkeys(several))
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"evaluation.probes.knn.k is {k}: it must be at least 1")
        if not self.temperatures or not all(t > 0 for t in self.temperatures):
            raise ValueError(f"evaluation.probes.knn.temperature is {temperature}: it must be above 0")
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Top-1 accuracy in percent for each k and T, named ``knn[k=20,T=0.1]/top1``.

        A k larger than the bank is left out, with one warning that says so; so is everything for numbers.
        """
        if not are_classes(train.y, "k-NN"):
            return {}
        return {f"{name}/top1": right(answer, test.y) for name, answer in self.answers(train, test.x).items()}

    def answers(self, train: Frozen, x: Tensor) -> dict[str, Tensor]:
        """The class that rows [M, D] are given, for each k and T: ``knn[k=20,T=0.1]`` -> [M] int64.

        A k larger than the bank is left out, with one warning that says so.
        """
        ks = within(self.ks, len(train.x))
        if not ks:
            return {}
        classes = int(train.y.max()) + 1
        given: dict[str, list[Tensor]] = {f"knn[k={k},T={t:g}]": [] for k in ks for t in self.temperatures}
        for similarity, neighbour in neighbours(train.x, x, max(ks), self.chunk):
            label = train.y[neighbour]  # [m, k]
            for t in self.temperatures:
                # Subtracting the largest changes no vote and keeps the exponential in range for small T.
                weight = ((similarity - similarity[:, :1]) / t).exp()  # [m, k]
                for k in ks:
                    votes = torch.zeros(len(label), classes)  # [m, classes]
                    votes.scatter_add_(1, label[:, :k], weight[:, :k])
                    given[f"knn[k={k},T={t:g}]"].append(votes.argmax(dim=1))
        return {name: torch.cat(parts) for name, parts in given.items()}  # [M] each


def right(answer: Tensor, y: Tensor) -> Accuracy:
    """Top-1 of answers [M] to samples of the classes [M]."""
    return Accuracy(int((answer == y).sum()), len(y))


def are_classes(y: Tensor, name: str) -> bool:
    """Whether labels [N] are classes; where they are numbers, warns in one line that the probe ``name`` is skipped."""
    if y.is_floating_point():
        warnings.warn(f"{name} skipped: it needs classes, but the labels are numbers: choose evaluation=regression")
    return not y.is_floating_point()


def within(ks: Sequence[int], count: int) -> list[int]:
    """Those numbers of neighbours that ``count`` samples have; warns in one line of the others."""
    if left_out := sorted({k for k in ks if k > count}):
        warnings.warn(f"k-NN with k={left_out} skipped: the train split has only {count} samples")
    return [k for k in ks if k <= count]


def neighbours(bank: Tensor, x: Tensor, k: int, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest rows of a bank by cosine similarity, for m = ``chunk`` rows at a time.

    Args:
        bank: [N, D] features of any length.
        x: [M, D] rows whose neighbours are wanted.
        k: at most N.
        chunk: rows compared with the bank at once.

    Yields:
        [m, k] similarities, largest first, and [m, k] int64 rows of the bank.
    """
    bank = F.normalize(bank.float(), dim=1)  # [N, D]
    # Used for every chunk anew, with the bank along the rows: the matrix product is a tenth faster that way round.
    similarities = torch.empty(len(bank), min(chunk, len(x)))  # [N, chunk]
    for rows in x.split(chunk):
        queries = F.normalize(rows.float(), dim=1)  # [m, D]
        if len(rows) < similarities.shape[1]:
            similarities = similarities.new_empty(len(bank), len(rows))  # [N, m]
        torch.mm(bank, queries.T, out=similarities)
        yield largest(similarities, k)


def largest(values: Tensor, k: int, groups: int = 16) -> tuple[Tensor, Tensor]:
    """The k largest of every column, largest first, as ``topk`` but several times as fast on long columns.

    The rows are laid in ``groups`` layers. A place whose largest value over the layers is not among the k largest such
    values holds none of the k largest of all, so only k places times ``groups`` values are left to sort.

    Args:
        values: [N, M].
        k: at most N.
        groups: layers.

    Returns:
        [M, k] values and [M, k] int64 rows.
    """
    width = len(values) // groups
    if k > width:
        return values.T.topk(k, dim=1)
    layers = values[: groups * width].unflatten(0, (groups, width))  # [groups, width, M]
    place = layers.amax(dim=0).T.topk(k, dim=1, sorted=False).indices  # [M, k]
    start = torch.arange(groups, device=values.device)[:, None] * width  # [groups, 1]
    row = (start + place[:, None]).flatten(1)  # [M, groups * k]
    rest = torch.arange(groups * width, len(values), device=values.device).expand(len(row), -1)  # [M, < groups]
    row = torch.cat([row, rest], dim=1)  # [M, groups * k + rest]
    found, position = values.T.gather(1, row).topk(k, dim=1)  # [M, k]
    return found, row.gather(1, position)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and standard deviation [D] of features [N, D], float32; 1 for a feature that does not vary."""
    mean, std = x.float().mean(dim=0), x.float().std(dim=0)  # [D] each
    return mean, torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, torch.ones_like(std))


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
        """Top-1 accuracy in percent, named ``linear[l2=0.0001]/top1``; nothing, with a warning, for numbers."""
        if not are_classes(train.y, "the linear probe"):
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


def check_sgd(where: str, learning_rates: Sequence[float], epochs: int, batch_size: int, held_out: float) -> None:
    """Raises ValueError if a classifier cannot be trained by these settings, which the config has under ``where``."""
    if not learning_rates or min(learning_rates) <= 0:
        raise ValueError(f"{where}.learning_rates is {list(learning_rates)}: give one or more, above 0")
    if not 0 < held_out < 1:
        raise ValueError(f"{where}.held_out is {held_out}: give a share of the train split, between 0 and 1")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"{where} has epochs={epochs}, batch_size={batch_size}: both must be at least 1")


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
        learning_rates: Sequence[float],
        epochs: int,
        batch_size: int,
        momentum: float,
        weight_decay: float,
        held_out: float,
        seed: int,
    ) -> None:
        check_sgd("evaluation.probes.linear_sgd", learning_rates, epochs, batch_size, held_out)
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
        if not are_classes(train.y, "the linear probe"):
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


def accuracies(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Share of right answers of L classifiers: [L, classes, D], [L, classes], [M, D], [M] -> [L]."""
    predicted = torch.einsum("md,lcd->mlc", x, weight).add_(bias).argmax(dim=2)  # [M, L]
    return (predicted == y[:, None]).float().mean(dim=0)


class Retrieval:
    """Every test image asks for the other test images of its class, by the cosine of the features; nothing is fitted.

    Metric learning's protocol. mAP@R is that of Musgrave et al., A Metric Learning Reality Check, ECCV 2020
    (arXiv:2003.08505), section 3.1: with R other images of its class, the mean over the first R ranks of the precision
    at a rank where the image there is of the class, and 0 where it is not. Of equally similar images the one that
    comes first in the split stands first. An image that is alone in its class does not ask.

    Args:
        k: recall@k is the share of queries with an image of their class among the k most similar ones.
        chunk: queries whose similarities exist at once.
    """

    def __init__(self, k: Sequence[int], chunk: int = 512) -> None:
        if not k or min(k) < 1:
            raise ValueError(f"evaluation.probes.retrieval.k is {list(k)}: give one or more numbers, at least 1")
        self.ks = list(k)
        self.chunk = chunk

    def __call__(self, train: Frozen, test: Frozen) -> dict[str, float]:
        """Percent, named ``retrieval[test,cosine]/recall@1`` ... and ``retrieval[test,cosine]/map@r``."""
        if not are_classes(test.y, "retrieval"):
            return {}
        count = torch.bincount(test.y)[test.y] - 1  # [M]: R of each
        asks = (count > 0).nonzero()[:, 0]  # [Q]
        if not len(asks):
            warnings.warn("retrieval skipped: no class has two images in the test split")
            return {}
        z = F.normalize(test.x.float(), dim=1)  # [M, D]
        deepest = min(len(z) - 1, max([*self.ks, int(count.max())]))
        rank = torch.arange(1, deepest + 1)  # [deepest]
        hits, precision = dict.fromkeys(self.ks, 0), 0.0
        for query in asks.split(self.chunk):
            similarity = (z[query] @ z.T).scatter_(1, query[:, None], float("-inf"))  # [q, M]
            found = similarity.argsort(dim=1, descending=True, stable=True)[:, :deepest]  # [q, deepest]
            right = test.y[found] == test.y[query, None]  # [q, deepest]
            wanted = count[query, None]  # [q, 1]
            for k in self.ks:
                hits[k] += int(right[:, :k].any(dim=1).sum())
            at_rank = right.cumsum(dim=1) / rank * (right & (rank <= wanted))  # [q, deepest]
            precision += (at_rank.sum(dim=1) / wanted[:, 0]).double().sum().item()
        name = "retrieval[test,cosine]"
        scores = {f"{name}/recall@{k}": 100 * n / len(asks) for k, n in hits.items()}
        return scores | {f"{name}/map@r": 100 * precision / len(asks)}
