"""Emoji: pictures of Google's Noto set, each with its name and its key words in several languages.

Read from a folder into which the user has installed two npm packages; nothing is fetched. The pictures are of the
package emoji-datasource-google (64 px, Apache-2.0), the words of emojibase-data (MIT).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len

from ssl_framework.arguments import BelowOne, Seed, guarded
from ssl_framework.data.pairs.captions import Captioned, divided

PICTURES, WORDS = "emoji-datasource-google", "emojibase-data"
COMPONENTS, FLAGS = 2, 9  # groups: parts of emoji, such as hair; and flags


@guarded
class EmojiFolder:
    """Every emoji without skin tones; its label is its group, such as "food & drink".

    The texts of a picture are, language by language, its name and its key words in one sentence.

    Args:
        root: folder of the packages, or of their node_modules.
        languages: folders of emojibase-data, such as en, zh, it; the first one's names are what evaluation reads.
        flags: whether flags take part, of which there are 260 and which are small countries' names.
        test_fraction: held out for scoring, of every group.
        seed: of the held-out share.
    """

    def __init__(
        self,
        root: str,
        languages: Annotated[Sequence[str], Len(1)],
        flags: bool,
        test_fraction: BelowOne,
        seed: Seed,
    ) -> None:
        self.root = Path(root).expanduser()
        self.languages = list(languages)
        self.flags = flags
        self.test_fraction = test_fraction
        self.seed = seed
        self.found: dict[str, list[Captioned]] = {}

    def splits(self) -> dict[str, list[Captioned]]:
        """As ``captions.Captions``.

        Raises:
            FileNotFoundError: a package or a language is missing.
            ValueError: a file is not what the packages have.
        """
        if not self.found:
            self.found = divided(self.pictures(), self.test_fraction, self.seed, f"data.root={self.root}")
        return self.found

    def pictures(self) -> list[Captioned]:
        """All emoji that have a picture and words in every language, in the order of emojibase."""
        folder = self.package(PICTURES)
        images = {plain(each["unified"]): each["image"] for each in read(folder / "emoji.json")}
        said = [{plain(each["hexcode"]): each for each in self.words(language)} for language in self.languages]
        messages = read(self.package(WORDS) / "en" / "messages.json")
        groups = {each["order"]: each["message"] for each in messages["groups"]}
        left_out = {COMPONENTS} if self.flags else {COMPONENTS, FLAGS}
        found = []
        for code, emoji in said[0].items():
            path = folder / "img" / "google" / "64" / images.get(code, "")
            everywhere = all(code in each for each in said)
            if everywhere and code in images and emoji.get("group", COMPONENTS) not in left_out and path.is_file():
                texts = tuple(text for each in said for text in texts_of(each[code]))
                found.append(Captioned(path, texts, groups[emoji["group"]]))
        return found

    def words(self, language: str) -> list[dict[str, Any]]:
        """What emojibase says of every emoji in a language."""
        folder = self.package(WORDS)
        if not (folder / language / "data.json").is_file():
            known = sorted(path.parent.name for path in folder.glob("*/data.json"))
            raise FileNotFoundError(f"data.languages has {language}, but {folder} has {', '.join(known) or 'none'}.")
        return list(read(folder / language / "data.json"))

    def package(self, name: str) -> Path:
        """The folder of a package."""
        for folder in (self.root / name, self.root / "node_modules" / name):
            if folder.is_dir():
                return folder
        raise FileNotFoundError(
            f"data.root={self.root} has no {name}: run npm install {PICTURES}@16 {WORDS}@17 there, or name the folder "
            "where you did."
        )


def texts_of(emoji: dict[str, Any]) -> tuple[str, str]:
    """The name of an emoji, and its key words; where it has none, its name once more."""
    return emoji["label"], " ".join(emoji.get("tags") or ()) or emoji["label"]


def plain(code: str) -> str:
    """A code without the mark that asks for a coloured picture, which not all lists write."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def read(path: Path) -> Any:
    """A JSON file of a package; raises ValueError if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): install the package again.") from error
