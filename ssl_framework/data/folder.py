"""Any folder of image files, decoded once into one uint8 array.

Three layouts, told apart by the sub-folders (hidden files and folders, and files of other types, are not looked at):

    root/*.png                                  unlabelled; a share is held out for scoring
    root/<class>/**/*.png                       labelled by the sub-folder; a share of every class is held out
    root/train/..., root/val/... or test/...    the splits as given, each in one of the two layouts above

N images, C channels, S pixels a side.
"""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssl_framework.data.sources import Images, check_split, holdout

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
SPLIT_FOLDERS = {"train", "val", "test"}
ON_ERROR = ("refuse", "skip")
MEMORY_SHARE = 0.5  # of the machine's memory that the decoded images may take


def to_eight_bit(image: Image.Image) -> Image.Image:
    """A one-channel image of 16 bits as 8 bits, 65535 becoming 255; anything else as it is.

    Raises:
        ValueError: more than 16 bits or floating point, whose range the file does not say.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)  # [H, W]
    if image.mode.startswith("F") or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode {image.mode} has no known value range, save it with 8 or 16 bits a channel")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """Decodes one file (of an animation the first frame) to a square.

    The EXIF orientation is applied, transparency is laid over white, the short side is resized to ``size`` with
    antialiasing and the middle square is kept.

    Args:
        path: of the image.
        size: S, pixels.
        channels: 1 for grey, 3 for RGB, whatever the file has.

    Returns:
        [C, S, S] uint8.

    Raises:
        Exception: whatever the decoder raises; ValueError for a bit depth or a size that is not supported.
    """
    with Image.open(path) as image:
        limit = Image.MAX_IMAGE_PIXELS  # Pillow itself refuses above twice this, and only warns between
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width} x {image.height} pixels is more than Pillow's safe limit of {limit}")
        image.draft(None, (2 * size, 2 * size))  # lets a large JPEG decode at a fraction of its size, never below this
        picture = to_eight_bit(ImageOps.exif_transpose(image))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = ImageOps.fit(picture.convert("L" if channels == 1 else "RGB"), (size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(picture))  # [S, S] or [S, S, 3]
    return pixels.reshape(size, size, channels).permute(2, 0, 1)


def visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and files of ``folder``, sorted by name, hidden ones left out."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in entries if path.is_dir()], [path for path in entries if path.is_file()]


def image_files(folder: Path) -> list[Path]:
    """Image files anywhere below ``folder``, sorted; linked folders are followed, hidden ones are not."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    return sorted(found)


def list_images(folder: Path) -> tuple[list[Path], list[int] | None, tuple[str, ...]]:
    """Files, classes and class names of one flat folder (None, ()) or one folder of class folders.

    Raises:
        ValueError: no images, a class folder without images, a single class folder, or images beside class folders.
    """
    folders, files = visible(folder)
    flat = [path for path in files if path.suffix.lower() in SUFFIXES]
    if flat and folders:
        raise ValueError(
            f"{folder} has both images ({flat[0].name}) and folders ({folders[0].name}): move the images into class "
            f"folders, or point data.root at a folder of one kind."
        )
    if not flat and not folders:
        raise ValueError(
            f"{folder} has no images ({len(files)} other files): point data.root at a folder of "
            f"{', '.join(suffix[1:] for suffix in SUFFIXES)} files or of class folders."
        )
    if flat:
        return flat, None, ()
    if len(folders) == 1:
        raise ValueError(
            f"{folder} has the single class folder {folders[0].name!r}: point data.root at that folder to pretrain "
            f"without labels, or add a folder for each further class."
        )
    members = [image_files(path) for path in folders]
    if empty := [path.name for path, found in zip(folders, members, strict=True) if not found]:
        raise ValueError(
            f"{folder} has class folders without images ({', '.join(empty[:5])}): remove them or put images into them."
        )
    paths = [path for found in members for path in found]
    return paths, [index for index, found in enumerate(members) for _ in found], tuple(path.name for path in folders)


