"""One thread a test process: the tests' tensors are small, and two processes share the work (``make test``). And a file
of configs that has not changed is parsed once, not for every config that Hydra composes of it."""

import contextlib
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests start as well

import torch

from tools.parse_once import parse_once

torch.set_num_threads(1)

for number in (signal.SIGHUP, signal.SIGQUIT):  # as in a terminal, whatever has started the tests: nohup ignores them
    if signal.getsignal(number) == signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)

parse_once()
