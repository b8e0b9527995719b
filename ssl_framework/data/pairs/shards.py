"""Captioned pictures in tar files as the package webdataset writes them: ``key.jpg`` beside ``key.txt``, and perhaps
``key.cls``. The files are read where they lie, without that package; nothing in them is unpacked or run.
"""

import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ssl_framework.arguments import BelowOne, Seed, guarded
from ssl_framework.data.pairs.captions import Captioned, divided

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"})
TEXTS = ("txt", "cls")


@guarded
class CaptionShards:
    """Every sample of the tar files of a folder, in the order of their names.

    Several lines of a text are several captions. A file whose name begins with train, val or test is of that split;
    where none does, a share is held out.

    Args:
        root: the folder; files below it end with .tar and are not compressed.
        test_fraction: held out for scoring where no file's name says what is.
        seed: of the held-out share.
    """

    def __init__(self, root: str, test_fraction: BelowOne, seed: Seed) -> None:
        self.root = Path(root).expanduser()
        self.test_fraction = test_fraction
        self.seed = seed
        self.found: dict[str, list[Captioned]] = {}

    def splits(self) -> dict[str, list[Captioned]]:
        """As ``captions.Captions``.

        Raises:
            FileNotFoundError: there is no tar file.
            ValueError: one cannot be read, or a picture has no caption.
        """
        if not self.found:
            shards = sorted(self.root.rglob("*.tar"))
            if not shards:
                raise FileNotFoundError(f"data.root={self.root} has no .tar file: name the folder of your shards.")
            pictures = [each for shard in shards for each in self.samples(shard)]
            self.found = divided(pictures, self.test_fraction, self.seed, f"data.root={self.root}")
        return self.found

    def samples(self, shard: Path) -> list[Captioned]:
        """Those of one file."""
        parts: dict[str, dict[str, tarfile.TarInfo]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    key, _, ending = name.partition(".")
                    if member.isfile() and ending.lower() in {*PICTURES, *TEXTS}:
                        kind = "picture" if ending.lower() in PICTURES else ending.lower()
                        parts.setdefault(f"{folder}/{key}", {})[kind] = member
        except (tarfile.TarError, OSError) as error:
            raise ValueError(f"{shard} cannot be read as an uncompressed tar file ({error}): write it anew.") from error
        with shard.open("rb") as file:
            said = {
                key: {kind: read(file, part, shard) for kind, part in found.items() if kind in TEXTS}
                for key, found in parts.items()
                if "picture" in found
            }
        return [captioned(shard, parts[key]["picture"], texts) for key, texts in said.items()]


def captioned(shard: Path, picture: tarfile.TarInfo, texts: dict[str, str]) -> Captioned:
    """A picture with what its sample says.

    Raises:
        ValueError: it says nothing.
    """
    captions = tuple(line.strip() for line in texts.get("txt", "").splitlines() if line.strip())
    if not captions:
        what = "an empty caption" if "txt" in texts else "no caption"
        raise ValueError(
            f"{shard}: {picture.name} has {what}: a sample is a picture and a text of the same name, such as 0001.jpg "
            "and 0001.txt; write it, or leave the picture out."
        )
    split = next((name for name in ("train", "val", "test") if shard.name.startswith(name)), "")
    path = shard / PurePosixPath(picture.name).name
    return Captioned(path, captions, texts.get("cls", "").strip(), split, (picture.offset_data, picture.size))


def read(file: BinaryIO, part: tarfile.TarInfo, shard: Path) -> str:
    """The text of a member.

    Raises:
        ValueError: it is not UTF-8.
    """
    file.seek(part.offset_data)
    try:
        return file.read(part.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shard}: {part.name} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
