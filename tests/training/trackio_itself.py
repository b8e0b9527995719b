"""A run that trackio logs, resumed once, in a process of its own: trackio has one folder a process."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.small_runs import run_in, small


def become(arguments: Sequence[str]) -> None:
    """Trains in the folder that is given, and writes what trackio has of it."""
    folder = Path(arguments[0])
    for epochs in (1, 2):
        own = ("logger=trackio", f"logger.trackio.save_dir={folder}", f"trainer.max_epochs={epochs}")
        run_in(folder, small("simclr", *own), resume=epochs == 2)
    from trackio.sqlite_storage import SQLiteStorage

    runs = SQLiteStorage.get_runs("ssl_framework")
    rows = [row for row in SQLiteStorage.get_logs("ssl_framework", runs[0]) if "train/loss" in row]
    (folder / "found.json").write_text(json.dumps({"runs": runs, "losses": rows}, default=str))
