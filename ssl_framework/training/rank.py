"""A process that a run has started for itself, one a device: what it does, and what it says to the one that waits."""

import os
import signal
import sys
import traceback
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from ssl_framework import device
from ssl_framework.runs.messages import AGAIN, REFUSALS, Interrupted, RunFailed
from ssl_framework.runs.stopping import ASKING, STOPPED, Stopped, end_with, stop
from ssl_framework.training.outside import Lost, from_outside
from ssl_framework.training.run import run
from ssl_framework.training.watchdog import ways

HERE = "127.0.0.1"


class Said(NamedTuple):
    """How a rank ended, in its own words."""

    kind: str  # "ended", "stopped", "refused", "interrupted", "lost", "failed"
    what: Any  # name of the signal that stopped it or None; a signal's number; a sentence; a traceback


def rank(channel: Any, where: tuple[int, ...], *run_of: Any) -> None:
    """What a process of our own does. It ends at once if it fails: an orderly end would wait for the others."""
    number, processes, port, parent, threads = where
    end_with(parent)
    os.setsid()  # a terminal's Ctrl-C comes through the parent, once
    device.THREADS = threads
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(processes))
    os.environ.update(LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR=HERE, MASTER_PORT=str(port))
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the parent holds the store
    said = how_it_ends(channel, *run_of)
    channel.send(said)
    sys.stdout.flush()
    sys.stderr.flush()
    if said.kind != "ended":
        os._exit({"stopped": STOPPED, "failed": 1, "refused": 1}.get(said.kind, AGAIN))


def how_it_ends(channel: Any, content: Any, *rest: Any) -> Said:
    """Runs, and puts the end into words for the parent."""
    stop.quiet = True  # the parent speaks
    try:
        stop.listen(hard=True)
        stop.saving = lambda: channel.send(None)
        ways.append(lambda sentence: channel.send(Said("interrupted", sentence)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)
        with from_outside():
            stopped_by = run(OmegaConf.create(content), *rest)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # an interpreter that was spawned runs nothing at its exit
        return Said("ended", stopped_by)
    except Stopped as stopped:
        return Said("stopped", stopped.number)
    except Interrupted as error:
        return Said("lost" if isinstance(error, Lost) else "interrupted", str(error))
    except RunFailed:
        return Said("failed", "")
    except REFUSALS as error:
        return Said("refused", str(error))
    except BaseException:
        return Said("failed", traceback.format_exc())
