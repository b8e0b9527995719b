"""Self-supervised contrastive pretraining that a researcher configures instead of writing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_framework.api import Composition, Run, compose, load, resume, use

__version__ = "0.1.0"

__all__ = ["Composition", "Run", "compose", "load", "resume", "use"]


def __getattr__(name: str) -> Any:
    """The names of ``api``, which imports torch: only when one is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("ssl_framework.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
