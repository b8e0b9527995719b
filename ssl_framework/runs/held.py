"""A file that one process holds at a time, which says who does. A claim ends with its process, however that ends."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

TRIES = 5
"""At a lock, 10 ms apart: whoever merely looks whether a file is held holds it for less."""

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system answers that has no locks."""

own: set[int] = set()
"""Handles of the files that this process holds."""


def leave_to_parent() -> None:
    """A fork holds nothing: a worker that outlives a killed process would keep its claim alive."""
    for handle in own:
        with contextlib.suppress(OSError):
            os.close(handle)
    own.clear()


os.register_at_fork(after_in_child=leave_to_parent)


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Holds a file of this name, which is made; False where another process does. Removes it at the end."""
    handle = taken(path)
    if handle is None:
        yield False
        return
    own.add(handle)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"pid {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M}".encode())
        yield True
    finally:
        if handle in own:  # not in a fork
            own.discard(handle)
            with contextlib.suppress(OSError):  # a disk that cannot be written any more: what ended the run is said
                path.unlink(missing_ok=True)
            os.close(handle)


def taken(path: Path) -> int | None:
    """A handle of the locked file, or ``None``."""
    for again in range(TRIES):
        if again:
            time.sleep(0.01)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)  # for writing: else network file systems lock nothing
        if locked(handle, fcntl.LOCK_EX) and is_still(path, handle):
            return handle
        os.close(handle)
    return None


def is_still(path: Path, handle: int) -> bool:
    """Whether the path leads to the open file, which whoever held it before may have removed."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def locked(handle: int, kind: int) -> bool:
    """Takes a lock, unless another process keeps it; where there are no locks, nobody does."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in NO_LOCKS
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not locked(handle, fcntl.LOCK_SH)  # shared: two that look at once do not see each other
    finally:
        os.close(handle)


def holder(path: Path) -> str:
    """`` (pid 12 on host, since ...)``, or nothing where the file does not say."""
    try:
        said = path.read_text().strip()
    except (OSError, ValueError):
        return ""
    return f" ({said})" if said else ""
