"""Where a run goes on: in this process, if it is alone or one of several that were launched, or in ranks of its own."""

import contextlib
import os
import signal
import sys
from multiprocessing import connection, get_context, resource_tracker
from pathlib import Path
from time import monotonic
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs.messages import Interrupted, RunFailed
from ssl_framework.runs.stopping import ASKING, SAVING, Stopped, stop
from ssl_framework.training.begin import begin_rank
from ssl_framework.training.outside import CRASHES, from_outside, killed
from ssl_framework.training.place import environment, local_processes, place
from ssl_framework.training.rank import HERE, Said
from ssl_framework.training.run import Change, run
from ssl_framework.training.watchdog import AFTERWARDS

START_METHOD = "spawn"
"""How ranks of our own begin: as new interpreters."""

TOGETHER = 3.0
"""Seconds in which the others can say why they end, once one rank has ended other than it should."""


def descend(
    cfg: DictConfig, folder: Path, about: dict[str, Any], resume: bool, change: Change | None = None
) -> str | None:
    """One run, in as many processes as it takes. Arguments and result as of ``run``; ``change`` can be pickled.

    Raises:
        ValueError: what the run refuses.
        Interrupted: something outside the run ended it.
        RunFailed: a rank died of something else, whose traceback is printed.
    """
    OmegaConf.resolve(cfg)
    processes = local_processes(cfg.trainer)
    if place() is None and processes > 1:
        return Ranks().go(processes, OmegaConf.to_container(cfg), folder, about, resume, change)
    with from_outside():
        return run(cfg, folder, about, resume, change)


class Ranks:
    """The processes of a run that this one starts, one a device, and waits for.

    Each rank gets the config as it is and never sees Hydra, so a multirun keeps one folder a job. They meet in a
    key-value store that this process holds, end with it, and say through a pipe how they ended.

    Ours, and not torch's elastic launcher: under that a killed parent left ranks that trained on, a stopped rank was
    waited for without end, and a rank's sentence came as a page of traces. No port is picked and released.
    """

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.channels: dict[Any, int] = {}  # open ends of the ranks' pipes
        self.said: dict[int, Said] = {}
        self.ended_by_us: set[int] = set()

    def go(self, processes: int, *run_of: Any) -> str | None:
        """Starts the ranks and waits; raises as ``descend``, and Stopped for a signal that came before they trained."""
        with stop.noted(self.send):
            try:
                self.start(processes, run_of)
                self.wait()
            finally:
                self.kill()
        return self.verdict()

    def start(self, processes: int, run_of: tuple[Any, ...]) -> None:
        """Signals wait in a rank until it listens; one that comes meanwhile is passed on once all ranks are there."""
        store = dist.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
        threads = int(os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // processes)))
        context: Any = get_context(START_METHOD)
        if START_METHOD != "fork":
            resource_tracker.ensure_running()  # what comes with the first process would unblock signals
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
        try:
            with environment(OMP_NUM_THREADS=str(threads)):
                for number in range(processes):
                    ours, theirs = context.Pipe(duplex=False)
                    where = (number, processes, store.port, os.getpid(), threads)
                    process = context.Process(target=begin_rank, args=(theirs, where, *run_of), name=f"rank {number}")
                    process.start()
                    theirs.close()
                    self.processes.append(process)
                    self.channels[ours] = number
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        if stop.asked is not None:  # another thread of this process has taken it, when not all were there
            self.send(stop.asked)
        self.store = store  # serves as long as the ranks live

    def wait(self) -> None:
        """Returns once all have ended; where one did other than it should, the others are ended soon after."""
        until: float | None = None
        while alive := [process.sentinel for process in self.processes if process.is_alive()]:
            connection.wait([*self.channels, *alive], timeout=1)
            self.hear()
            if until is None and self.in_trouble:
                until = monotonic() + TOGETHER
            if until is not None and monotonic() > until:
                self.kill()
        self.hear()

    def hear(self) -> None:
        """Takes what the ranks have said."""
        for channel, number in list(self.channels.items()):
            try:
                while channel.poll():
                    self.take(number, channel.recv())
            except (EOFError, OSError):  # it has ended
                del self.channels[channel]

    def take(self, number: int, said: Said | None) -> None:
        """One word: ``None`` is that the rank has begun to save, as it was asked to end."""
        if said is None:
            stop.extend(SAVING)
            return
        self.said[number] = said
        if said.kind == "stopped" and stop.asked is None:
            stop.ask(said.what)  # the others have not heard of it

    @property
    def in_trouble(self) -> bool:
        """Whether a rank has ended other than it should."""
        silent = any(
            not process.is_alive() and number not in self.said for number, process in enumerate(self.processes)
        )
        return silent or any(said.kind not in ("ended", "stopped") for said in self.said.values())

    def send(self, number: int) -> None:
        """Passes a signal on."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                if process.exitcode is None:
                    os.kill(process.pid, number)

    def kill(self) -> None:
        """Ends those that are left, also stopped ones."""
        for number, process in enumerate(self.processes):
            if process.is_alive():
                self.ended_by_us.add(number)
                process.kill()
                process.join()

    def verdict(self) -> str | None:
        """What their ends come to. Raises as ``descend``."""
        if set(self.said) == set(range(len(self.processes))) and {said.kind for said in self.said.values()} == {
            "ended"
        }:
            return self.said[0].what
        if stop.asked is not None:
            raise Stopped(stop.asked)
        words = {kind: list(dict.fromkeys(s.what for s in self.said.values() if s.kind == kind)) for kind in KINDS}
        if words["refused"]:
            raise ValueError("; ".join(words["refused"]))
        if words["failed"]:
            print(words["failed"][0], file=sys.stderr, flush=True)
            raise RunFailed
        if dead := self.dead():
            raise Interrupted(f"{dead}, and the others were ended with it; {AFTERWARDS}")
        if found := [*words["interrupted"], *words["lost"]]:
            raise Interrupted(found[0])
        raise RunFailed

    def dead(self) -> str:
        """Which ranks ended without a word, and how; "" if none did. Raises RunFailed for one that crashed."""
        found = []
        for number, process in enumerate(self.processes):
            if number in self.said or number in self.ended_by_us:
                continue
            who, code = f"rank {number} (pid {process.pid})", process.exitcode
            if code > 0 or -code in CRASHES:
                how = f"ended with exit code {code}" if code > 0 else f"crashed: {killed('it', -code)}"
                print(f"error: {who} {how}", file=sys.stderr, flush=True)
                raise RunFailed
            found.append(killed(who, -code) if code else f"{who} ended without a word")
        return " and ".join(found)


KINDS = ("stopped", "refused", "interrupted", "lost", "failed")
