"""A linear classifier on the frozen backbone, trained on augmented images instead of stored features."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ssl_framework.arguments import BelowOne, Count, NonNegative, OpenFraction, Positive, Seed, guarded
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, clean, frozen_copy
from ssl_framework.evaluation.after_training.finetune import augmented_views, batches, checked, class_labels
from ssl_framework.evaluation.features import Bare, Splits, extract, refuse_non_finite
from ssl_framework.evaluation.probes.base import accuracies, moments, right
from ssl_framework.module import SSLModule
from ssl_framework.optim import warmup_cosine


@guarded
class LinearAugmented(AfterRun):
    """Linear classifiers trained by SGD on random crops, one for each learning rate, all of them at once.

    The usual linear protocol, such as that of He et al., MoCo, CVPR 2020 (arXiv:1911.05722), section 4.1: the network
    frozen, in eval mode. As in ``LinearSGD`` features are standardised, by the mean and deviation of the clean train
    features, which makes rates of different networks comparable, and the rate is chosen on clean images of a part of
    the train split that was held out; the test split is scored once, by the classifier chosen. Cost: epochs x N images
    forward.

    Args:
        protocol: see ``AfterRun``.
        learning_rates: for a batch of 256, scaled linearly with the batch; each decays along a cosine to 0.
        epochs: over the train split without the held-out part.
        batch_size: images a step.
        momentum: of SGD.
        weight_decay: of SGD, on weights and biases.
        held_out: share of the train split the rate is chosen on, in (0, 1).
        augmentation: how the views are made, one group as in ``views.groups``, without ``count``.
        seed: of the held-out part, the first weights, the order and the augmentation.
    """

    images_shown = (
        "classifier trained on augmented images of the train split, encoder in eval mode; the learning rate chosen on "
        "a held-out part of the train split; scored on every clean test image once"
    )

    def __init__(
        self,
        protocol: str,
        learning_rates: Annotated[Sequence[Positive], Len(1)],
        epochs: Count,
        batch_size: Count,
        momentum: BelowOne,
        weight_decay: NonNegative,
        held_out: OpenFraction,
        augmentation: Mapping[str, Any],
        seed: Seed,
    ) -> None:
        super().__init__(protocol)
        self.rates = [float(rate) for rate in learning_rates]
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.held_out = held_out
        self.augmentation = checked(augmentation)
        self.seed = seed

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Top-1 in percent, named ``linear_augmented[epochs=...]/top1``, and the rate that was chosen."""
        label = class_labels(data, self.name)  # [N]
        student = frozen_copy(module)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(label), generator=generator)  # [N]
        cut = min(len(label) - 1, max(1, round(self.held_out * len(label))))
        held, kept = order[:cut], order[cut:]

        def embedded(images: Split, split: str) -> Tensor:
            x = extract(lambda x: student.embed(clean(module, x)), images, module.device)  # [N, D]
            return refuse_non_finite(x, "the backbone's features", split)

        bank = embedded(data.train, "train")  # [N, D]
        mean, std = moments(bank[kept])
        shift, scale = mean.to(module.device), std.to(module.device)

        def seen(view: Tensor) -> Tensor:
            with torch.no_grad():
                return (student.embed(view) - shift) / scale  # [B, D]

        start = 0.01 * torch.randn(int(label.max()) + 1, bank.shape[1], generator=generator)  # [classes, D]
        weight, bias = self.fit(module, data.train, kept, label, seen, start)  # [L, classes, D], [L, classes]
        best = int(accuracies(weight, bias, (bank[held] - mean) / std, label[held]).argmax())
        assert data.test.label is not None
        answer = F.linear((embedded(data.test, "test") - mean) / std, weight[best], bias[best]).argmax(dim=1)  # [M]
        name = f"linear_augmented[epochs={self.epochs}]"
        return {f"{name}/top1": right(answer, data.test.label.cpu()), f"{name}/learning_rate": self.rates[best]}

    def fit(
        self,
        module: SSLModule | Bare,
        images: Split,
        rows: Tensor,
        label: Tensor,
        seen: Callable[[Tensor], Tensor],
        start: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One classifier a rate, on the CPU: weights [L, classes, D] and biases [L, classes].

        Args:
            module: whose views' size and normalisation are taken.
            images: the train split.
            rows: [n] images of it that are trained on.
            label: [N] int64 classes of the train split, on the CPU.
            seen: views [B, C, h, w] -> standardised features [B, D].
            start: [classes, D] first weights of every classifier; biases begin at 0.
        """
        views, size = augmented_views(module, self.augmentation), min(self.batch_size, len(rows))
        generator = torch.Generator().manual_seed(self.seed)  # of the CPU: the same draws on every device
        start = start.to(module.device)
        heads = [[start.clone().requires_grad_(), start.new_zeros(len(start)).requires_grad_()] for _ in self.rates]
        groups = [{"params": head, "lr": rate * size / 256} for head, rate in zip(heads, self.rates, strict=True)]
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay)
        steps = self.epochs * (len(rows) // size)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, 0.0))
        for samples in batches(images, rows, label, self.epochs, size, self.seed, views):
            x = seen(views(samples, generator).views[0])  # [B, D]
            assert samples.label is not None
            loss = torch.zeros((), device=x.device)
            for weight, bias in heads:
                loss = loss + F.cross_entropy(F.linear(x, weight, bias), samples.label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        weights, biases = zip(*heads, strict=True)
        return torch.stack(weights).detach().cpu(), torch.stack(biases).detach().cpu()
