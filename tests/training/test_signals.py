"""What ends a run from outside while it trains: signals, dead processes, hangs."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.forkserver import _forkserver as forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch.distributed as dist
from rich.console import Console
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ssl_framework.runs.config import config_hash
from ssl_framework.runs.stopping import Interrupted, Stopped, begin_worker, stop
from ssl_framework.training import launch, watchdog
from ssl_framework.training.launch import Ranks
from ssl_framework.training.meeting import patience_of_meeting, wait_for_first
from ssl_framework.training.outside import Lost, from_outside, outside
from ssl_framework.training.rank import Said
from ssl_framework.training.signals import StopSignals, Terminal
from ssl_framework.training.trainer import patience
from ssl_framework.training.watchdog import State, Watch, Watchdog, place_of, said_of
from tests.forked import CONTEXT, Command, train
from tests.small_runs import SMALL, config

TWO = (*SMALL, "trainer=ddp_cpu", "trainer.max_epochs=500", "hydra.run.dir=run")


def trained_to(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def ranks_of(command: Command) -> list[int]:
    pid = command.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def impatient(arguments: Sequence[str]) -> None:
    """Becomes the command, which ends what is left of its ranks a moment after the first has ended."""
    launch.TOGETHER = 0.3
    train(arguments)


def test_a_rank_that_is_stopped_is_named_by_the_others_and_all_end(tmp_path: Path) -> None:
    running = Command(tmp_path, *TWO, "trainer.hang_after_minutes=0.02", become=impatient)
    trained_to(tmp_path / "run" / "checkpoints" / "last.ckpt")
    first, second = ranks_of(running)
    os.kill(second, signal.SIGSTOP)
    ended = running.end(timeout=60)
    assert ended.returncode == 75 and len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f"rank 1 (pid {second}) does not answer: it is stopped (SIGSTOP)" in ended.stderr
    assert f"rank 0 (pid {first}) stands at " in ended.stderr and ".py:" in ended.stderr
    assert not any(Path(f"/proc/{pid}").exists() for pid in (first, second))


def test_a_signal_that_one_rank_gets_is_that_of_all_and_names_itself(tmp_path: Path) -> None:
    running = Command(tmp_path, *TWO)
    trained_to(tmp_path / "run" / "metrics.csv")
    os.kill(ranks_of(running)[1], signal.SIGUSR1)
    ended = running.end(timeout=60)
    assert ended.returncode == 128 + signal.SIGUSR1 and ended.stderr == ""
    assert "stopped by SIGUSR1; to continue: " in ended.stdout and (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_a_signal_before_training_ends_a_run_of_two_ranks_in_a_line(tmp_path: Path) -> None:
    running = Command(tmp_path, *TWO)
    trained_to(tmp_path / "run" / "config.yaml")
    running.send_signal(signal.SIGINT)
    ended = running.end(timeout=60)
    assert ended.returncode == 128 + signal.SIGINT and "Traceback" not in ended.stderr + ended.stdout
    assert (ended.stdout + ended.stderr).count("stopped by SIGINT") == 1


class Endless(Dataset):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, number: int) -> Any:
        time.sleep(0.01)
        return os.getpid()


def working(method: str) -> Any:
    """Batches of one worker process that begins as those of our loaders."""
    begin = partial(begin_worker, os.getpid())
    options: Any = {"num_workers": 1, "multiprocessing_context": method}
    return iter(DataLoader(Endless(), batch_size=None, worker_init_fn=begin, **options))


METHODS = ["fork", "forkserver"]
"""How Python starts processes: of itself up to 3.13, and from 3.14 on."""


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_ends_by_sigkill_only_and_then_is_named(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a terminal sends to all processes does not take the data from a step that is to be ended."""
    look = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(look, "__defaults__", (0.1,))  # seconds between torch's looks at a worker, in the place of 5
    batches = working(method)
    pid = next(batches)
    subprocess.run(["bash", "-c", f"kill -INT {pid}; kill -TERM {pid}; kill -HUP {pid}"], check=True)
    for _ in range(20):
        assert next(batches) == pid
    os.kill(pid, signal.SIGKILL)
    said = rf"a process that reads data \(pid {pid}\) was killed by SIGKILL, by hand"
    with pytest.raises(Interrupted, match=said), from_outside():
        for _ in range(2000):
            next(batches)


