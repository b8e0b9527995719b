"""Captioned pictures of files, decoded once and kept in memory.

N pictures, K captions of each, L tokens a caption, C channels, S pixels a side.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor

from ssl_framework.arguments import Channels, Count, Pixels, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.data.images.decoding import decode_in_order
from ssl_framework.data.images.folder import check_failed, readable
from ssl_framework.data.pairs.captions import Captioned, Captions, labelled
from ssl_framework.data.residence import free_memory
from ssl_framework.views.text import Vocabulary


@guarded
class CaptionedPictures:
    """Pictures of files with their captions as tokens; classes, where all pictures name one, with prompts.

    Args:
        captions: where they are.
        words: what the tokens stand for.
        tokens: L, to which captions and prompts are padded, with begin and end; longer ones are cut off.
        vocabulary: size of the text backbone's table; at least as many tokens as there are.
        channels: C, 1 (grey) or 3 (RGB).
        stored_size: S; the short side is resized to it and the middle square is kept.
        num_captions: K, the first so many of a picture; ``None``: as many as any has. One with fewer repeats them.
        prompts: ways to name a class, which stands in the place of ``{}``.
        num_threads: files decoded at once.
    """

    def __init__(
        self,
        captions: Captions,
        words: Vocabulary,
        tokens: Count,
        vocabulary: Count,
        channels: Channels,
        stored_size: Pixels,
        num_captions: Count | None,
        prompts: Annotated[Sequence[str], Len(1)],
        num_threads: Count,
    ) -> None:
        self.captions = captions
        self.words = words
        self.tokens = tokens
        self.vocabulary = vocabulary
        self.channels = channels
        self.stored_size = stored_size
        self.num_captions = num_captions
        self.prompts = list(prompts)
        self.num_threads = num_threads
        self.loaded: dict[str, Split] = {}
        if without := [prompt for prompt in prompts if "{}" not in prompt]:
            raise ValueError(f"data.prompts has {without[0]!r}, which has no {{}} for the class: write one into it")

    def load(self, split: str) -> Split:
        """[N, C, S, S] uint8 pictures; beside them "text" [N, K, L] int32. ``numbers`` has "group", equal where the
        first captions are, and where there are classes "class", for which there are ``prompts`` [classes, P, L].

        Raises:
            FileNotFoundError: the captions are not there.
            ValueError: they cannot be read, a picture cannot, or all do not fit into memory.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            if self.vocabulary < len(self.words):
                raise ValueError(
                    f"data.vocabulary is {self.vocabulary}, but there are {len(self.words)} tokens: raise it to that"
                )
            pictures = self.captions.splits()[name]
            texts, first = self.texts(pictures), [each.texts[0] for each in pictures]
            numbers = {"group": torch.tensor([first.index(text) for text in first])}  # [N]
            every = [each for part in self.captions.splits().values() for each in part]
            classes, label = labelled(every, pictures, "pictures")
            if label is not None:
                numbers["class"] = label
            self.loaded[name] = Split(
                self.pixels(pictures, name),
                label,
                classes,
                beside={"text": texts},
                prompts={"class": self.prompted(classes)} if classes else None,
                numbers=numbers,
            )
        return self.loaded[name]

    def pixels(self, pictures: Sequence[Captioned], name: str) -> Tensor:
        """[N, C, S, S] uint8."""
        shape = (len(pictures), self.channels, self.stored_size, self.stored_size)
        if (needed := torch.Size(shape).numel()) > free_memory():
            raise ValueError(
                f"{len(pictures):,} pictures take {needed / 1e9:.1f} GB, more than is free: lower data.stored_size"
            )
        pixels, failed = torch.empty(shape, dtype=torch.uint8), {}  # type: ignore[var-annotated]
        paths = [each.path for each in pictures]
        files = (each.file() for each in pictures)
        decoded = decode_in_order(files, self.stored_size, self.channels, self.num_threads)
        for row, image in enumerate(readable(decoded, failed)):
            pixels[row] = image
        check_failed(self.captions.root, name, paths, failed, "refuse")
        return pixels

    def texts(self, pictures: Sequence[Captioned]) -> Tensor:
        """[N, K, L] int32."""
        every = [each for part in self.captions.splits().values() for each in part]
        count = self.num_captions or max(len(each.texts) for each in every)
        said = [each.texts[caption % len(each.texts)] for each in pictures for caption in range(count)]
        return self.words.encode(said, self.tokens).unflatten(0, (-1, count))  # [N, K, L]

    def prompted(self, classes: Sequence[str]) -> Tensor:
        """Ways to name each class: [classes, P, L] int32."""
        sentences = [prompt.replace("{}", name) for name in classes for prompt in self.prompts]
        return self.words.encode(sentences, self.tokens).unflatten(0, (len(classes), -1))
