"""CTP-TFT: class-aware text prompts and text-guided feature tuning of a frozen CLIP (known by its abstract).

Every class's text looks at the picture, so that each picture has texts of its own, and the picture's tokens look at the
texts. What is tuned is compared, picture by picture.

No config names it: a run offers a frozen CLIP's embeddings of pictures, but not those of its classes' texts. In a loop
of one's own ``PromptTuning`` takes both. The layers are ours, one of cross-attention each way: the paper's are unknown.

B samples, N tokens of a picture, C classes, D the width of the embeddings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, Positive, guarded
from ssl_framework.functional import unit


@guarded
class PromptTuning(nn.Module):
    """Cosines of pictures and of the texts that are made for each, over a temperature.

    Args:
        dim: D, of tokens and texts.
        num_heads: of both attentions; they divide D.
        temperature: tau.
    """

    def __init__(self, dim: Count, num_heads: Count, temperature: Positive) -> None:
        super().__init__()
        self.prompt = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.tune = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        for attention in (self.prompt, self.tune):  # at first everything is as the frozen model has it
            nn.init.zeros_(attention.out_proj.weight)
        self.temperature = temperature

    def forward(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Tokens [B, N, D] and texts of the classes [C, D], of a frozen model -> logits [B, C]."""
        shared = texts.expand(len(tokens), -1, -1)  # [B, C, D]
        own = shared + self.prompt(shared, tokens, tokens, need_weights=False)[0]  # [B, C, D]
        tuned = tokens + self.tune(tokens, shared, shared, need_weights=False)[0]  # [B, N, D]
        return scores(tuned.mean(dim=1), own, self.temperature)

    def loss(self, tokens: Tensor, texts: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of the classes [B] int64, of what ``forward`` takes: the mean."""
        return F.cross_entropy(self(tokens, texts), label)


def scores(pictures: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Cosines of each picture with the texts of its own: [B, D] and [B, C, D] -> [B, C]."""
    return torch.einsum("bd,bcd->bc", unit(pictures), unit(texts)) / temperature
