"""w2v-BERT: Chung et al., w2v-BERT: Combining Contrastive Learning and Masked Language Modeling for Self-Supervised
Speech Pre-Training, ASRU 2021 (arXiv:2108.06209), section 2; the contrast is wav2vec 2.0's (arXiv:2006.11477, eq. 2 to
4).

Frames are told apart by a codebook that is learnt. Where frames are hidden, an early block finds the code vector of the
frame among those of the other hidden frames of the sound, and the last block says which code it is.

B samples of this rank, F frames, D features, V codes, E dimensions of a code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, Fraction, NonNegative, Positive, Several, guarded
from ssl_framework.distributed import gather_with_grad, mean_of, own_rows, world_size
from ssl_framework.functional import unit
from ssl_framework.objectives.base import Objective
from ssl_framework.types import Batch, Clock, Outputs


@guarded
class W2VBert(Objective):
    """``contrast_weight (contrast + diversity_weight diversity) + prediction_weight prediction``.

    Logs the perplexity of the codes that the batch uses, 1 to V: at 1 all frames have one code.

    Args:
        bands: of a frame.
        dim: D.
        num_codes: V.
        code_dim: E.
        temperature: of the contrast.
        gumbel: temperatures of the choice of codes, that of the first step and the lowest.
        gumbel_decay: by which the former is multiplied at every step.
        contrast_weight: beta.
        diversity_weight: alpha.
        prediction_weight: gamma.
        code_gradient: share of the prediction's gradient that reaches the choice of codes, as if it were soft; 0: codes
            are constants to it.
        head: name of the student's output that says the code, [B, F, D].
    """

    requires = frozenset({"inputs", "masks", "masked_tokens=replace"})
    num_views = (1, 1)

    def __init__(
        self,
        bands: Count,
        dim: Count,
        num_codes: Several,
        code_dim: Count,
        temperature: Positive,
        gumbel: tuple[Positive, Positive],
        gumbel_decay: Positive,
        contrast_weight: NonNegative,
        diversity_weight: NonNegative,
        prediction_weight: NonNegative,
        code_gradient: Fraction,
        head: str = "patch_features",
    ) -> None:
        super().__init__()
        self.temperature, self.gumbel, self.gumbel_decay = temperature, tuple(gumbel), gumbel_decay
        self.weights = contrast_weight, contrast_weight * diversity_weight, prediction_weight
        self.code_gradient = code_gradient
        self.head = head
        self.reads = (head, "layers", "mask")
        self.token_reads = (head,)
        self.choose = nn.Linear(bands, num_codes)
        self.codes = nn.Parameter(torch.rand(num_codes, code_dim))  # [V, E]
        self.context = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, code_dim))
        self.predict = nn.Linear(dim, num_codes)

    def forward(
        self, student: list[Outputs | None], teacher: list[Outputs | None] | None, batch: Batch, clock: Clock
    ) -> dict[str, Tensor]:
        ((x, seen),) = [(x, seen) for x, seen in zip(batch.views, student, strict=True) if seen is not None]
        logits = self.choose(x[:, 0].transpose(1, 2).to(self.codes.dtype))  # [B, F, V], of the whole sound
        chosen = self.chosen(logits, clock)  # [B, F, V]
        hidden = seen["mask"]  # [B, F]
        contrast = contrast_of(
            self.context(seen["layers"][:, 0]), chosen @ self.codes, chosen.argmax(dim=2), hidden, self.temperature
        )  # [B, F]
        right = chosen.detach() + self.code_gradient * (chosen - chosen.detach())  # [B, F, V]
        said = -(right * F.log_softmax(self.predict(seen[self.head]), dim=2)).sum(dim=2)  # [B, F]
        share = gather_with_grad(logits.softmax(dim=2).mean(dim=(0, 1))[None]).mean(dim=0)  # [V]
        used = gather_with_grad(chosen.detach().mean(dim=(0, 1))[None]).mean(dim=0)  # [V]
        terms = mean_of(contrast, hidden), 1 - perplexity(share) / len(share), mean_of(said, hidden)
        loss = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        logged = dict(zip(("contrast", "diversity", "prediction"), terms, strict=True))
        logged["perplexity"] = perplexity(used)
        return {"loss": loss, **{name: value.detach() for name, value in logged.items()}}

    def chosen(self, logits: Tensor, clock: Clock) -> Tensor:
        """One code a frame, drawn with Gumbel noise, with the gradient of the soft choice: [B, F, V] -> [B, F, V]."""
        shape = (world_size() * len(logits), *logits.shape[1:])
        drawn = torch.rand(shape, generator=clock.generator(logits.device), device=logits.device)
        noise = -(-own_rows(drawn).clamp(1e-6, 1 - 1e-6).log()).log()  # [B, F, V]
        first, lowest = self.gumbel
        heat = max(first * self.gumbel_decay**clock.step, lowest)
        soft = ((logits + noise) / heat).softmax(dim=2)  # [B, F, V]
        hard = torch.zeros_like(soft).scatter(2, soft.argmax(dim=2, keepdim=True), 1.0)  # [B, F, V]
        return hard + (soft - soft.detach())


def contrast_of(context: Tensor, target: Tensor, code: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of each frame finding its code vector among those of the other hidden frames of its sound that
    have another code.

    Args:
        context: [B, F, E], what was made of the frame's surroundings.
        target: [B, F, E], its code vector.
        code: [B, F] int64.
        hidden: [B, F] bool; further loss values mean nothing.
        temperature: of the cosines.

    Returns:
        [B, F]; 0 where there is no other code.
    """
    logits = unit(context) @ unit(target).mT / temperature  # [B, F, F]
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)  # [F, F]
    others = hidden[:, None] & (code[:, :, None] != code[:, None])  # [B, F, F]
    logits = logits.masked_fill(~(others | own), float("-inf"))
    return logits.logsumexp(dim=2) - logits.diagonal(dim1=1, dim2=2)


def perplexity(share: Tensor) -> Tensor:
    """How many codes are used: shares [..., V] -> scalar, summed over groups of codes, if there are several."""
    return torch.special.entr(share).sum(dim=-1).exp().sum()
