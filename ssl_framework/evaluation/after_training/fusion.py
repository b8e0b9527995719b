"""What the encoders of two modalities know together: a linear probe of each, of both side by side, and of both behind
the encoder that fuses them (HiCMAE, arXiv:2401.05698, section 4).

N samples, P and Q patches of both modalities, D their width.
"""

import warnings
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ssl_framework.arguments import Count, NonNegative, guarded
from ssl_framework.data.base import Split, chosen
from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.after_training.base import AfterRun, asked_of, clean, main_of, two_towers
from ssl_framework.evaluation.features import Bare, Frozen, Splits, in_eval_mode, refuse_non_finite, samples_at_once
from ssl_framework.evaluation.probes.base import right
from ssl_framework.evaluation.probes.linear import LinearProbe
from ssl_framework.models.encoder import Encoder
from ssl_framework.module import SSLModule


@runtime_checkable
class Fuses(Protocol):
    """An objective that has patches of two modalities look at each other."""

    def fused(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """[B, P, D] of the main modality and [B, Q, D] of the other one -> the same shapes."""
        ...


@guarded
class FusionProbe(AfterRun):
    """A logistic regression on mean patches, as ``LinearProbe``; nothing is hidden.

    Args:
        protocol: see ``AfterRun``.
        other: the modality beside the main one, as ``student.towers`` name it.
        weight_decay, max_iter: see ``LinearProbe``.
    """

    images_shown = "clean train and test samples of both modalities, encoders in eval mode; the mean of all patches"
    at_the_end = True
    reads_objective = True

    def __init__(self, protocol: str, other: str, weight_decay: NonNegative, max_iter: Count) -> None:
        super().__init__(protocol)
        self.other = other
        self.probe = LinearProbe(weight_decay, max_iter)

    def check(self, module: SSLModule | Bare) -> None:
        asked_of(module, Fuses, "fused", f"evaluation={self.name} scores what two modalities know together")
        two_towers(module, self.other, [], self.name)

    def check_split(self, split: Split) -> None:
        if self.other not in (split.beside or {}):
            raise ValueError(
                f"evaluation={self.name} reads {self.other}, which the data lack: choose data=sound_scenes, or "
                "evaluation=frozen"
            )

    def score(self, module: SSLModule | Bare, data: DataModule | Splits) -> dict[str, float]:
        """Top-1 in percent, ``fusion[image,l2=0.0001]/top1``, likewise of the other modality, of "both" side by side,
        and "fused"; nothing, with a warning, without labels.

        Raises:
            ValueError: the objective fuses nothing, or the data lack a modality.
        """
        self.check(module)
        self.check_split(data.test)
        if not data.has_labels:
            warnings.warn(f"evaluation={self.name} skipped: it needs labels and a test split, which these data lack")
            return {}
        train, test = (self.features(module, *each) for each in ((data.train, "train"), (data.test, "test")))
        found: dict[str, float] = {}
        for how, z in train.items():
            (answer,) = self.probe.answers(z, test[how].x).values()
            found[f"{self.name}[{how},l2={self.probe.weight_decay:g}]/top1"] = right(answer, test[how].y)
        return found

    def features(self, module: SSLModule | Bare, split: Split, which: str) -> dict[str, Frozen]:
        """How samples are seen -> their features [N, D] or [N, 2 D], and the labels."""
        objective: Fuses = asked_of(module, Fuses, "fused", "")
        towers, parts = two_towers(module, self.other, [], self.name), []
        assert split.beside is not None and split.label is not None
        beside = split.beside[self.other]  # [N, ...]
        with torch.no_grad(), in_eval_mode(module):
            for index in torch.arange(split.shape[0]).split(samples_at_once(split, module.device)):
                raw = chosen(split.rows, index.to(split.rows.device)).to(module.device)  # [B, ...]
                other = module.views.clean(beside[index.to(beside.device)].to(module.device), self.other)  # [B, ...]
                seen = zip(towers, (clean(module, raw), other), strict=True)
                patches = [Encoder.encode(tower, x)["patches"] for tower, x in seen]  # [B, P, D], [B, Q, D]
                each = [x.mean(dim=1) for x in (*patches, *objective.fused(*patches))]  # 4 x [B, D]
                parts.append(torch.cat(each, dim=1).cpu())  # [B, 4 D]
        joint = refuse_non_finite(torch.cat(parts), "the mean patches", which)  # [N, 4 D]
        one, two, *fused = joint.chunk(4, dim=1)  # [N, D] each
        rows = {main_of(module): [one], self.other: [two], "both": [one, two], "fused": fused}
        return {how: Frozen(torch.cat(z, dim=1), split.label.cpu()) for how, z in rows.items()}
