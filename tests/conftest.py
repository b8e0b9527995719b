"""One thread a test process: the tests' tensors are small, and two processes share the work (``make test``). What they
have imported is set aside for all collections of garbage."""

import atexit
import contextlib
import gc
import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start as well

for number in (signal.SIGHUP, signal.SIGQUIT):  # as in a terminal, whatever has started the tests: nohup ignores them
    if signal.getsignal(number) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)


LONGEST = (
    *("test_configs", "training/test_launch", "commands/test_run", "tools/test_chaos", "test_methods"),
    *("commands/test_again", "study/test_study", "training/test_sharding", "commands/test_sweepers", "test_ddp"),
    *("test_device", "report/test_page", "commands/test_evaluate", "cases/test_users", "test_hosted"),
    *("test_compositions", "mixers/test_mixers", "training/test_going_on", "training/test_resume"),
)
"""The files of ten seconds and more, which begin first: a long one at the end would leave the other process idle."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """In the processes that run tests: the one that hands them out to others has no use for torch."""
    if hasattr(session.config, "workerinput") or session.config.getoption("dist", "no") == "no":
        import torch

        from tools.parse_once import parse_once

        torch.set_num_threads(1)
        parse_once()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of ``LONGEST``, then as they lie (``make test`` has the order kept: --no-loadscope-reorder)."""
    ranks = {f"tests/{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Once all files of tests are imported and nothing has run."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries that count what is left would complain
