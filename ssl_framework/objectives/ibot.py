"""iBOT: Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022 (arXiv:2111.07832), eq. 2 and 3;
and DINOv2: Oquab et al., TMLR 2024 (arXiv:2304.07193), section 4.

DINO between views, and within a view the same for patches: the student, from whom some are hidden, gives at their
places the teacher's distribution of the whole view. DINOv2 balances the teacher's outputs by Sinkhorn's algorithm and
spreads the student's features (KoLeo).

B samples, V teacher views, N patches, K outputs of a head, D features.
"""

import torch
from torch import Tensor

from ssl_framework.arguments import Fraction, NonNegative, Positive, guarded
from ssl_framework.distributed import gather_with_grad, rank
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective
from ssl_framework.objectives.dino import entropy, warmed
from ssl_framework.objectives.targets import Balanced, Centred
from ssl_framework.types import Batch, Clock, Outputs


def koleo(x: Tensor) -> Tensor:
    """Kozachenko and Leonenko's estimate of entropy, negative: minus the mean log distance of this rank's rows to the
    nearest other of all ranks, [B, D] -> scalar. Rows count with length one."""
    own = unit(x)  # [B, D]
    every = gather_with_grad(own)  # [W * B, D]
    with torch.no_grad():
        itself = torch.arange(len(own), device=x.device) + rank() * len(own)  # [B]
        nearest = (own @ every.T).scatter(1, itself[:, None], -2.0).argmax(dim=1)  # [B]
    return -((own - every[nearest]).norm(dim=1) + 1e-8).log().mean()


@guarded
class IBOT(Objective):
    """Mean cross-entropy of teacher and student over pairs of different views, plus that of hidden patches.

    That of patches is the mean over the hidden ones of an image, then over images; one without counts 0.

    Args:
        temperature: tau_s, of the student.
        teacher_temperature: tau_t, of the teacher, once it is warm.
        first_teacher_temperature: tau_t at the first step, from where it rises along a line.
        temperature_warmup: share of the run over which it rises, in [0, 1].
        targets, patch_targets: how the teacher's outputs for images and for patches become targets.
        patch_weight: of the patches' term.
        koleo_weight: of KoLeo of the student's features, summed over the views that the teacher sees, too.
        head: output of both encoders for images, [B, K], or for all tokens, [B, P + N, K], if they share a head.
        patch_head: output for patches, [B, N, K]; ``None``: images and patches share a head.
    """

    requires = frozenset({"teacher", "masks", "masked_tokens=replace"})
    num_views = (2, None)

    def __init__(
        self,
        temperature: Positive,
        teacher_temperature: Positive,
        first_teacher_temperature: Positive,
        temperature_warmup: Fraction,
        targets: Centred | Balanced,
        patch_targets: Centred | Balanced,
        patch_weight: NonNegative,
        koleo_weight: NonNegative,
        head: str = "projector",
        patch_head: str | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.first_teacher_temperature, self.temperature_warmup = first_teacher_temperature, temperature_warmup
        self.targets, self.patch_targets = targets, patch_targets
        self.patch_weight, self.koleo_weight = patch_weight, koleo_weight
        self.head, self.patch_head = head, patch_head
        self.teacher_reads = (head,) if patch_head is None else (head, patch_head)
        self.token_reads = (head,) if patch_head is None else (patch_head,)
        self.reads = (*self.teacher_reads, "mask", *(("pooled",) if koleo_weight else ()))

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        assert teacher is not None
        tau = warmed(self.first_teacher_temperature, self.teacher_temperature, self.temperature_warmup, clock)
        whole = {v: view for v, view in enumerate(teacher) if view}
        seen = {v: view for v, view in enumerate(student) if view}
        outputs = torch.cat([self.of_image(view) for view in whole.values()])  # [V * B, K]
        every = self.targets(outputs, tau, outputs.new_ones(len(outputs), dtype=torch.bool))  # [V * B, K]
        targets = dict(zip(whole, every.chunk(len(whole)), strict=True))  # [B, K] each
        log_p = {v: (self.of_image(view) / self.temperature).log_softmax(dim=1) for v, view in seen.items()}
        costs = [-(t * p).sum(dim=1).mean() for v, t in targets.items() for s, p in log_p.items() if s != v]
        between, patches = torch.stack(costs).mean(), self.of_hidden(seen, whole, tau)
        terms = {"image_loss": between, "patch_loss": patches}
        loss = between + self.patch_weight * patches
        if self.koleo_weight:
            terms["koleo"] = torch.stack([koleo(seen[v]["pooled"]) for v in whole if v in seen]).sum()
            loss = loss + self.koleo_weight * terms["koleo"]
        spread = {"target_entropy": entropy(every).mean(), "mean_target_entropy": entropy(every.mean(dim=0))}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}, **spread}

    def of_image(self, view: Outputs) -> Tensor:
        """[B, K]; a head of all tokens has the class token's first."""
        return view[self.head] if self.patch_head is not None else view[self.head][:, 0]

    def of_patches(self, view: Outputs, count: int) -> Tensor:
        """[B, N, K]; a head of all tokens has the patches' last."""
        return view[self.head][:, -count:] if self.patch_head is None else view[self.patch_head]

    def of_hidden(self, seen: dict[int, Outputs], whole: dict[int, Outputs], tau: float) -> Tensor:
        """The patches' term."""
        both = [v for v in whole if v in seen]
        mask = torch.cat([seen[v]["mask"] for v in both])  # [V * B, N]
        outputs = torch.cat([self.of_patches(whole[v], mask.shape[1]) for v in both])  # [V * B, N, K]
        targets = self.patch_targets(outputs.flatten(0, 1), tau, mask.flatten()).view_as(outputs)  # [V * B, N, K]
        found = torch.cat([self.of_patches(seen[v], mask.shape[1]) for v in both])  # [V * B, N, K]
        costs = -(targets * (found / self.temperature).log_softmax(dim=2)).sum(dim=2)  # [V * B, N]
        return ((costs * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()
