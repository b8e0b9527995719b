"""The command in processes of their own that start at once: forked from one that has imported everything, run nothing.

A new interpreter takes ten seconds to import torch and Lightning. Some tests start interpreters: for a command under
torchrun, for the ranks of one that starts them, for the jobs of a launcher. The others need only what a process of its
own means: its signals, exit code, working directory and output.
"""

import ctypes
import faulthandler
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from typing import Any
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tools.chaos.ready"])

PID = "pid.txt"
"""In the folder of a study's run: which process it is, for tests that outlive the study."""


SPAWN = util.spawnv_passfds


def begin_server() -> None:
    """Starts the server of CONTEXT as a fork of this process, which has imported everything and run nothing either.

    Otherwise it is a new interpreter at its first use: where this process may have asked for a GPU, which its forks
    could not use any more, and where a fork is not safe.
    """
    import torch

    if sys.platform == "linux" and not torch.cuda.is_available():
        resource_tracker.ensure_running()
        with mock.patch.object(util, "spawnv_passfds", fork_instead):
            forkserver.ensure_running()


def fork_instead(path: object, arguments: Sequence[object], kept: Sequence[int]) -> int:
    """In the place of a new interpreter that is told by ``-c CODE`` what to do, and has no open files but ``kept``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        become_bare(kept)
        exec(str(arguments[-1]))
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)


def become_bare(kept: Sequence[int]) -> None:
    """What pytest has put in the place of what an interpreter begins with is taken back in this fork."""
    faulthandler.disable()
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_pytest.")]
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number and number not in (nothing, *kept):  # not closed: what is open later would get what is written here
            os.dup2(nothing, number, inheritable=number < 3)
    before = sys.stdout
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    for reference in logging._handlerList:  # type: ignore[attr-defined]
        handler = reference()
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stdout if handler.stream is before else sys.stderr
    util.spawnv_passfds = SPAWN
    server: Any = forkserver._forkserver
    server._lock = threading.RLock()  # the other process holds it at the moment
    tracker: Any = resource_tracker._resource_tracker
    tracker._pid = None  # no child of this process


class Command:
    """``python train.py ARGUMENTS`` in ``folder``, started; or another command, which ``become`` turns into.

    ``environment`` adds to its variables, as a launcher does.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        become: Callable[[Sequence[str]], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.files = [folder / f".{name}.{time.monotonic_ns()}" for name in ("stdout", "stderr")]
        settings = (become or train, dict(environment or {}))
        self.process = CONTEXT.Process(target=run_command, args=(folder, arguments, *self.files, *settings))
        self.process.start()

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self, timeout: float = 120) -> subprocess.CompletedProcess:
        """Waits; what it printed is removed from the folder."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "still running"
        out, err = (path.read_text() for path in self.files)
        for path in self.files:
            path.unlink()
        return subprocess.CompletedProcess([], self.process.exitcode, out, err)


def run_command(
    folder: Path,
    arguments: Sequence[str],
    out: Path,
    err: Path,
    become: Callable[[Sequence[str]], None],
    environment: Mapping[str, str],
) -> None:
    """Becomes a command; its ranks and runs are forked from here, where nothing has run either."""
    os.chdir(folder)
    os.environ.update(environment)
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    become(arguments)


def train(arguments: Sequence[str]) -> None:
    """Becomes ``python train.py``."""
    from ssl_framework.training import launch

    launch.START_METHOD = "fork"
    train_with_new_ranks(arguments)


def train_with_new_ranks(arguments: Sequence[str]) -> None:
    """Becomes ``python train.py``, whose ranks are interpreters of their own, as a user's are."""
    from ssl_framework.commands import train as command

    sys.argv = ["train.py", *arguments]
    command.main()


def torchrun(arguments: Sequence[str]) -> None:
    """Becomes ``torchrun ARGUMENTS``, whose processes are interpreters of their own."""
    from torch.distributed.run import main

    main(list(arguments))


HERE = ("--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")


def torchrun_of_forks(arguments: Sequence[str], options: Sequence[str] = HERE) -> None:
    """Becomes ``torchrun OPTIONS train.py ARGUMENTS`` of a terminal, whose processes are forks of it."""
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    os.setsid()
    config, _, _ = config_from_args(parse_args([*options, "train.py"]))
    config.start_method = "fork"
    elastic_launch(config, launched)(arguments)


def torchrun_in_namespace(arguments: Sequence[str]) -> None:
    """Likewise in a network namespace: its name, the options, ``train.py`` and the arguments."""
    name, *words = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"no way into {namespace.name}")
    at = words.index("train.py")
    torchrun_of_forks(words[at + 1 :], words[:at])


CLONE_NEWNET = 0x40000000
"""Of linux/sched.h."""


def launched(arguments: Sequence[str]) -> None:
    """A process of torchrun, which starts each in a session of its own."""
    os.setsid()
    train(arguments)


class Fork:
    """What is used of a Popen, of a fork in a session of its own that ends with the exit code of ``become``."""

    def __init__(self, become: Callable[[], int]) -> None:
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os._exit(become())

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def study(arguments: Sequence[str]) -> None:
    """Becomes ``python scripts/study.py``, whose runs are forks of it."""
    from ssl_framework.commands import study as command
    from ssl_framework.study.engine import NO_PAGE, NO_TABLE, Engine, job_overrides

    def begin(self: Engine, run: Any, slot: int) -> Fork:
        run.folder.path.mkdir(parents=True, exist_ok=True)
        arguments = [NO_PAGE, *job_overrides(run), *self.launch, NO_TABLE]
        fork = run_of_study(arguments, run.folder.output_file)
        (run.folder.path / PID).write_text(str(fork.pid))
        return fork

    Engine.begin = begin  # type: ignore[assignment, method-assign]
    command.main(arguments)


def run_of_study(arguments: Sequence[str], output: Path) -> Fork:
    """In place of the Popen of a study's engine: a fork that becomes ``python train.py -m ARGUMENTS``."""

    def become() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the study's
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor in (1, 2):
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        code: Any = 1
        try:
            train(["-m", *arguments])
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    return Fork(become)
