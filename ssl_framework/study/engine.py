"""Runs what a study lacks, n runs at a time, each in a process and a folder of its own.

On this machine by default. With ``hydra/launcher=submitit_slurm`` (hydra-submitit-launcher) or any other launcher of
Hydra, each process hands its run over and waits for it. What was handed over goes on when the study is stopped.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from ssl_framework.runs.groups import HERE
from ssl_framework.runs.stopping import ALWAYS, ASKING, GRACE, SAVING, stop
from ssl_framework.runs.typed_paths import quoted
from ssl_framework.study.cells import Run

PAUSE = 0.2
"""Seconds between two looks at the processes."""


NO_TABLE = "~hydra.callbacks.sweep_table"
"""The runs of all studies lie in one folder, of which one table would say nothing."""


NO_PAGE = "report=none"
"""Stands first, so that ``report=page`` on the command line wins: few runs of a study are looked at one by one."""


def job_overrides(run: Run) -> list[str]:
    """The overrides of one job, its folder included."""
    folder = run.folder.path.resolve()
    return [*run.overrides, f"hydra.sweep.dir={quoted(str(folder.parent))}", f"hydra.sweep.subdir={folder.name}"]


class Engine:
    """Processes side by side; on this machine each has its share of the cores and of the GPUs.

    A run is a job of a multirun (``python train.py -m``) of its own: what is done stays, what was interrupted goes on
    from its checkpoint, and what another process runs is left to it.

    Args:
        at_once: processes side by side.
        launch: overrides that say how and where runs are launched: of ``hydra/launcher``, ``hydra.launcher`` and of
            the logger. They change no number.
    """

    def __init__(self, at_once: int, launch: Sequence[str] = ()) -> None:
        if at_once < 1:
            raise ValueError(f"jobs is {at_once}: it must be at least 1")
        self.at_once = at_once
        self.launch = list(launch)
        self.here = not any(item.lstrip("+").startswith("hydra/launcher=") for item in launch)
        self.asked: int | None = None  # the signal that asked to stop
        self.insists = False  # it came twice
        self.children: dict[subprocess.Popen, tuple[Run, int]] = {}
        self.told: set[subprocess.Popen] = set()  # children that were passed the signal

    def __call__(self, runs: Sequence[Run], ended: Callable[[Run], None]) -> int | None:
        """Runs them all, a failed one twice; ``ended`` is told of each.

        Returns:
            The number of the signal that stopped it, ``None`` if it came to the end. Runs save before they stop.
        """
        previous = {number: signal.signal(number, self.stop) for number in heard()}
        stop.noting, stop.tell = True, self.send
        waiting, free = list(runs), list(range(self.at_once))
        tries = dict.fromkeys((run.folder for run in runs), 2)
        try:
            while self.children or (waiting and self.asked is None):
                self.start(waiting, free, ended)
                self.pass_on()
                time.sleep(PAUSE)
                for child in [child for child in self.children if child.poll() is not None]:
                    run, slot = self.children.pop(child)
                    free.append(slot)
                    tries[run.folder] -= not (self.here and left_to_another(run, child))
                    if run.folder.state != "done" and tries[run.folder] and self.asked is None:
                        waiting.append(run)
                    else:
                        ended(run)
        except BaseException:
            for child in self.children:  # nobody waits for them any more: they save and end
                child.terminate()
            raise
        finally:
            stop.noting, stop.tell = False, None
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.asked

    def start(self, waiting: list[Run], free: list[int], ended: Callable[[Run], None]) -> None:
        """Begins as many runs as there are free slots. Changes ``waiting`` and ``free``."""
        for run in list(waiting):
            if not free or self.asked is not None:
                return
            if run.folder.state == "done":  # by another process
                waiting.remove(run)
                ended(run)
            elif not run.folder.is_held:  # by another process, such as one that a killed study left behind
                waiting.remove(run)
                slot = free.pop(0)
                self.children[self.begin(run, slot)] = (run, slot)

    def begin(self, run: Run, slot: int) -> subprocess.Popen:
        """Starts a run on the slot's share of the machine; what it prints goes to output.txt in its folder."""
        run.folder.path.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if self.here:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.at_once)))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        if self.here and (gpus := visible_gpus()):
            mine = gpus[slot :: self.at_once] or [gpus[slot % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        command = [
            sys.executable,
            "-c",
            "from ssl_framework.commands.entry import train; train()",
            "-m",
            NO_PAGE,
            *job_overrides(run),
        ]
        with run.folder.output_file.open("a") as output:
            return subprocess.Popen(
                [*command, *self.launch, NO_TABLE],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes through here, once
            )

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal, which ``pass_on`` then tells the runs: one may be about to begin just now."""
        self.insists = self.asked is not None
        self.asked = number

    def pass_on(self) -> None:
        """Tells each run once of the signal, on which it saves and ends; a second signal ends them at once."""
        if self.asked is None:
            return
        for child in self.children:
            if self.insists:
                child.kill()
            elif child not in self.told:
                child.send_signal(self.asked)
                self.told.add(child)
                stop.extend(SAVING + GRACE)

    def send(self, number: int) -> None:
        """To all runs, from the thread that ends the study at a second signal."""
        for child in list(self.children):
            child.send_signal(number)


def heard() -> list[int]:
    """The signals that end a study: all that end a command, but for those that nohup and the like have it ignore."""
    return [number for number in ASKING if number in ALWAYS or signal.getsignal(number) != signal.SIG_IGN]


def left_to_another(run: Run, child: subprocess.Popen) -> bool:
    """Whether the process ended well without a result: another one took the run a moment before."""
    return child.returncode == 0 and run.folder.state in ("missing", "interrupted", "running")


def visible_gpus() -> list[str]:
    """Numbers of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [number for number in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if number]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(len(found.stdout.splitlines()))]
