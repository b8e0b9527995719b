"""How long a user waits: for the help, and for the first training step."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.benchmark.timing import Figure, figure, interleaved, ratio

MAIN = [sys.executable, "-c", "from ssl_framework.commands.train import main; main()"]


IMPORTS = [sys.executable, "-c", "import torch, lightning, timm"]


def run(quick: bool) -> dict[str, Figure]:
    """``help_seconds``; ``first_step_over_imports``: from the command to the end of the first training step of the
    default job, over the duration of ``python -c "import torch, lightning, timm"``."""
    with tempfile.TemporaryDirectory() as scratch:
        until_step: list[float] = []
        calls: dict[str, Callable[[], object]] = {
            "imports": lambda: subprocess.run(IMPORTS, check=True, capture_output=True),
            "first_step": lambda: until_step.append(first_step(Path(scratch))),
            "help": lambda: subprocess.run([*MAIN, "--help"], check=True, capture_output=True, cwd=scratch),
        }
        seconds = interleaved(calls, repeats=1 if quick else 5)
    return {
        "first_step_over_imports": ratio(until_step[1:], seconds["imports"]),  # the first round does not count
        "first_step_seconds": figure(until_step[1:]),
        "help_seconds": figure(seconds["help"]),
    }


def first_step(scratch: Path) -> float:
    """Seconds from the start of the default job until its first step is in metrics.csv; then it is stopped."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    command = [*MAIN, "trainer.log_every_n_steps=1", f"hydra.run.dir={folder}/run"]
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=scratch, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            written = folder / "run" / "metrics.csv"
            if written.is_file() and "train/loss" in written.read_text():
                seconds = time.perf_counter() - started
                process.kill()
                return seconds
            time.sleep(0.01)
    raise ValueError("the default job ended before its first step: run python train.py to see why")
