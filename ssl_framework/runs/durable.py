"""Files that survive: written whole or not at all, on the disk before they are named, and read with their checksums.

A file that is being written is called ``.<name>.<pid><suffix>``; of a process that was killed it stays, and is swept.
"""

import contextlib
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ssl_framework.runs.system import writing

PARTIAL = re.compile(r"\.(?P<name>.+?)\.(?P<pid>[1-9][0-9]*)(\.\w+)?")


@contextlib.contextmanager
def replacing(path: Path, older: Path | None = None) -> Iterator[Path]:
    """Gives the partial file to write for ``path``, of its suffix, and moves it there once it is on the disk.

    What goes wrong in between leaves everything as it was, and no partial file.

    Args:
        path: the file to be.
        older: where the version of it is kept that is there now; ``None``: nowhere.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with writing(path):
            yield partial
            sync(partial)
            if older is not None:
                keep_as(path, older)
            partial.replace(path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it need not be removed
            partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():
            raise  # of folders, some network file systems know no fsync
    finally:
        os.close(handle)


def keep_as(path: Path, older: Path) -> None:
    """Has ``older`` name what ``path`` names, whose next version is about to take its place; at no instant there is
    less than one of the two."""
    if not path.exists():
        return
    partial = older.with_name(f".{older.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a file system without links
        partial = path
    partial.replace(older)
    if partial != path:  # renaming one name of a file to another of its names does nothing
        partial.unlink(missing_ok=True)


def damage(path: Path) -> str:
    """What is wrong with a zip archive, such as ``torch.save`` writes, as its checksums (CRC-32) tell; "" if nothing.

    Raises:
        OSError: it cannot be read at all.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                wrong = archive.testzip()
        except PermissionError:
            raise
        except Exception as error:  # zipfile, zlib and struct each have their own, and a bad disk has OSError
            return " ".join(str(error).split()) or type(error).__name__
    return f"the checksum of {wrong} in it is another" if wrong else ""


def sweep(folder: Path) -> None:
    """Removes the partial files of processes that are no more, and of this one, which has just begun."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = PARTIAL.fullmatch(path.name)
        if found is None or (int(found["pid"]) != os.getpid() and lives(int(found["pid"]))):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def lives(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
