"""A copy of a run's last checkpoint elsewhere, wherever fsspec writes, which training never waits for."""

import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from ssl_framework.runs.folder import RunFolder

PATIENCE = 60.0
"""Seconds for the last copy, once the run has ended."""


class Mirror:
    """Copies, in a thread of its own, the newest checkpoint and what it takes to go on from it. What is written while a
    copy is under way is copied after it, the newest only. A copy that fails is noted in one line, once until one
    succeeds.

    Args:
        target: an address that fsspec knows, such as s3://bucket/runs, or a path. The files lie there in a folder that
            is called as the run's.
        run: the folder of the run.

    Raises:
        ValueError: there is no such kind of address, or its package is not installed.
    """

    def __init__(self, target: str, run: RunFolder) -> None:
        import fsspec

        try:
            self.files, root = fsspec.core.url_to_fs(target)
        except (ValueError, ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"trainer.mirror is {target}, which cannot be opened ({reason}): give an address that fsspec knows, a "
                "path, or null for no mirror"
            ) from error
        self.target, self.run = target, run
        self.root = f"{root.rstrip('/')}/{name_of(run.path)}"
        self.wanted, self.ended = threading.Event(), False
        self.failed = False
        self.thread: threading.Thread | None = None

    def send(self) -> None:
        """Asks for a copy of what lies in the folder now."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.work, name="mirror", daemon=True)
            self.thread.start()
        self.wanted.set()

    def close(self) -> None:
        """Waits for the last copy, but not for ever."""
        if self.thread is None:
            return
        self.ended = True
        self.wanted.set()
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            warnings.warn(f"trainer.mirror: {self.target} takes too long: the last checkpoint may be missing there")
        self.thread = None

    def work(self) -> None:
        """Copies whenever that is wanted, until the run has ended."""
        while not self.ended:
            self.wanted.wait()
            self.wanted.clear()
            try:
                self.copy()
                self.failed = False
            except Exception as error:  # of any file system
                if not self.failed:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    warnings.warn(f"trainer.mirror: nothing could be copied to {self.target}: {reason}")
                self.failed = True

    def copy(self) -> None:
        """Copies each file beside its place and then moves it there, the checkpoint last."""
        for path in files_of(self.run):
            place = f"{self.root}/{path.relative_to(self.run.path).as_posix()}"
            above, _, name = place.rpartition("/")
            self.files.makedirs(above, exist_ok=True)
            with path.open("rb") as source, self.files.open(f"{above}/.{name}.partial", "wb") as target:
                shutil.copyfileobj(source, target, 2**22)
            self.files.mv(f"{above}/.{name}.partial", place)


def files_of(run: RunFolder) -> Iterator[Path]:
    """What it takes to go on from the last checkpoint."""
    beside = [path for path in sorted(run.checkpoints.glob(f"{run.checkpoint_file.stem}-*/*")) if path.is_file()]
    own = (
        run.config_file,
        run.about_file,
        run.metrics_file,
        run.names_elsewhere_file,
        run.pseudo_labels_file,
        run.generated_file,
    )
    for path in (*own, *beside):
        if path.is_file():
            yield path
    yield run.checkpoint_file


def name_of(folder: Path) -> str:
    """What a run's folder is called from where the command was given, or by its own name."""
    found = Path(os.path.relpath(folder)).as_posix()
    return folder.name if found.startswith("..") else found