def end_a_worker() -> None:
    """Exit code 0: it ended at once."""
    batches = working("fork")
    pid, started = next(batches), time.monotonic()
    (worker,) = (child for child in multiprocessing.active_children() if child.pid == pid)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # at which torch raises RuntimeError, wherever the main thread is
    worker.terminate()
    worker.join(10)
    os._exit(int(worker.is_alive() or time.monotonic() - started > 5))


def test_a_worker_ends_at_once_when_its_parent_says_so() -> None:
    """In a process of its own, where no other test has left children, handlers or threads."""
    parent = CONTEXT.Process(target=end_a_worker)
    parent.start()
    parent.join(60)
    assert parent.exitcode == 0


def work(parent: int, path: Path) -> None:
    """A worker that would live on."""
    begin_worker(parent)
    path.write_text(str(os.getpid()))
    time.sleep(60)


def leave_a_worker(terminated: bool, path: Path) -> None:
    """Has the server of the tests fork a worker, and ends it, or itself. Exit code 0: the worker has ended at once."""
    forkserver.ensure_running = lambda: None  # type: ignore[method-assign]  # it runs, and is no child of this process
    worker = CONTEXT.Process(target=work, args=(os.getpid(), path))
    worker.start()
    trained_to(path)
    if not terminated:
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    worker.terminate()
    worker.join(10)
    os._exit(int(worker.is_alive() or time.monotonic() - started > 5))


