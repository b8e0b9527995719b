"""Which of a run's processes this one is, as whatever launched it says. Imports no torch."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from omegaconf import DictConfig

DEFAULT_PORT = "29500"
"""Where the first process listens if the launcher does not say: torch's own default."""


class Place(NamedTuple):
    """One of several processes that something else has launched."""

    rank: int  # among all processes of the run
    world_size: int
    local_rank: int  # among those of this machine
    local_size: int

    @property
    def nodes(self) -> int:
        """Machines, each with as many processes as this one."""
        return max(1, self.world_size // self.local_size)


LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun, elastic launchers, Kubernetes operators
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),  # srun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
)
"""Variables in which launchers write rank, number of processes, and both of this machine; the first that are there."""


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where this process stands; ``None`` if nothing has launched it as one of a run's processes.

    A single task of SLURM or MPI is a process like any other: it may start ranks of its own.
    """
    for rank, size, local_rank, local_size in LAUNCHERS:
        if rank not in environment or size not in environment:
            continue
        found = Place(
            int(environment[rank]),
            int(environment[size]),
            int(environment.get(local_rank, "0")),
            int(environment.get(local_size, "1").split("(")[0].split(",")[0]),  # SLURM's may read 2(x3)
        )
        if rank == "RANK" or found.world_size > 1:
            return found
    return None


def is_first() -> bool:
    """Whether this process is the one that writes the run's folder and speaks for it."""
    found = place()
    return found is None or found.rank == 0


def described() -> str:
    """How many processes this one has joined, in a line; nothing if nothing has launched it as one of several."""
    here = place()
    if here is None or here.world_size == 1:
        return ""
    machines = f"{here.nodes} machine{'s' if here.nodes > 1 else ''}"
    return f"joins the {here.world_size} processes that were launched on {machines}"


def local_processes(cfg: DictConfig) -> int:
    """How many processes of the run this machine holds, as the config says.

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


def settle(cfg: DictConfig) -> None:
    """Has ``trainer.devices`` and ``trainer.num_nodes`` say what the launcher says, if there is one.

    Args:
        cfg: ``trainer``. Changes it.

    Raises:
        ValueError: it says something else (1 and auto leave it to the launcher), or asks for processes on other
            machines or of SLURM, which nothing has launched.
    """
    here = place()
    if here is None:
        refuse_without_launcher(cfg)
        return
    if cfg.devices not in (1, "auto", here.local_size):
        raise ValueError(
            f"trainer.devices is {cfg.devices}, but {here.local_size} of this run's processes were launched on this "
            f"machine: leave trainer.devices out, or launch {cfg.devices} on each"
        )
    if cfg.num_nodes not in (1, here.nodes):
        raise ValueError(
            f"trainer.num_nodes is {cfg.num_nodes}, but the {here.world_size} processes of this run were launched on "
            f"{here.nodes}: leave trainer.num_nodes out, or launch them on {cfg.num_nodes}"
        )
    cfg.devices, cfg.num_nodes = here.local_size, here.nodes


def leave_to_launcher(cfg: DictConfig) -> None:
    """Forgets how many processes a stored run had, if a launcher says it now. Changes ``cfg``, which is ``trainer``."""
    if place() is not None:
        cfg.devices, cfg.num_nodes = 1, 1


def refuse_without_launcher(cfg: DictConfig) -> None:
    """Refuses what only a launcher can give to a process that nothing has launched."""
    if cfg.slurm:
        raise ValueError(
            "trainer.slurm is true, but srun has not started this process as one of several: put srun before the "
            "command, or choose another trainer"
        )
    if cfg.num_nodes != 1:
        raise ValueError(
            f"trainer.num_nodes is {cfg.num_nodes}, but nothing has launched processes on several machines: start the "
            "command with torchrun, srun or mpirun on each of them, or set trainer.num_nodes=1"
        )


def join(here: Place) -> None:
    """Writes where this process stands as torch and Lightning read it, whoever launched it. Changes ``os.environ``.

    Raises:
        ValueError: the launcher does not say where the first process is.
    """
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"], port = first_process_of_slurm() if "SLURM_JOB_ID" in os.environ else unknown(here)
        os.environ.setdefault("MASTER_PORT", port)
    os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    os.environ.update({name: str(value) for name, value in zip(names, here, strict=True)})


def first_process_of_slurm() -> tuple[str, str]:
    """The first machine of the job, and a port that follows from the job's number.

    Of Lightning's environment only what reads a list of machines: as a whole it refuses jobs with --ntasks.
    """
    from lightning.pytorch.plugins.environments import SLURMEnvironment

    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    port = 15000 + int(os.environ["SLURM_JOB_ID"]) % 10000
    return SLURMEnvironment.resolve_root_node_address(nodes), str(port)


def unknown(here: Place) -> tuple[str, str]:
    """The address of a single process; several have to be told."""
    if here.world_size > 1:
        raise ValueError(
            f"{here.world_size} processes were launched without saying where the first one is: set MASTER_ADDR (and "
            "MASTER_PORT) for all of them, such as mpirun -x MASTER_ADDR=<host> -x MASTER_PORT=29500"
        )
    return "127.0.0.1", DEFAULT_PORT


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
