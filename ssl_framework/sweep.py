"""What happens at the end of a multirun."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from ssl_framework.report.tables import sweep_table


class SweepTable(Callback):
    """Ends ``python train.py -m ...`` with one table over its jobs, and the sweep's folder as the last line."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints the table."""
        folder = Path(config.hydra.sweep.dir)
        Console().print(sweep_table(folder))
        print(folder)
