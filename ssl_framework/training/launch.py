"""The processes of a run on this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from ssl_framework.runs.config import HERE
from ssl_framework.runs.messages import STOPPED, RunFailed


def is_first_process(cfg: DictConfig) -> bool:
    """Whether this process writes the run's folder: always, but for the later tasks of a SLURM job."""
    return not cfg.trainer.slurm or int(os.environ.get("SLURM_PROCID", "0")) == 0


def local_processes(cfg: DictConfig) -> int:
    """How many processes of the run this machine holds.

    Raises:
        ValueError: ``devices: auto`` without a GPU, or a number that makes no sense.
    """
    if cfg.devices == "auto":
        import torch

        if not torch.cuda.device_count():
            raise ValueError(
                "trainer.devices is auto (all local GPUs), but there is none: choose trainer=cpu or ddp_cpu"
            )
        return torch.cuda.device_count()
    if not isinstance(cfg.devices, int) or cfg.devices < 1:
        raise ValueError(f"trainer.devices is {cfg.devices}: it must be a whole number above 0, or auto")
    return cfg.devices


def launch(folder: Path, processes: int) -> str | None:
    """Starts one process a device, passes signals on to them, and waits.

    Each rank reads the config from the folder and never sees Hydra, so a multirun keeps one folder a job. (torchrun
    does the same but answers a user's mistake with its own traceback.)

    Raises:
        ValueError: what the ranks refused.
        RunFailed: a rank died of something else, whose traceback it has printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
    shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    # The ranks find this package also where it runs from a source tree without being installed.
    shared |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "ssl_framework.training.run", str(folder)]
    ranks = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(i), "LOCAL_RANK": str(i)}, start_new_session=True
        )
        for i in range(processes)
    ]

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in ranks:
            child.send_signal(number)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, pass_on)
    try:
        while any(child.poll() is None for child in ranks) and not any(child.poll() for child in ranks):
            time.sleep(0.1)
        for child in ranks:  # one is done or dead: the others end as well, or wait for it in vain
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=20)
            child.kill()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    refused = sorted(folder.glob(".refused.*"))
    messages = list(dict.fromkeys(path.read_text() for path in refused))
    for path in refused:
        path.unlink()
    if messages:
        raise ValueError("; ".join(messages))
    code = ranks[0].wait()
    if code > STOPPED:
        return signal.Signals(code - STOPPED).name
    if code or any(child.wait() for child in ranks):
        raise RunFailed
    return None