@pytest.mark.parametrize("terminated", [True, False])
def test_a_worker_that_a_server_has_forked_ends_with_the_process_that_it_works_for(
    terminated: bool, tmp_path: Path
) -> None:
    """The server lives on."""
    forkserver.ensure_running()
    pid = os.fork()
    if pid == 0:
        leave_a_worker(terminated, tmp_path / "pid")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (0 if terminated else -signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_alive(int((tmp_path / "pid").read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert time.monotonic() < deadline


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"


def test_errors_of_a_lost_process_are_told_from_our_own() -> None:
    gloo = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:5")
    assert isinstance(outside(gloo), Lost)
    assert isinstance(outside(dist.DistNetworkError("recvValue failed")), Lost)
    assert isinstance(
        outside(dist.DistBackendError("NCCL error: remote process exited or there was a network error")), Lost
    )
    wrapped = ValueError("of Lightning")
    wrapped.__cause__ = gloo
    assert isinstance(outside(wrapped), Lost)
    refusal, other = ValueError("no patches"), ValueError("raised anew")
    refusal.__cause__, other.__cause__ = other, refusal  # a circle, which Python allows
    assert outside(refusal) is None
    assert outside(RuntimeError("Caught RuntimeError in DataLoader worker process 0.")) is None
    assert outside(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert outside(dist.DistBackendError("NCCL error: invalid usage, duplicate GPU detected")) is None
    with pytest.raises(RuntimeError, match="shapes"), from_outside():
        raise RuntimeError("shapes")


class Process:
    """A rank as ``Ranks`` sees it."""

    def __init__(self, pid: int, exitcode: int) -> None:
        self.pid, self.exitcode = pid, exitcode

    def is_alive(self) -> bool:
        return False


def ranks(*ends: Said | int) -> Ranks:
    """Ranks that have ended with these words, or without any and with this exit code."""
    found = Ranks()
    found.processes = [Process(10 + n, end if isinstance(end, int) else 0) for n, end in enumerate(ends)]
    found.said = {n: end for n, end in enumerate(ends) if isinstance(end, Said)}
    return found


def test_a_signal_that_comes_while_ranks_start_is_passed_on_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Starting(Process):
        def __init__(self, number: int) -> None:
            super().__init__(10 + number, 0)
            self.exitcode: Any = None

        def start(self) -> None:
            if self.pid == 10:  # there is no rank yet that the signal can be passed on to
                stop.hear(signal.SIGINT)

    numbers = iter(range(2))
    context = SimpleNamespace(Process=lambda **_: Starting(next(numbers)), Pipe=multiprocessing.Pipe)
    monkeypatch.setattr(launch, "get_context", lambda method: context)
    monkeypatch.setattr(os, "kill", lambda pid, number: told.append((pid, number)))
    found = Ranks()
    try:
        with stop.noted(found.send):
            found.start(2, ())
    finally:
        stop.forget()
    assert told == [(10, signal.SIGINT), (11, signal.SIGINT)]


def test_the_first_cause_is_told_and_not_what_came_of_it(capsys: pytest.CaptureFixture) -> None:
    lost = Said("lost", "another process does not answer")
    assert ranks(Said("ended", None), Said("ended", None)).verdict() is None
    assert ranks(Said("ended", "SIGHUP"), Said("ended", "SIGHUP")).verdict() == "SIGHUP"
    with pytest.raises(Interrupted, match=r"rank 1 \(pid 11\) was killed by SIGKILL, .*memory ran out"):
        ranks(lost, -signal.SIGKILL).verdict()
    with pytest.raises(ValueError, match=r"^a; b$"):
        ranks(Said("refused", "a"), Said("refused", "b"), Said("refused", "a"), lost).verdict()
    with pytest.raises(Interrupted, match="a worker died"):
        ranks(lost, Said("interrupted", "a worker died")).verdict()
    with pytest.raises(Interrupted, match="does not answer"):
        ranks(lost, lost).verdict()
    for failed in (ranks(lost, Said("failed", "Traceback: ours")), ranks(lost, -signal.SIGSEGV), ranks(lost, 3)):
        with pytest.raises(Exception) as error:
            failed.verdict()
        assert type(error.value).__name__ == "RunFailed"
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "Traceback: ours",
        "error: rank 1 (pid 11) crashed: it was killed by SIGSEGV",
        "error: rank 1 (pid 11) ended with exit code 3",
    ]


@pytest.fixture
def listening() -> Any:
    assert stop.listen(hard=False)
    yield stop
    stop.release()


def test_a_signal_is_noted_in_steps_and_ends_an_evaluation_whose_step_is_saved(listening: Any) -> None:
    signals, trainer = StopSignals(), SimpleNamespace(global_step=6)
    signals.on_fit_start(trainer, None)  # type: ignore[arg-type]
    signals.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGHUP)
    assert signals.asked == signal.SIGHUP == signals.agreed(trainer)  # type: ignore[arg-type]
    stop.asked, signals.saved_at = None, 6
    signals.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    with pytest.raises(Stopped) as ended:
        os.kill(os.getpid(), signal.SIGXCPU)
    assert ended.value.code == 128 + signal.SIGXCPU
    stop.asked = None
    signals.on_train_batch_start(trainer)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked == signal.SIGTERM
    with pytest.raises(Stopped):
        stop.check()


def test_a_run_that_nobody_reads_saves_and_ends(listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[int] = []
    monkeypatch.setattr("ssl_framework.training.signals.to_nowhere", lost.append)
    with stop.noted():
        Terminal().on_broken_pipe()
    assert stop.asked == signal.SIGPIPE and lost == [1] and issubclass(Terminal, Console)
    stop.asked = None
    with pytest.raises(Stopped):
        Terminal().on_broken_pipe()


class Stand(L.Callback):
    """Trainer's place in a hang, without one."""

    global_step, global_rank, world_size = 7, 0, 1


def watch(minutes: float) -> Watch:
    return Watch(Watchdog(minutes), Stand(), 60 * minutes)  # type: ignore[arg-type]


def test_the_watchdog_counts_looks_without_a_step() -> None:
    seen = watch(0.001)
    seen.look()
    for _ in range(3):
        seen.look()
    assert seen.idle == pytest.approx(3 * seen.period) and seen.period == pytest.approx(0.006)
    seen.watched.on_train_batch_start(None)  # type: ignore[arg-type]
    seen.look()
    assert seen.idle == 0
    seen.idle = seen.limit
    sentence = seen.verdict()
    assert sentence.startswith("nothing has happened for 0.001 minutes (trainer.hang_after_minutes): rank 0 (pid ")
    assert "stands at " in sentence and "in step 7" in sentence
    seen.watched.between_epochs = True  # where an evaluation that gets on, however slowly, is none
    seen.look()
    seen.look()
    assert seen.idle == 0
    seen.watched.over.set()
    assert seen.verdict() == ""


def test_the_thread_has_left_the_store_once_the_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that exits while a thread is in C++ is aborted, and its launcher calls the run failed."""
    entered, left = threading.Event(), threading.Event()

    class Slow:
        """A store that answers after a while."""

        def set(self, key: str, value: str) -> None:
            entered.set()
            time.sleep(0.1)
            left.set()

        def check(self, keys: list[str]) -> bool:
            return False

    monkeypatch.setattr(watchdog, "store_of", lambda world_size: Slow())
    watched = Watchdog(30)
    watched.on_fit_start(Stand(), None)  # type: ignore[arg-type]
    assert entered.wait(5) and not left.is_set()
    watched.teardown(None, None, "fit")  # type: ignore[arg-type]
    assert left.is_set() and watched.thread is not None and not watched.thread.is_alive()


def test_nothing_hangs_while_another_rank_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(0.001)
    looks = iter(range(100))
    busy = {1: 0.0}

    def others() -> dict[int, State]:
        look = next(looks)
        return {0: State(look, 9, 7, "a.py:1 (f)", 1, "h"), 1: State(look, busy[1], 7, "b.py:2 (g)", 2, "h")}

    monkeypatch.setattr(seen, "others", others)
    monkeypatch.setattr(seen.trainer, "world_size", 2)
    seen.look()
    seen.idle = seen.limit
    assert seen.verdict() == "" and seen.idle == 0
    busy[1], seen.idle = 9.0, seen.limit
    assert "rank 1 (pid 2 on h) stands at b.py:2 (g), in step 7" in seen.verdict()


def test_places_and_states_in_words() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(place_of(threading.get_ident())))
    thread.start()
    thread.join()
    assert (found[0].startswith("training/watchdog.py:") and found[0].endswith("(stack)")) or "place_of" in found[0]
    assert said_of(3, None, False) == "rank 3 does not answer: it has ended, or is stopped"
    away = State(1, 0.0, 2, "x", 4, "elsewhere")
    assert "its machine is gone" in said_of(1, away, False) and "pid 4 on elsewhere" in said_of(1, away, False)
    assert watchdog.process_state(os.getpid(), away.host) == "?"


def test_limits_are_above_zero_and_no_part_of_what_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"trainer\.hang_after_minutes is .*: it must be above 0, or null"):
            Watchdog(wrong)
    plain, off = config(), config("trainer.hang_after_minutes=null")
    assert config_hash(plain) == config_hash(off)
    assert patience(plain.trainer).total_seconds() == 65 * 60 and patience(off.trainer).days == 7
    monkeypatch.setenv("MEETING_MINUTES", "0.5")
    assert patience_of_meeting().total_seconds() == 30
    monkeypatch.setenv("MEETING_MINUTES", "soon")
    with pytest.raises(ValueError, match="MEETING_MINUTES is soon: it must be a number of minutes above 0"):
        patience_of_meeting()


def test_a_first_process_that_is_not_there_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    started = time.monotonic()
    with pytest.raises(OSError):
        wait_for_first(started + 0.3)
    assert time.monotonic() - started < 5


def test_a_step_costs_an_addition() -> None:
    watched = Watchdog(30)
    trainer: Any = None
    started = time.perf_counter()
    for _ in range(1000):
        watched.on_train_batch_start(trainer)
        watched.on_train_batch_end(trainer)
    assert watched.beats == 2000 and time.perf_counter() - started < 0.1
