"""What is typed: each command listens for signals before it imports what it needs, which takes seconds."""

from ssl_framework.runs.importing import importing
from ssl_framework.runs.stopping import commanded


def train() -> None:
    """``python train.py`` and ``ssl-train``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.train import main
        main()


def embed() -> None:
    """``scripts/embed.py`` and ``ssl-embed``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.embed import main
        main()


def evaluate() -> None:
    """``scripts/evaluate.py`` and ``ssl-evaluate``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.evaluate import main
        main()


def export() -> None:
    """``scripts/export.py`` and ``ssl-export``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.export import main
        main()


def prepare() -> None:
    """``scripts/prepare_data.py`` and ``ssl-prepare``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.prepare import main
        main()


def report() -> None:
    """``scripts/report.py`` and ``ssl-report``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.report import main
        main()


def show() -> None:
    """``scripts/show.py`` and ``ssl-show``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.show import main
        main()


def study() -> None:
    """``scripts/study.py`` and ``ssl-study``."""
    with commanded(last=True):
        with importing():
            from ssl_framework.commands.study import main
        main()
