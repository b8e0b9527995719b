"""Fine-tuning: the whole network, from the run's checkpoint, trained on labelled images of the train split.

N images of the train split, M of the test split, D features, B images of a batch.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssl_framework.arguments import BelowOne, Count, NonNegative, PositiveFraction, Seed, Several, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.data.loader import ahead
from ssl_framework.evaluation.after_training.base import AfterRun, clean
from ssl_framework.evaluation.features import DTYPES, Bare, Splits, extract, refuse_non_finite
from ssl_framework.evaluation.probes.base import right
from ssl_framework.evaluation.probes.few_labels import drawn_by_class
from ssl_framework.models.base import BackboneProtocol, deep
from ssl_framework.models.tuning import fold
from ssl_framework.module import SSLModule
from ssl_framework.optim import warmup_cosine
from ssl_framework.types import Samples, step_seed
from ssl_framework.views.image import Views, picture_views
from ssl_framework.views.image_ops import with_channels
from ssl_framework.views.reading import read_group


@guarded
class FineTune(AfterRun):
    """The backbone with a new linear classifier, trained for a fixed number of epochs and scored once.

    The rate of a layer falls with its distance from the classifier: the classifier has the full rate, the last layer
    ``layer_decay`` times it, the one before ``layer_decay`` squared, and so on, as in Bao et al., BEiT, ICLR 2022
    (arXiv:2106.08254) and He et al., MAE, CVPR 2022 (arXiv:2111.06377, table 9). On shares of the labels it is the
    semi-supervised protocol of Chen et al., SimCLR, ICML 2020 (arXiv:2002.05709), appendix B.5. Clean test images;
    nothing is chosen on them, nor anything else: settings are fixed. Cost: for each share, epochs x share x N images
    forward and backward.

    Args:
        protocol: see ``AfterRun``.
        shares: of the train labels, each in (0, 1], the same of every class; those of ``evaluation=semi_supervised``
            for one seed. 1 is all.
        epochs: of each share.
        lr_per_256: of the classifier, for a batch of 256, scaled linearly with the batch.
        batch_size: B; a share with fewer images is one batch. What is left of an epoch is left out, other images each
            time.
        algorithm: builds the optimizer from (parameter groups, lr=...).
        weight_decay: of weights; vectors, and what timm exempts (embeddings of positions and classes), have none.
        layer_decay: in (0, 1]; 1: one rate for all.
        warmup: share of the steps over which the rate rises from 0, before it falls along a cosine to 0.
        augmentation: how the views are made, one group as in ``views.groups``, without ``count``.
        precision: "float32" or "bfloat16", in which the network computes; weights are float32.
        seed: of the labels, the classifier, the order and the augmentation.
    """

    images_shown = (
        "trained on augmented images of the train split, batch statistics of the batch; scored on every clean test "
        "image once, in eval mode"
    )

    def __init__(
        self,
        protocol: str,
        shares: Annotated[Sequence[PositiveFraction], Len(1)],
        epochs: Annotated[Sequence[Count], Len(1)],
        lr_per_256: NonNegative,
        batch_size: Several,
        algorithm: Callable[..., Optimizer],
        weight_decay: NonNegative,
        layer_decay: PositiveFraction,
        warmup: BelowOne,
        augmentation: Mapping[str, Any],
        precision: str,
        seed: Seed,
    ) -> None:
        super().__init__(protocol)
        if len(epochs) != len(shares) or min(epochs) < 1:
            raise ValueError(
                f"evaluation.epochs is {list(epochs)}: give as many as evaluation.shares ({len(shares)}), at least 1"
            )
        if precision not in DTYPES:
            raise ValueError(f"evaluation.precision is {precision}: choose one of {', '.join(DTYPES)}")
        self.shares = list(shares)
        self.epochs = list(epochs)
        self.lr_per_256 = lr_per_256
        self.batch_size = batch_size
        self.algorithm = algorithm
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay
        self.warmup = warmup
        self.augmentation = checked(augmentation)
        self.dtype = DTYPES[precision]
        self.seed = seed

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Top-1 in percent, named ``finetune[epochs=20,lr=0.001,decay=0.75]/top1``, of a share of the labels
        ``finetune[labels=1%,epochs=60,...]/top1``."""
        label = class_labels(data, self.name)  # [N]
        student = module.student
        if student.scored != ("pooled",) or len(student.earlier):
            raise ValueError(
                f"evaluation={self.name} trains one backbone, but evaluators of this run read those of student.scored "
                "and student.earlier: choose evaluation=linear_augmented or frozen"
            )
        classes = drawn_by_class(label, self.seed)
        found: dict[str, float] = {}
        for share, epochs in zip(self.shares, self.epochs, strict=True):
            rows = torch.cat([of_class[: max(1, round(share * len(of_class)))] for of_class in classes])  # [n]
            network = self.fit(module, data.train, rows, label, epochs)
            assert data.test.label is not None
            labels = "" if share == 1 else f"labels={100 * share:g}%,"
            name = f"finetune[{labels}epochs={epochs},lr={self.lr_per_256:g},decay={self.layer_decay:g}]"
            found[f"{name}/top1"] = right(network.answers(module, data.test), data.test.label.cpu())
        return found

    def fit(self, module: SSLModule | Bare, images: Split, rows: Tensor, label: Tensor, epochs: int) -> "Network":
        """A trained copy of a module's backbone with a classifier.

        Args:
            module: whose backbone it begins with.
            images: the train split.
            rows: [n] images of it that are trained on.
            label: [N] int64 classes of the train split, on the CPU.
            epochs: over the rows.

        Raises:
            ValueError: there is one image, or the training diverged.
        """
        if len(rows) < 2:
            raise ValueError(f"evaluation={self.name} has one image to train on: raise evaluation.shares")
        device, size = module.device, min(self.batch_size, len(rows))
        generator = torch.Generator().manual_seed(self.seed)  # of the CPU: the same draws on every device
        views = augmented_views(module, self.augmentation)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)  # of what is random in the network, such as dropped paths
            backbone = copy.deepcopy(module.student.backbone)
            with contextlib.suppress(ValueError):  # of prefixes, which stay beside the network
                fold(backbone)
            network = Network(backbone, int(label.max()) + 1, generator).to(device)
            network.requires_grad_(True).train()
            lr = self.lr_per_256 * size / 256
            groups = layer_groups(network, lr, self.weight_decay, self.layer_decay)
            optimizer = self.algorithm(groups, lr=lr)
            steps = epochs * (len(rows) // size)
            schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, self.warmup))
            for samples in batches(images, rows, label, epochs, size, self.seed, views):
                view = views(samples, generator).views[0]  # [B, C, h, w]
                with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                    logits = network(view)  # [B, classes]
                loss = F.cross_entropy(logits.float(), samples.label)  # type: ignore[arg-type]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        if not math.isfinite(loss.item()):
            raise ValueError(f"evaluation={self.name} diverged: lower evaluation.lr_per_256, now {self.lr_per_256}")
        return network