def check_memory(num: int, channels: int, size: int, available: int) -> None:
    """Raises ValueError when ``num`` decoded images take more than ``MEMORY_SHARE`` of ``available`` bytes."""
    needed = num * channels * size * size
    if needed > MEMORY_SHARE * available:
        raise ValueError(
            f"{num} images of {channels} x {size} x {size} bytes need {needed / 1e9:.1f} GB, more than half of the "
            f"machine's {available / 1e9:.1f} GB of memory: lower data.stored_size."
        )


class FolderSource:
    """Images from files on disk, resized to one size and kept in memory.

    Args:
        root: the folder, in one of the layouts of this module's docstring.
        channels: 1 (grey) or 3 (RGB); every file is converted to it.
        image_size: side of a view, pixels; a stored image must not be smaller.
        stored_size: S, side the images are stored with, pixels.
        on_error: what an unreadable file does: "refuse" the whole set, or "skip" the file with a warning.
        test_fraction: share held out for scoring where the folder has no test split, in [0, 1); 0 holds out nothing.
        seed: of that split; part of the data set, not of the run.
        test_folder: "val" or "test", which of them is scored on when the folder has both; None when it has one.
        num_threads: files decoded at once.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self,
        root: str,
        channels: int,
        image_size: int,
        stored_size: int,
        on_error: str,
        test_fraction: float,
        seed: int,
        test_folder: str | None = None,
        num_threads: int = 4,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"data.channels={channels} is not supported for files: set it to 1 or 3.")
        if stored_size < image_size:
            raise ValueError(
                f"data.stored_size={stored_size} is below data.image_size={image_size}, so views would be enlarged: "
                f"set data.stored_size to {image_size} or more."
            )
        if on_error not in ON_ERROR:
            raise ValueError(f"data.on_error={on_error} is not known: choose one of {', '.join(ON_ERROR)}.")
        if not 0 <= test_fraction < 1:
            raise ValueError(f"data.test_fraction={test_fraction} is not a share: set it to at least 0 and below 1.")
        if test_folder not in (None, "val", "test"):
            raise ValueError(f"data.test_folder={test_folder} is not known: choose val, test or null.")
        self.root = Path(root).expanduser()
        self.channels = channels
        self.stored_size = stored_size
        self.on_error = on_error
        self.test_fraction = test_fraction
        self.seed = seed
        self.test_folder = test_folder
        self.num_threads = num_threads
        self.loaded: dict[str, Images] = {}

    def load(self, split: str) -> Images:
        """[N, C, S, S] uint8 images; label None throughout for a flat folder; pretrain and train are the same images.

        Warns:
            with ``on_error="skip"``, how many files were left out of the split, and which come first.

        Raises:
            FileNotFoundError: the root is not there.
            ValueError: a layout that is not one of the module's, unreadable files, or too little memory for all.
        """
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.loaded:
            listing = self.list_splits()
            memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            check_memory(sum(len(paths) for paths, _, _ in listing.values()), self.channels, self.stored_size, memory)
            if not listing[name][0]:
                raise ValueError(
                    f"{self.root} leaves no image for the {name} split with data.test_fraction={self.test_fraction}: "
                    f"raise it, add a test folder, or switch the evaluation off."
                )
            self.loaded[name] = self.decode(name, *listing[name])
        return self.loaded[name]

    def list_splits(self) -> dict[str, tuple[list[Path], Tensor | None, tuple[str, ...]]]:
        """Paths, labels [N] and class names of "train" and "test"; raises as ``load``."""
        if not self.root.exists():
            raise FileNotFoundError(f"data.root={self.root} does not exist: set data.root to a folder of images.")
        if not self.root.is_dir():
            raise ValueError(f"data.root={self.root} is a file: set data.root to a folder of images.")
        names = {path.name for path in visible(self.root)[0]}
        splits = names & SPLIT_FOLDERS
        if splits in ({"train"}, set()) and names != {"train"}:
            return self.list_held_out(self.root)  # no split folders; "train" alone among others is a class
        if names != splits or "train" not in names:
            raise ValueError(
                f"{self.root} has the folders {', '.join(sorted(names)[:8])}: for fixed splits have train with val or "
                f"test and nothing else, for classes rename {' and '.join(sorted(splits))}."
            )
        if names == {"train"}:
            return self.list_held_out(self.root / "train")
        if names == SPLIT_FOLDERS and self.test_folder is None:
            raise ValueError(f"{self.root} has both val and test: set data.test_folder to the one to score on.")
        scored = self.test_folder or (names - {"train"}).pop()
        if scored not in names:
            raise ValueError(f"{self.root} has no folder {scored!r}: set data.test_folder=null to use what it has.")
        return self.list_given(self.root / "train", self.root / scored)

    def list_given(self, train: Path, test: Path) -> dict[str, tuple[list[Path], Tensor | None, tuple[str, ...]]]:
        """The splits of two folders, classes numbered by the names in ``train``; raises as ``load``."""
        train_paths, train_label, classes = list_images(train)
        test_paths, test_label, test_classes = list_images(test)
        if train_label is None or test_label is None:
            if train_label is not test_label:
                flat, sorted_in = (train, test) if train_label is None else (test, train)
                raise ValueError(f"{sorted_in} has class folders but {flat} has none: give both the same layout.")
            return {"train": (train_paths, None, ()), "test": (test_paths, None, ())}
        if unknown := sorted(set(test_classes) - set(classes)):
            raise ValueError(f"{test} has classes that {train} lacks ({', '.join(unknown[:5])}): add or remove them.")
        number = torch.tensor([classes.index(name) for name in test_classes])  # class in test -> class in train
        return {
            "train": (train_paths, torch.tensor(train_label), classes),
            "test": (test_paths, number[torch.tensor(test_label)], classes),
        }

    def list_held_out(self, folder: Path) -> dict[str, tuple[list[Path], Tensor | None, tuple[str, ...]]]:
        """Both splits of one folder by a seeded draw of paths, whether they can be read or not; raises as ``load``."""
        paths, label_list, classes = list_images(folder)
        label = None if label_list is None else torch.tensor(label_list)
        test = holdout(label, len(paths), self.test_fraction, self.seed)  # [N]
        splits = {}
        for name, members in (("train", ~test), ("test", test)):
            chosen = [path for path, member in zip(paths, members.tolist(), strict=True) if member]
            splits[name] = (chosen, None if label is None else label[members], classes)
        return splits

    def decode(self, name: str, paths: Sequence[Path], label: Tensor | None, classes: tuple[str, ...]) -> Images:
        """Reads all files of split ``name`` into one array; warns and raises as ``load``."""
        pixels = torch.empty((len(paths), self.channels, self.stored_size, self.stored_size), dtype=torch.uint8)

        def read(index: int) -> str | None:
            try:
                pixels[index] = read_image(paths[index], self.stored_size, self.channels)
            except Exception as error:  # a broken file makes decoders raise almost anything; all of it is reported
                return (str(error) or type(error).__name__).splitlines()[0]
            return None

        with ThreadPoolExecutor(self.num_threads) as pool:
            reasons = list(pool.map(read, range(len(paths))))
        failed = [index for index, reason in enumerate(reasons) if reason is not None]
        if not failed:
            return Images(pixels, label, classes)
        first = ", ".join(f"{paths[index].relative_to(self.root)} ({reasons[index]})" for index in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        found = f"{len(failed)} of {len(paths)} images of the {name} split in {self.root} cannot be read: {first}{more}"
        if len(failed) == len(paths):
            raise ValueError(f"{found}; none is left, so replace these files or change data.root.")
        if self.on_error == "refuse":
            raise ValueError(f"{found}; repair or remove them, or set data.on_error=skip to leave them out.")
        warnings.warn(f"{found}; left out, as data.on_error=skip says.")
        kept = torch.tensor([index for index, reason in enumerate(reasons) if reason is None])  # [N - failed]
        return Images(pixels[kept], None if label is None else label[kept], classes)
