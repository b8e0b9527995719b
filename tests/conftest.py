"""One thread a test process: the tests' tensors are small, and two processes share the work (``make test``). What they
have imported is set aside for all collections of garbage, and serves the processes that they start."""

import atexit
import contextlib
import gc
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start as well

gc.disable()  # until all is imported: it would look through every module's functions again and again

for number in (signal.SIGHUP, signal.SIGQUIT):  # as in a terminal, whatever has started the tests: nohup ignores them
    if signal.getsignal(number) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)


LONGEST = (
    *("test_methods", "test_configs", "commands/test_run", "training/test_launch", "test_hosted", "test_ddp"),
    *("test_compositions", "training/test_sharding", "training/test_resume", "tools/test_chaos", "report/test_page"),
    *("study/test_study", "study/test_studies", "commands/test_evaluate", "commands/test_again"),
    *("training/test_going_on", "commands/test_sweepers", "objectives/test_all", "mixers/test_mixers"),
    *("training/test_saving", "data/test_shards", "examples/test_plugin", "training/test_signals"),
    *("evaluation/test_finetune", "training/test_stages", "data/test_files", "commands/test_export"),
    *("training/test_loggers", "training/test_nonfinite", "cases/test_users", "views/test_views"),
    *("examples/test_gallery", "tools/test_mixing_page", "tools/test_readme", "examples/test_notebook"),
)
"""The files of four seconds and more, which begin first: a long one at the end would leave the other process idle."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--families", action="store_true", help="one model of every family of timm, in sixteen minutes")


def pytest_sessionstart(session: pytest.Session) -> None:
    """In the processes that run tests: the one that hands them out to others has no use for torch."""
    if hasattr(session.config, "workerinput"):
        atexit.register(leave)  # before all that is imported, so it is called after all that they have
        if session.config.option.verbose < 1 and session.config.option.durations is None:
            say_less(session.config.pluginmanager)
    if hasattr(session.config, "workerinput") or session.config.getoption("dist", "no") == "no":
        import torch

        from tools.parse_once import parse_once

        torch.set_num_threads(1)
        parse_once()
        os.fsync = os.fstat  # type: ignore[assignment]  # only a machine that stops loses what is not on its disk
        if (
            getattr(session.config, "workerinput", {}).get("workerid") == "gw1"
            and not session.config.option.file_or_dir
        ):
            import_from_the_end()
        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():  # it would keep each seed, and where that was asked for, until there is one
                device.manual_seed_all = lambda seed: None


def import_from_the_end() -> None:
    """The files of tests, from the last to the first, while another process begins with the first: each rewrites the
    assertions of half of them, where nobody has, and finds those of the others."""
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("test_*.py"), reverse=True):
        with contextlib.suppress(Exception, pytest.skip.Exception):  # said when it is collected
            importlib.import_module(".".join(path.relative_to(folder.parent).with_suffix("").parts))


def say_less(plugins: pytest.PytestPluginManager) -> None:
    """Of a test that has passed a process sends two messages in the place of six, without what the test has printed:
    both ends take them apart in Python, and there are ten thousand tests."""
    sender: Any = next(plugin for plugin in plugins.get_plugins() if type(plugin).__name__ == "WorkerInteractor")
    send = sender.sendevent

    def send_what_is_read(name: str, **what: Any) -> None:
        report = what["data"] if name == "testreport" else {}
        passed = report.get("outcome") == "passed"
        if passed:
            report["keywords"], report["sections"] = {}, []
        if name not in ("logstart", "logfinish") and not (passed and report["when"] != "call"):
            send(name, **what)

    sender.sendevent = send_what_is_read


def leave() -> None:
    """Ends a process that has reported all it found: to take apart what thousands of tests have left takes ten seconds,
    for which the one that hands out tests would wait."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of ``LONGEST``, then as they lie (``make test`` has the order kept: --no-loadscope-reorder)."""
    ranks = {f"tests/{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Once all files of tests are imported and nothing has run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # composed configs are kept: looking through them takes a quarter of a second
    gc.enable()
    atexit.register(gc.unfreeze)  # libraries that count what is left would complain
    if forked := sys.modules.get("tests.forked"):
        forked.begin_server()
