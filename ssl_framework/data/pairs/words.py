"""Tokens of texts as they are found: the most frequent words of the training captions, or pieces of words (BPE)."""

import collections
import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_framework.arguments import Several, guarded
from ssl_framework.models.hub_text import hub_tokenizer
from ssl_framework.views.text import BEGIN, END, PADDING, SPECIAL, UNKNOWN, Vocabulary

KINDS = ("words", "bpe", "hf")

EACH_ALONE = "\u3040-\u30ff\u3400-\u9fff"
"""Kana and Chinese characters, which stand without blanks between words: each is a word."""

WORD = re.compile(rf"[{EACH_ALONE}]|[^\W_{EACH_ALONE}]+")


class Worded(Protocol):
    """A sample with texts."""

    @property
    def texts(self) -> tuple[str, ...]:
        """One or more."""
        ...


class Texts(Protocol):
    """Where samples with texts come from."""

    def splits(self) -> Mapping[str, Sequence[Worded]]:
        """Those of "train" and "test"."""
        ...


@guarded
class CaptionVocabulary(Vocabulary):
    """The tokens of a set of captions, found in its training split at the first use.

    Args:
        captions: where they are.
        size: tokens, the special ones among them, at most; what is rarer is UNKNOWN (of words), or falls into pieces.
        kind: "words", without case and signs, or "bpe", pieces of words (Sennrich et al., arXiv:1508.07909), for which
            the package tokenizers has to be installed; "hf": those of a Hugging Face model, likewise.
        file: of tokens that a run has kept (vocabulary.json of its folder); ``None``: they are found.
        folder: of the model, for "hf".

    Raises:
        ValueError: there is no such kind.
    """

    def __init__(self, captions: Texts, size: Several, kind: str, file: str | None, folder: str | None = None) -> None:
        if kind not in KINDS:
            raise ValueError(f"data.tokenizer is {kind}: choose one of {', '.join(KINDS)}")
        self.captions = captions
        self.size = size
        self.kind = kind
        self.file = file
        self.folder = folder

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """What a run keeps: "kind", and "names" or the "tokenizer", of "hf" with the "order" of its numbers.

        Raises:
            FileNotFoundError, ValueError: captions or ``file`` cannot be read.
        """
        if self.file is not None:
            return read_content(Path(self.file).expanduser(), self.kind, self.size)
        if self.kind == "hf":
            tokenizer, numbers = hub_tokenizer(self.folder)
            return {"kind": "hf", "tokenizer": tokenizer, "order": numbers}
        texts = [text for each in self.captions.splits()["train"] for text in each.texts]
        if self.kind == "bpe":
            return {"kind": "bpe", "tokenizer": json.loads(trained(texts, self.size).to_str())}
        counts = collections.Counter(word for text in texts for word in words_in(text))
        order = sorted(counts, key=lambda word: (-counts[word], word))
        return {"kind": "words", "names": [*SPECIAL, *order[: self.size - len(SPECIAL)]]}

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Of the package tokenizers."""
        return library().Tokenizer.from_str(json.dumps(self.content["tokenizer"]))

    @functools.cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        """How tokens are written, by their numbers."""
        if self.kind == "words":
            return list(self.content["names"])
        if self.kind == "hf":
            order = self.content["order"][len(SPECIAL) :]
            return [*SPECIAL, *(self.tokenizer.id_to_token(number) for number in order)]
        return [self.tokenizer.id_to_token(number) for number in range(self.tokenizer.get_vocab_size())]

    @functools.cached_property
    def number(self) -> dict[str, int]:  # type: ignore[override]
        """The other way round."""
        return {name: number for number, name in enumerate(self.names)}

    @functools.cached_property
    def own(self) -> dict[int, int]:
        """Of "hf": a number of the model's tokenizer -> ours."""
        order = self.content["order"]
        return {theirs: ours for ours, theirs in reversed(list(enumerate(order)))}

    def encode(self, sentences: Sequence[str], length: int) -> Tensor:
        """As of any vocabulary; what is longer than ``length`` with begin and end is cut off."""
        rows = [[BEGIN, *self.tokens_of(text)[: length - 2], END] for text in sentences]
        return torch.tensor([row + [PADDING] * (length - len(row)) for row in rows], dtype=torch.int32)

    def tokens_of(self, text: str) -> list[int]:
        """Of a whole text, without begin and end."""
        if self.kind == "hf":
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            return [ours if (ours := self.own[number]) > END else UNKNOWN for number in ids]
        if self.kind == "bpe":
            return list(self.tokenizer.encode(text).ids)
        return [self.number.get(word, UNKNOWN) for word in words_in(text)]

    def decode(self, tokens: Tensor) -> str:
        """One text [L] as it would be written, without begin, end and padding."""
        if self.kind == "words":
            return super().decode(tokens)
        numbers = tokens.tolist()
        if self.kind == "hf":
            numbers = [self.content["order"][number] for number in numbers if number > END]
        return str(self.tokenizer.decode(numbers))


def words_in(text: str) -> list[str]:
    """Words of a text in any language, without case and signs."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def library() -> Any:
    """The package tokenizers.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            "data.tokenizer=bpe needs the package tokenizers: pip install -e '.[text]', or set data.tokenizer=words"
        ) from error
    return tokenizers


def trained(texts: Sequence[str], size: int) -> Any:
    """A byte-level BPE tokenizer of texts, the special tokens first."""
    t = library()
    found = t.Tokenizer(t.models.BPE(unk_token=SPECIAL[UNKNOWN]))
    found.normalizer = t.normalizers.Sequence([t.normalizers.NFKC(), t.normalizers.Lowercase()])
    found.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=True)
    found.decoder = t.decoders.ByteLevel()
    bytes_ = t.pre_tokenizers.ByteLevel.alphabet()  # all of them, so that nothing is unknown
    trainer = t.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=bytes_, show_progress=False
    )
    found.train_from_iterator(texts, trainer)
    return found


def read_content(path: Path, kind: str, size: int) -> dict[str, Any]:
    """What a run has kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none, or of another kind or size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"data.vocabulary_file={path} does not exist: name vocabulary.json of a run's folder.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["kind"]
        each = {"words": "names", "hf": "order"}
        count = len(content[each[found]] if found in each else content["tokenizer"]["model"]["vocab"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.vocabulary_file={path} cannot be read: name vocabulary.json of a run's folder."
        ) from error
    if found != kind or count > size:
        raise ValueError(
            f"data.vocabulary_file={path} has {count} tokens of the kind {found}: set data.tokenizer={found} and "
            "data.vocabulary to what the run had."
        )
    return content
