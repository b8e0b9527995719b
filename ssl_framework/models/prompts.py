"""Heads that name classes by the texts of a frozen pair of towers, and what may be learnt of such texts.

CoOp (Zhou et al., arXiv:2109.01134) learns the words before the name of a class, CoCoOp (Zhou et al., arXiv:2203.05557)
what a picture adds to them; the towers are those of a finished run and stay.

B samples, C classes, L tokens of a text, n words of its context, W their width, D the width of the common space, T
layers of a picture's tower, N its places.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ssl_framework.arguments import Classes, Count, Positive, guarded
from ssl_framework.functional import unit
from ssl_framework.models.base import BackboneProtocol
from ssl_framework.models.heads import Head, built
from ssl_framework.models.weights import begin, read_head


class Named(Protocol):
    """Classes by their names.

    Attributes:
        tokens: [C, L] int64: a text that names each, padded.
        count: n, so many words behind the first token are the context, the same in all texts.
    """

    tokens: Tensor
    count: int


@guarded
class FrozenHead(Head):
    """A head of a finished run, in eval mode and without gradient to its weights.

    Args:
        source: which features it reads, in the place of those that ``head`` names.
        head: without layers, as in that run.
        name: of the head there.
        tower: modality of the tower whose head it is.
        weights: folder of the run; ``None``: a new run is refused.
    """

    def __init__(self, source: str, head: Head, name: str, tower: str, weights: str | None) -> None:
        super().__init__(source)
        self.head = head
        self.head.source = source
        self.name = name
        self.tower = tower
        self.weights = weights

    def build(self, width: int) -> None:
        self.head.build(width)
        self.head.requires_grad_(False)
        self.out = self.head.out

    def train(self, mode: bool = True) -> "FrozenHead":
        """Stays in eval mode."""
        return super().train(False)

    def begin(self) -> str:
        """As ``Head.begin``.

        Raises:
            FileNotFoundError, ValueError: there is no such run, or it has no such head.
        """
        if self.weights is None:
            raise ValueError(
                f"the head {self.name} of the tower for {self.tower} stays as a finished run left it, but none is "
                "named: set backbone.weights=<folder of a run of two towers>"
            )
        state = read_head(Path(self.weights).expanduser(), self.tower, self.name)
        try:
            self.head.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"{self.weights}: the head {self.name} of the tower for {self.tower} is not the one that "
                f"student.heads names: choose its sizes ({' '.join(str(error).split())})"
            ) from error
        return f"{self.weights}: the head {self.name} of the tower for {self.tower}"

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """As the head: [B, ..., in] -> [B, ..., D]"""
        return self.head(outputs)


@guarded
class ClassTexts(Head):
    """Embeddings of the texts of all classes, for each sample its own or the same for all: [B, C, D].

    Args:
        source: what a prompt reads; without one it says how many samples there are.
        text: the frozen backbone of texts; it names its weights. ``None``: the run is refused.
        projector: the frozen head behind it.
        classes: names them.
        learnt: whether the context is, which begins as its words; else it stays.
        prompt: of (T, width of the source, W): a module that makes of the source what is added to every word of the
            context, [B, W]; ``None``: nothing is.

    Raises:
        ValueError: there is no backbone of texts.
    """

    tokens: Tensor  # [C, L]

    def __init__(
        self,
        source: str,
        text: BackboneProtocol | None,
        projector: Head,
        classes: Named,
        learnt: bool,
        prompt: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(source)
        if text is None:
            raise ValueError(
                "a head names classes by texts, but the config has no text_backbone: choose another head=<name>, or a "
                "method that brings one"
            )
        self.text: Any = text
        self.projector = projector
        self.register_buffer("tokens", classes.tokens.long())  # [C, L]
        self.count = classes.count
        self.learnt = learnt
        self.make = prompt
        self.depth = 0

    def meet(self, backbone: BackboneProtocol) -> None:
        """Takes the number of layers from it."""
        self.depth = getattr(backbone, "last_layers", 0)

    def build(self, width: int) -> None:
        self.projector = built(self.projector, {"pooled": self.text.dim})
        self.text.requires_grad_(False)
        self.out = self.projector.out
        self.context = nn.Parameter(self.first_context(), requires_grad=self.learnt)  # [n, W]
        self.prompt = None if self.make is None else self.make(self.depth, width, self.words.embedding_dim)
        self.train(self.training)

    @property
    def words(self) -> nn.Embedding:
        """Of the backbone: tokens to vectors."""
        return next(part for part in self.text.net.modules() if isinstance(part, nn.Embedding))

    def first_context(self) -> Tensor:
        """The words of the context as the backbone has them: [n, W]."""
        return self.words.weight.detach()[self.tokens[0, 1 : 1 + self.count]].clone()

    def train(self, mode: bool = True) -> "ClassTexts":
        """As of every module, but the frozen parts stay in eval mode."""
        super().train(mode)
        self.text.eval()
        return self

    def begin(self) -> str:
        """As ``Head.begin``: backbone, head, and the context, which are words of the backbone."""
        said = [self.projector.begin(), begin(self.text, "text")]
        with torch.no_grad():
            self.context.copy_(self.first_context())
        return "\n".join(said)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads ``outputs[source]`` [B, ...] -> [B, C, D]"""
        x, context = outputs[self.source], self.context[None]  # [1, n, W]
        if self.prompt is not None:
            context = context + self.prompt(x)[:, None]  # [B, n, W]
        return self.embedded(context).expand(len(x), -1, -1)  # [B, C, D]

    def embedded(self, context: Tensor) -> Tensor:
        """The texts of all classes behind each of R contexts: [R, n, W] -> [R, C, D]."""
        own = context.repeat_interleave(len(self.tokens), dim=0)  # [R * C, n, W]

        def put(module: nn.Module, inputs: Any, words: Tensor) -> Tensor:
            return torch.cat([words[:, :1], own.to(words.dtype), words[:, 1 + self.count :]], dim=1)  # [R * C, L, W]

        handle = self.words.register_forward_hook(put)
        try:
            features = self.text(self.tokens.repeat(len(context), 1))  # pooled [R * C, width]
        finally:
            handle.remove()
        return self.projector(features).unflatten(0, (len(context), -1))  # [R, C, D]


