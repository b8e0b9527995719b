"""Tar files that were cut off are told from whole ones before anything is read from them."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlparse

BLOCK = 512
"""Bytes; a tar file consists of blocks and ends with at least one of zeros (POSIX.1-1988, ustar)."""

COMPRESSED = (b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstandard begin, which have ends of their own and checksums."""


def refuse_cut(shards: Iterable[str]) -> None:
    """Looks at the last bytes of each shard that lies here; without this, one that was cut off at its members' headers
    would be a shorter one.

    Args:
        shards: paths and URLs.

    Raises:
        ValueError: one does not end as a tar file does.
    """
    for shard in shards:
        if not urlparse(shard).scheme and is_cut(Path(shard)):
            raise ValueError(
                f"the shard {shard} cannot be read (it was cut off, for a tar file ends with zeros): write it again or "
                "remove it."
            )


def is_cut(path: Path) -> bool:
    """Whether a file begins as a tar file, but does not end as one."""
    with path.open("rb") as file:
        head = file.read(BLOCK)
        if head.startswith(COMPRESSED):
            return False
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - BLOCK))
        return size % BLOCK > 0 or file.read() != bytes(BLOCK)
