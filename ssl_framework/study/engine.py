"""Runs what a study lacks, n runs at a time, each in a process and a folder of its own.

On this machine by default. With ``hydra/launcher=submitit_slurm`` (hydra-submitit-launcher) or any other launcher of
Hydra, each process hands its run over and waits for it.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from ssl_framework.main import HERE
from ssl_framework.study.cells import Run
from ssl_framework.sweep import claimed

NO_TABLE = "~hydra.callbacks.sweep_table"
"""The runs of all studies lie in one folder, of which one table would say nothing."""


def job_overrides(run: Run) -> list[str]:
    """The overrides of one job, its folder included."""
    folder = run.folder.resolve()
    return [*run.overrides, f"hydra.sweep.dir={folder.parent}", f"hydra.sweep.subdir={folder.name}"]


class Engine:
    """Processes side by side; on this machine each has its share of the cores and one GPU after the other.

    A run is a job of a multirun (``python train.py -m``) of its own: what is done stays, what was interrupted goes on
    from its checkpoint, and what another process runs is left to it.

    Args:
        at_once: processes side by side.
        launch: overrides that say how and where runs are launched: of ``hydra/launcher``, ``hydra.launcher`` and of
            the logger. They change no number.
    """

    def __init__(self, at_once: int, launch: Sequence[str] = ()) -> None:
        if at_once < 1:
            raise ValueError(f"jobs is {at_once}: at least one run goes on at a time")
        self.at_once = at_once
        self.launch = list(launch)
        self.here = not any(item.startswith("hydra/launcher=") for item in launch)
        self.asked: int | None = None
        self.children: dict[subprocess.Popen, tuple[Run, int]] = {}

    def __call__(self, runs: Sequence[Run], ended: Callable[[Run], None]) -> int | None:
        """Runs them all, a failed one twice; ``ended`` is told of each.

        Returns:
            The number of the signal that stopped it, ``None`` if it came to the end. Runs save before they stop.
        """
        previous = {number: signal.signal(number, self.stop) for number in (signal.SIGINT, signal.SIGTERM)}
        waiting, free = list(runs), list(range(self.at_once))
        tries = dict.fromkeys((run.folder for run in runs), 2)
        try:
            while (waiting or self.children) and not (self.asked and not self.children):
                ready = (run for run in list(waiting) if self.asked is None and not held_elsewhere(run.folder))
                for run in itertools.islice(ready, len(free)):
                    waiting.remove(run)
                    slot = free.pop(0)
                    self.children[self.begin(run, slot)] = (run, slot)
                time.sleep(0.2)
                for child in [child for child in self.children if child.poll() is not None]:
                    run, slot = self.children.pop(child)
                    free.append(slot)
                    tries[run.folder] -= 1
                    if run.state != "done" and tries[run.folder] and self.asked is None:
                        waiting.append(run)
                    else:
                        ended(run)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.asked

    def begin(self, run: Run, slot: int) -> subprocess.Popen:
        """Starts a run on the slot's share of the machine; what it prints goes to output.txt in its folder."""
        run.folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self.here:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.at_once)))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        if self.here and (gpus := visible_gpus()):
            environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        command = [sys.executable, "-c", "from ssl_framework.main import main; main()", "-m", *job_overrides(run)]
        with (run.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                [*command, *self.launch, NO_TABLE],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes through here, once
            )

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Passes a signal on to the runs, which save and end; a second one ends them at once."""
        for child in self.children:
            child.send_signal(number if self.asked is None else signal.SIGKILL)
        self.asked = number


def held_elsewhere(folder: Path) -> bool:
    """Whether another process is at this run, such as one that a killed study left behind."""
    if not folder.is_dir():
        return False
    with claimed(folder) as mine:
        return not mine


def visible_gpus() -> list[str]:
    """Numbers of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(found.stdout.splitlines()))]