@guarded
class TextScores(Head):
    """Cosines of a sample with the texts of all classes, over a temperature: [B, C].

    Args:
        source: the texts, [B, C, D].
        embedding: name of the sample's embedding, [B, D].
        num_classes: C.
        temperature: tau.
    """

    def __init__(self, source: str, embedding: str, num_classes: Classes, temperature: Positive) -> None:
        super().__init__(source)
        self.embedding = embedding
        self.out = num_classes
        self.temperature = temperature

    @property
    def sources(self) -> tuple[str, ...]:
        """Texts and embedding."""
        return (self.source, self.embedding)

    def build(self, width: int) -> None:
        """There are no layers."""

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads both -> [B, C]"""
        return scores(outputs[self.embedding], outputs[self.source], self.temperature)


@guarded
class PromptTuning(Head):
    """As ``TextScores``, behind one layer of cross-attention each way: the text of every class looks at the picture's
    places, and the places look at the texts; what they find is added to texts and embedding (CTP-TFT).

    Args:
        source: the texts, [B, C, D].
        embedding: name of the sample's embedding, [B, D].
        places: name of the embeddings of its places, [B, N, D].
        num_classes: C.
        num_heads: of both attentions; they divide D.
        temperature: tau.
    """

    def __init__(
        self, source: str, embedding: str, places: str, num_classes: Classes, num_heads: Count, temperature: Positive
    ) -> None:
        super().__init__(source)
        self.embedding = embedding
        self.places = places
        self.out = num_classes
        self.num_heads = num_heads
        self.temperature = temperature

    @property
    def sources(self) -> tuple[str, ...]:
        """Texts, embedding and places."""
        return (self.source, self.embedding, self.places)

    def build(self, width: int) -> None:
        self.prompt = nn.MultiheadAttention(width, self.num_heads, batch_first=True)
        self.tune = nn.MultiheadAttention(width, self.num_heads, batch_first=True)
        for attention in (self.prompt, self.tune):  # at first everything is as the frozen towers have it
            nn.init.zeros_(attention.out_proj.weight)

    def forward(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Reads all three -> [B, C]"""
        texts, places = outputs[self.source], outputs[self.places]  # [B, C, D], [B, N, D]
        own = texts + self.prompt(texts, places, places, need_weights=False)[0]  # [B, C, D]
        found = self.tune(places, texts, texts, need_weights=False)[0].mean(dim=1)  # [B, D]
        return scores(outputs[self.embedding] + found, own, self.temperature)


@guarded
class StylePrompt(nn.Module):
    """A vector for every picture, from the mean and the deviation of its tokens, layer by layer (GOPro); it begins at
    zero.

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
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, N, width] -> [B, dim], which is added to every word of the context."""
        mean, spread = tokens.mean(dim=2), tokens.std(dim=2, correction=0)  # [B, T, width] each
        each = [
            (style(torch.cat([mean[:, t], spread[:, t]], dim=1)) + content(mean[:, t])) / 2
            for t, (style, content) in enumerate(zip(self.style, self.content, strict=True))
        ]  # T x [B, dim]
        return self.mix(torch.stack(each, dim=2))[..., 0]  # [B, dim]


def scores(pictures: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Cosines of each picture with the texts of its own: [B, D] and [B, C, D] -> [B, C]."""
    return torch.einsum("bd,bcd->bc", unit(pictures), unit(texts)) / temperature
