"""The folders that a command makes for its run before it knows whether the run is refused."""

import contextlib
from pathlib import Path

made: list[Path] = []
"""Of this command, the deepest first."""


def about_to_make(folder: Path) -> None:
    """Notes which folders on the way to this one are not there yet."""
    whole = folder.absolute()
    made[:] = [path for path in (whole, *whole.parents) if not path.exists()]


def remove_made() -> None:
    """Removes the noted folders as far as nothing lies in them."""
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()
