"""What a result was made with: versions and commit."""

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
    found = {"ssl_framework": "unknown", "python": platform.python_version()}
    for name in ("ssl-framework", *PACKAGES):
        try:
            found[name.replace("ssl-framework", "ssl_framework")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Of the source tree this package is run from, "+" for uncommitted changes; ``None`` for an installed copy."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(here.parent)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
