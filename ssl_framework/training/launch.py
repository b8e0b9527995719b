"""Where a run goes on: in this process, if it is alone or one of several that were launched, or in ranks of its own."""

import contextlib
import logging
import os
import sys
import tempfile
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ssl_framework import device
from ssl_framework.runs.messages import REFUSALS, RunFailed
from ssl_framework.training.place import local_processes, place
from ssl_framework.training.run import Change, run

START_METHOD = "spawn"
"""How ranks of our own begin: as new interpreters."""

REFUSED = ".refused"
"""File in the run folder in which a rank leaves what it refuses, for the parent to say; the rank's number follows."""


def descend(
    cfg: DictConfig, folder: Path, about: dict[str, Any], resume: bool, change: Change | None = None
) -> str | None:
    """One run, in as many processes as it takes. Arguments and result as of ``run``; ``change`` can be pickled.

    Raises:
        ValueError: what the run refuses.
        RunFailed: a rank died of something else, whose traceback it has printed.
    """
    OmegaConf.resolve(cfg)
    processes = local_processes(cfg.trainer)
    if place() is None and processes > 1:
        return start_ranks(processes, cfg, folder, about, resume, change)
    return run(cfg, folder, about, resume, change)


def start_ranks(processes: int, cfg: DictConfig, folder: Path, *rest: Any) -> str | None:
    """Starts one process a device by torch's elastic launcher, which passes signals on to them, and waits.

    Each rank gets the config as it is and never sees Hydra, so a multirun keeps one folder a job.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, (os.cpu_count() or 1) // processes)))
    content = OmegaConf.to_container(cfg)
    quiet_launcher()
    with tempfile.TemporaryDirectory() as logs, environment(OMP_NUM_THREADS=str(threads)):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a port that the store binds and keeps
            local_addr="127.0.0.1",
            max_restarts=0,
            start_method=START_METHOD,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            return elastic_launch(config, rank)(threads, content, folder, *rest)[0]
        except SignalException as stopped:
            return stopped.sigval.name
        except ChildFailedError as failed:
            raise refusal(folder) or RunFailed from failed


def quiet_launcher() -> None:
    """Silences what the launcher says about ranks that stop or fail: they have said it themselves."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Meanwhile these variables are set."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def refusal(folder: Path) -> ValueError | None:
    """What the ranks refused, each sentence once; ``None`` if they died of something else."""
    refused = sorted(folder.glob(f"{REFUSED}.*"))
    messages = list(dict.fromkeys(path.read_text() for path in refused))
    for path in refused:
        path.unlink()
    return ValueError("; ".join(messages)) if messages else None


def rank(threads: int, content: Any, folder: Path, *rest: Any) -> str | None:
    """What a process of our own does. It ends at once if it fails: an orderly end would wait for the others."""
    os.setsid()  # a terminal's Ctrl-C comes through the launcher, once
    device.THREADS = threads
    try:
        stopped_by = run(OmegaConf.create(content), folder, *rest)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # an interpreter that was spawned runs nothing at its exit
        return stopped_by
    except REFUSALS as error:
        (folder / f"{REFUSED}.{os.environ['RANK']}").write_text(str(error))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
