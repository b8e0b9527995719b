"""The tokens that a run was trained with, kept in its folder: other data have to be read with them, and the same data,
too, once their captions have changed."""

import json
from pathlib import Path
from typing import Any

from ssl_framework.data.pairs.words import CaptionVocabulary
from ssl_framework.data.texts.domains import DomainVocabulary
from ssl_framework.runs.durable import replacing
from ssl_framework.views.base import PairedViews, ViewMaker
from ssl_framework.views.text import TextViews, Vocabulary

FILE = "vocabulary.json"


def vocabularies(views: ViewMaker) -> list[Vocabulary]:
    """Those of views of texts, without the tokens of domains, which their number says."""
    parts: list[Any] = list(views.parts) if isinstance(views, PairedViews) else [views]
    found = [part.words for part in parts if isinstance(part, TextViews) and part.words is not None]
    return [each.words if isinstance(each, DomainVocabulary) else each for each in found]


def keep_vocabulary(views: ViewMaker, folder: Path) -> None:
    """Writes what was found in the training captions; a closed list of words needs no file."""
    for words in vocabularies(views):
        if isinstance(words, CaptionVocabulary):
            write_vocabulary(words, folder)


def write_vocabulary(words: CaptionVocabulary, folder: Path) -> None:
    """Writes ``FILE``, unless a run that goes on has it."""
    if not (folder / FILE).is_file():
        with replacing(folder / FILE) as partial:
            partial.write_text(json.dumps(words.content, ensure_ascii=False), encoding="utf-8")
