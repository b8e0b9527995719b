"""What a result was made with: versions and commit."""

import functools
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "timm", "numpy", "scipy", "scikit-learn"),
    *("pillow", "webdataset", "litdata"),
)


def versions() -> dict[str, str]:
    """Of this package, Python and what the numbers depend on."""
    own = {"ssl_framework": installed("ssl-framework") or "unknown", "python": platform.python_version()}
    return {**own, **{name: found for name in PACKAGES if (found := installed(name)) is not None}}


@functools.cache
def installed(package: str) -> str | None:
    """The version of a package, looked up once: this process goes on with what it has imported. ``None``: not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def commit() -> str | None:
    """Of the source tree this package is run from, "+" for uncommitted changes, looked up once likewise; ``None`` for
    an installed copy."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    asked = ["git", "-C", str(here.parent), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
