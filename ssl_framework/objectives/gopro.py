"""GOPro: Singha et al., GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning, BMVC 2023
(arXiv:2308.11605), section 3: prompts for a frozen CLIP that follow from the picture.

Style and content of every layer of the picture's tower make one vector that is added to all words of the context. The
prompts of altered views have to give the texts of the clean one, and its embedding has to find its altered view.

No config names it: prompts go into the words of a frozen text tower, which a run does not offer. In a loop of one's own
``StylePrompt`` makes the vector, and ``GOPro`` is the loss of what the frozen towers then give.

B samples of this rank, T layers, N tokens of a picture, C classes, D the width of the embeddings.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_framework.arguments import Count, NonNegative, Positive, guarded
from ssl_framework.objectives.simclr import SimCLR


@guarded
class GOPro(nn.Module):
    """Cross-entropy of classes, squared distances of texts of altered views, and NT-Xent of pictures.

    Args:
        temperature: of NT-Xent; the authors' code: 0.1.
        weight: of NT-Xent; the authors' code: 0.1.
    """

    def __init__(self, temperature: Positive, weight: NonNegative) -> None:
        super().__init__()
        self.contrast = SimCLR(temperature)
        self.weight = weight

    def forward(
        self, logits: Tensor, label: Tensor, texts: Sequence[Tensor], pictures: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The loss of a step.

        Args:
            logits: [B, C] of pictures with the texts of their own prompts.
            label: [B] int64.
            texts: embeddings of the classes by the prompts of the clean view and of altered ones, [B, C, D] each.
            pictures: projections of the clean and of an altered view, [B, D'] each.

        Returns:
            "loss" and its parts, scalars.
        """
        named = F.cross_entropy(logits, label)
        clean, *altered = texts
        steady = torch.stack([F.mse_loss(clean, each) for each in altered]).sum()
        contrast = self.contrast.loss_of(*pictures)
        loss = named + steady + self.weight * contrast
        return {"loss": loss, "class_loss": named, "text_distance": steady, "contrast_loss": contrast}


@guarded
class StylePrompt(nn.Module):
    """A vector for every picture, from the mean and the deviation of its tokens, layer by layer.

    Args:
        layers: T.
        width: of the tokens.
        dim: of the vector, that of a word.
    """

    def __init__(self, layers: Count, width: Count, dim: Count) -> None:
        super().__init__()
        self.style = nn.ModuleList(nn.Linear(2 * width, dim) for _ in range(layers))
        self.content = nn.ModuleList(nn.Linear(width, dim) for _ in range(layers))
        self.mix = nn.Linear(layers, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, N, width] -> [B, dim], which is added to every word of the context."""
        mean, spread = tokens.mean(dim=2), tokens.std(dim=2, correction=0)  # [B, T, width] each
        each = [
            (style(torch.cat([mean[:, t], spread[:, t]], dim=1)) + content(mean[:, t])) / 2
            for t, (style, content) in enumerate(zip(self.style, self.content, strict=True))
        ]  # T x [B, dim]
        return self.mix(torch.stack(each, dim=2))[..., 0]  # [B, dim]
