"""What dividing the weights saves and changes: the same steps with ``trainer.strategy`` ddp and fsdp on two processes.

    python -m tools.sharding_check [STEPS]

Prints, for every case, the bytes that one rank holds between steps of weights (student and teacher) and of the
optimizer's state, the largest relative difference of a loss, and the largest difference of a weight after the last
step. CPU and gloo.
"""

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.training.parts import Parts
from ssl_framework.training.run import run

CASES = {
    "simclr, tiny": ("method=simclr", "backbone=tiny"),
    "mocov2, resnet18": ("method=mocov2", "backbone=resnet18", "objective.queue.size=256"),
    "swav, tiny": ("method=swav", "backbone=tiny", "objective.queue.size=256", "objective.frozen=0"),
    "byol, tiny, lars": ("method=byol", "backbone=tiny", "optimizer=lars"),
    "mocov3, vit_tiny": ("method=mocov3", "backbone=vit_tiny", "backbone.checkpoint_activations=true"),
}
COMMON = (
    *("data=shapes", "data.source.num_train=256", "data.source.num_test=32", "data.batch_size=16"),
    *("evaluation=none", "report=none", "trainer=ddp_cpu", "trainer.max_epochs=1", "trainer.log_every_n_steps=1"),
)


def held(tensors: list[Tensor]) -> int:
    """Bytes of them that lie on this rank."""
    mine = [x.to_local() if isinstance(x, DTensor) else x for x in tensors]
    return sum(x.numel() * x.element_size() for x in mine)


class Weigh(L.Callback):
    """Notes what this rank holds when training ends."""

    def __init__(self) -> None:
        self.found = (0, 0)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = [x for values in trainer.optimizers[0].state.values() for x in values.values() if isinstance(x, Tensor)]
        self.found = held(list(pl_module.parameters())), held(state)


def work(process: int, port: int, folder: Path, steps: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(process), LOCAL_RANK=str(process))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    if process:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for number, (name, overrides) in enumerate(CASES.items()):
        bytes_of: dict[str, tuple[int, int]] = {}
        for strategy in ("ddp", "fsdp"):
            where = folder / f"{number}_{strategy}"
            where.mkdir(exist_ok=True)
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                mine = [*COMMON, *overrides, f"trainer.strategy={strategy}", f"trainer.max_steps={steps}"]
                cfg = compose("train", overrides=mine)
            OmegaConf.resolve(cfg)
            weigh = Weigh()

            def add(parts: Parts, weigh: Weigh = weigh) -> None:
                parts.trainer.callbacks.append(weigh)  # type: ignore[attr-defined]

            about: dict[str, Any] = {"method": name, "data": "shapes", "overrides": [], "command": ""}
            run(cfg, where, about, False, add)
            bytes_of[strategy] = weigh.found
        if not process:
            say(name, bytes_of, folder / f"{number}_ddp", folder / f"{number}_fsdp")
        dist.barrier()
    dist.destroy_process_group()


def say(name: str, bytes_of: dict[str, tuple[int, int]], ddp: Path, fsdp: Path) -> None:
    """One line of numbers."""
    ours, theirs = ([v for _, v in RunFolder(path).read_metrics()["train/loss"]] for path in (fsdp, ddp))
    loss = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    states = [load_checkpoint(RunFolder(path).checkpoint_file)["state_dict"] for path in (fsdp, ddp)]
    weight = max(float((states[0][k].double() - states[1][k].double()).abs().max()) for k in states[1])
    (a, b), (c, d) = bytes_of["ddp"], bytes_of["fsdp"]
    print(
        f"RESULT {name}: weights {a:,} -> {c:,} bytes a rank, optimizer {b:,} -> {d:,}; {len(ours)} losses differ by "
        f"at most {loss:.1e} of their size, weights by {weight:.1e}",
        flush=True,
    )


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    print(f"torch {torch.__version__}, lightning {L.__version__}, 2 processes of 1 thread, gloo, {steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (port, Path(folder), steps), nprocs=2, start_method="spawn")


if __name__ == "__main__":
    main()