class Network(nn.Module):
    """A backbone with a linear classifier.

    Args:
        backbone: as it was pretrained.
        classes: of the labels.
        generator: of the first weights, normal with standard deviation 0.01 as MAE's linear probe; biases begin at 0.
    """

    def __init__(self, backbone: BackboneProtocol, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.dim, classes)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, classes]"""
        return self.head(self.backbone(x)["pooled"])

    @torch.no_grad()
    def answers(self, module: SSLModule | Bare, images: Split) -> Tensor:
        """The most likely class of clean images, in eval mode, which it stays in: [M] int64 on the CPU."""
        self.eval()
        logits = extract(lambda x: self(clean(module, x)), images, module.device)  # [M, classes]
        return refuse_non_finite(logits, "the finetuned network's logits", "test").argmax(dim=1)


def class_labels(data: DataModule | Splits, name: str) -> Tensor:
    """The classes of the train split, [N] int64 on the CPU.

    Raises:
        ValueError: there are no labels, they are numbers, or all are of one class.
    """
    if not data.has_labels:
        raise ValueError(f"evaluation={name} needs labels and a test split, which this data set lacks")
    assert data.train.label is not None
    if data.train.label.is_floating_point():
        raise ValueError(
            f"evaluation={name} needs classes, but the labels are numbers: choose evaluation=regression, or classes "
            "(data.source.label=shape on data=shapes)"
        )
    label = data.train.label.cpu()
    if len(label.unique()) < 2:
        raise ValueError(f"evaluation={name} needs several classes, but the train split has one")
    return label


def checked(augmentation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of one view themselves.

    Raises:
        ValueError: an unknown or impossible one, whatever the images.
    """
    if "count" in augmentation:
        raise ValueError("evaluation.augmentation has count: leave it out, one view of every image is made")
    read_group(augmentation, "evaluation.augmentation", 32, 3)
    return augmentation


def augmented_views(module: SSLModule | Bare, augmentation: Mapping[str, Any]) -> Views:
    """One random view of every image, of the size and normalisation of the module's, on its device.

    Raises:
        ValueError: a setting that is impossible for these images.
    """
    own = picture_views(module.views, "evaluation.augmentation")
    mean, std = own.mean.flatten().tolist(), own.std.flatten().tolist()
    try:
        return Views([augmentation], own.image_size, own.channels, mean, std).to(module.device)
    except ValueError as error:
        raise ValueError(str(error).replace("views.groups[0]", "evaluation.augmentation")) from error


def batches(
    images: Split, rows: Tensor, label: Tensor, epochs: int, size: int, seed: int, views: Views
) -> Iterator[Samples]:
    """Batches of ``size`` of some images of a split, in a new order each epoch, read while the last is trained on.

    Args:
        images: the split.
        rows: [n] images of it.
        label: [N] classes of the split, on the CPU.
        epochs: over the rows; what is left of each is left out.
        size: B, at most n.
        seed: of the orders.
        views: which will make the views of the batches: they go to its device, with as many channels.
    """
    device = views.mean.device

    def read() -> Iterator[tuple[Tensor, Tensor]]:
        for epoch in range(epochs):
            generator = torch.Generator().manual_seed(step_seed(seed, epoch))
            order = rows[torch.randperm(len(rows), generator=generator)]  # [n]
            for index in order[: len(rows) // size * size].split(size):
                yield index, chosen(images.rows, index.to(images.rows.device))

    for index, pixels in ahead(read()):
        yield Samples(with_channels(pixels.to(device), views.channels), index, label[index].to(device))


def layer_groups(network: Network, lr: float, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups by depth and weight decay, each with its learning rate.

    Args:
        network: backbone and classifier.
        lr: of the classifier.
        weight_decay: of what has any.
        layer_decay: factor of the rate from a layer to the one before.

    Raises:
        ValueError: layers matter, and timm does not say where they are.
    """
    net = network.backbone.net
    depth, top = ({}, 0) if layer_decay == 1 else deep(network.backbone, "evaluation.layer_decay").depths()
    exempt: set[str] = set(getattr(net, "no_weight_decay", set)())  # not all of timm's models have a say
    found: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        decayed = parameter.ndim > 1 and name not in exempt
        rate = lr * layer_decay ** (top - depth.get(name, top))
        found.setdefault((rate, weight_decay if decayed else 0.0), []).append(parameter)
    found.setdefault((lr, weight_decay), []).append(network.head.weight)
    found.setdefault((lr, 0.0), []).append(network.head.bias)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in found.items()]
