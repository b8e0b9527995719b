"""What the operating system refuses, as a sentence with the path and what to do about it."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ssl_framework.runs.stopping import Interrupted

ELSEWHERE = "name another place"
AFTERWARDS = "then give the same command again"

CURES = {
    errno.ENOENT: f"does not exist, nor can it be made: {ELSEWHERE}",
    errno.EACCES: f"may not be read or written by this user: change its permissions, or {ELSEWHERE}",
    errno.EPERM: f"may not be changed by this user: change its permissions, or {ELSEWHERE}",
    errno.EROFS: f"lies on a file system that cannot be written (any more): {ELSEWHERE}, or make it writable",
    errno.ENOTDIR: f"leads through a file where a folder should be: move that file away, or {ELSEWHERE}",
    errno.EEXIST: f"exists already and is no folder: move it away, or {ELSEWHERE}",
    errno.EISDIR: "is a folder where a file should be: name a file",
    errno.ENOTEMPTY: f"is a folder that is not empty: empty it, or {ELSEWHERE}",
    errno.ENAMETOOLONG: "has too long a name for the file system: shorten it",
    errno.ELOOP: f"is a link that leads in a circle: remove it, or {ELSEWHERE}",
    errno.EXDEV: f"lies on another file system than what is to be moved there: {ELSEWHERE}",
    errno.EBUSY: f"is in use: wait, or {ELSEWHERE}",
    errno.EIO: f"cannot be read or written, as the disk reports an error: check the disk, {AFTERWARDS}",
    errno.ESTALE: f"lies on a network file system that has lost it: check the mount, {AFTERWARDS}",
    errno.ENOSPC: f"cannot be written, as the disk is full: free some space, {AFTERWARDS}",
    errno.EDQUOT: f"cannot be written, as this user's quota of the disk is used up: free some space, {AFTERWARDS}",
    errno.EFBIG: f"cannot be written, as files may not get so large here (ulimit -f, or the disk): raise that limit, "
    f"{AFTERWARDS}",
    errno.EMFILE: f"cannot be opened, as this process has too many files open: raise that limit (ulimit -n), "
    f"{AFTERWARDS}",
    errno.ENFILE: f"cannot be opened, as this machine has too many files open: close some programs, {AFTERWARDS}",
}
"""Number of an error -> what it means for a path, and what to do."""

OUTSIDE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE),
    *(errno.EACCES, errno.EPERM),
)
"""What may come over a run that has begun well, and pass: nothing of the run is to be changed."""


def system_sentence(error: OSError) -> str:
    """One sentence: the path, what is wrong with it, and what to do; the error's own words where those are ours."""
    if error.errno is None or error.strerror is None:
        return " ".join(str(error).split())
    path = error.filename if error.filename2 is None else error.filename2
    named = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) and path else "a file"
    return f"{named} {CURES.get(error.errno, f'cannot be used: {error.strerror}')}"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Meanwhile an error of the system names the file that is written, whichever library met it.

    Raises:
        OSError: with the path.
    """
    try:
        yield
    except OSError as error:
        raise named(error, path) from error
    except Exception as error:
        if (cause := system_error_in(error)) is None:
            raise
        raise named(cause, path) from error


def named(error: OSError, path: Path) -> OSError:
    """The same error about ``path``, unless it is about a folder on the way there."""
    elsewhere = isinstance(error.filename, str) and Path(error.filename).parent != path.parent
    return error if error.errno is None or elsewhere else OSError(error.errno, os.strerror(error.errno), str(path))


def errors_behind(error: BaseException) -> list[BaseException]:
    """An error, what it was raised from, and so on: each once, for one that is raised anew may go in a circle."""
    found: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and not any(behind is other for other in found):
        found.append(behind)
        behind = behind.__cause__ or behind.__context__
    return found


def system_error_in(error: BaseException) -> OSError | None:
    """The system's error behind one of a library: of torch.save, which says where it stood instead, or safetensors."""
    for behind in errors_behind(error):
        if isinstance(behind, OSError):
            return behind
        if found := re.search(r"\b(?:Os \{ code:|os error) (\d+)", str(behind)):  # safetensors is Rust
            return OSError(int(found[1]), os.strerror(int(found[1])))
    if re.search(r"unexpected pos \d+|PytorchStreamWriter failed", str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """Around a run that has begun: what the system refuses now has come from outside, and the same command goes on.

    Raises:
        Interrupted: the disk is full, a place cannot be written any more, too many files are open ...
    """
    try:
        yield
    except OSError as error:
        if error.errno not in OUTSIDE:
            raise
        raise Interrupted(system_sentence(error)) from error


def refuse_unwritable(path: Path) -> None:
    """Tries whether a file can be written, before hours of work go into what is to stand in it; leaves nothing.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    missing = [folder for folder in path.parents if not os.path.lexists(folder)]  # the deepest first
    trial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            trial.touch()
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)
            for folder in missing:
                folder.rmdir()
