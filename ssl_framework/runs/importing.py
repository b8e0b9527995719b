"""Imports without looking for garbage."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around imports: nothing of a module is garbage, and looking through all of torch's again and again takes a fifth
    of the seconds in which a command starts."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
