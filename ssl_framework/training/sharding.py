"""Weights divided among the ranks (``trainer.strategy=fsdp``): torch's FSDP2, ``fully_shard``.

Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (arXiv:2304.11277). Between uses a rank
holds one W-th of every weight of student and teacher, of its gradient and of the optimizer's state; a block's weights
are put together for its own pass. What objectives own, parameters and memories, every rank holds whole: they are small,
and read in other ways than by a pass through a module.
"""

import contextlib
import itertools
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ssl_framework.distributed import rank, same_on_all_ranks, share_of, world_size
from ssl_framework.models.base import Stacked
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.weights import SHARDS, SUMS, load_without_shards, sha256_of, without_tensors
from ssl_framework.module import SSLModule
from ssl_framework.runs.durable import sync
from ssl_framework.training.writing import CheckpointWriter


class Sharded(DDPStrategy):
    """As DDP in all but where the weights lie.

    A checkpoint is a file without tensors, which names the folder beside it in which ``torch.distributed.checkpoint``
    has put them, a file a rank. The file is written last, whole or not at all, so a run that is killed in between goes
    on from the checkpoint before. DDP reads these checkpoints, and this reads those of DDP.
    """

    def configure_ddp(self) -> None:
        """Divides the weights, where DDP would wrap the model."""
        assert isinstance(self.model, SSLModule)
        # A ViT's pooled features are a view of its tokens; nothing here changes features in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        same_on_all_ranks([*self.model.parameters(), *self.model.buffers()])
        divide(self.model, init_device_mesh(self.root_device.type, (self.world_size,)))
        average_the_rest(self.model)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Begins with the first rank's running statistics, as under DDP."""
        self.share_statistics()
        return super().training_step(*args, **kwargs)

    def share_statistics(self) -> None:
        """Gives every rank the first one's buffers of the encoders, by one message a dtype."""
        assert isinstance(self.model, SSLModule)
        same_on_all_ranks_at_once(b for encoder in encoders_of(self.model) for b in encoder.buffers())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Every rank writes its share; then the first one writes the file with the checksums of all, and removes the
        shares that no file names any more."""
        self.share_statistics()
        path = Path(filepath)
        rest, tensors = without_tensors(checkpoint)
        name = self.broadcast(new_folder(path, checkpoint["global_step"]) if self.is_global_zero else "")
        write_shards(path.with_name(name), tensors)
        sums = settled_shards(path.with_name(name))
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint({**rest, SHARDS: name, SUMS: sums}, path, storage_options)
            assert isinstance(self.checkpoint_io, CheckpointWriter)
            self.checkpoint_io.settle()  # before shares go that the file before names
            for stale in sorted(folders_of(path) - named_beside(path)):
                shutil.rmtree(path.with_name(stale), ignore_errors=True)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each rank takes its share of what a checkpoint says.

        Raises:
            ValueError: the checkpoint is of a run whose optimizer has other groups of parameters.
        """
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            params = [p for group in optimizer.param_groups for p in group["params"]]
            mine = {
                number: {
                    key: share_of(x, params[number]) if isinstance(x, Tensor) and x.shape == params[number].shape else x
                    for key, x in values.items()
                }
                for number, values in state["state"].items()
            }
            groups = [
                {**saved, **{key: own[key] for key in ("fused", "foreach") if key in own}}
                for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
            ]
            optimizer.load_state_dict({**state, "state": mine, "param_groups": groups})

    def teardown(self) -> None:
        """As DDP's, but leaves shares where they are: together they need not fit into the host's memory."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def encoders_of(module: SSLModule) -> list[Encoder]:
    """The student, and the teacher's encoder if there is one."""
    return [module.student] if module.teacher is None else [module.student, module.teacher.encoder]


def divide(module: SSLModule, mesh: DeviceMesh) -> None:
    """Divides the weights of student and teacher alike: block by block, then what is left of each backbone, and heads.

    Args:
        module: on the device of ``mesh``. Changes it; parameters become ``DTensor``.
        mesh: of one dimension, all ranks.
    """
    for encoder in encoders_of(module):
        for p in encoder.parameters():
            p.data = p.data.contiguous()  # FSDP takes no other layout
        earlier = [backbone for own, _ in encoder.encoders() for backbone in own.earlier]
        for backbone in [*encoder.backbones, *earlier]:
            assert isinstance(backbone, nn.Module)
            for part in [*(backbone.stack() if isinstance(backbone, Stacked) else []), backbone]:
                divide_part(part, mesh)
        for own, _ in encoder.encoders():
            for head in own.heads.values():
                if divide_part(head, mesh):
                    register_fsdp_forward_method(head, "each_layer")


def divide_part(part: nn.Module, mesh: DeviceMesh) -> bool:
    """Divides what is not divided yet of a module that is entered by calls alone; whether there was anything."""
    if all(isinstance(p, DTensor) for p in part.parameters()):
        return False
    fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return True


def average_the_rest(module: SSLModule) -> None:
    """Has the gradients of parameters that every rank holds whole averaged over the ranks, once they are there."""

    def average(p: Tensor) -> None:
        assert p.grad is not None
        dist.all_reduce(p.grad)
        p.grad /= world_size()

    for p in module.parameters():
        if p.requires_grad and not isinstance(p, DTensor):
            p.register_post_accumulate_grad_hook(average)


@torch.no_grad()
def same_on_all_ranks_at_once(buffers: Iterable[Tensor]) -> None:
    """Gives every rank the values of rank 0, in place, by one message a dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for buffer in buffers:
        by_dtype.setdefault(buffer.dtype, []).append(buffer)
    for some in by_dtype.values():
        flat = torch.cat([buffer.flatten() for buffer in some])  # [all their numbers]
        dist.broadcast(flat, 0)
        for buffer, values in zip(some, flat.split([buffer.numel() for buffer in some]), strict=True):
            buffer.copy_(values.view_as(buffer))


def new_folder(path: Path, step: int) -> str:
    """Name of an empty place beside a checkpoint for the tensors of its next version."""
    taken, wanted = named_beside(path), f"{path.stem}-{step}"
    names = itertools.chain([wanted], (f"{wanted}-again{number}" for number in itertools.count()))
    name = next(name for name in names if name not in taken)
    shutil.rmtree(path.with_name(name), ignore_errors=True)  # of a run that was killed while it wrote
    return name


def folders_of(path: Path) -> set[str]:
    """Names of the places beside a checkpoint in which tensors of its versions lie."""
    return {found.name for found in path.parent.glob(f"{path.stem}-*") if found.is_dir()}


def named_beside(path: Path) -> set[str]:
    """Names of the places that the checkpoints beside this one, and itself, name; a damaged one names none."""
    found: set[str] = set()
    for file in path.parent.glob("*.ckpt"):
        with contextlib.suppress(ValueError):
            found.add(load_without_shards(file).get(SHARDS, ""))
    return found


def settled_shards(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files that all ranks have written, once they are on the disk; the ranks divide the work.

    The files of a rank on another machine are read from there, through the file system that they share.
    """
    files = sorted(folder.iterdir())
    mine = {}
    for file in files[rank() :: world_size()]:
        sync(file)
        mine[file.name] = sha256_of(file)
    sync(folder)
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return {name: value for part in parts for name, value in part.items()}


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Writes the shares of all ranks as safetensors, of what every rank has whole one copy."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    tensors = {name: packed(x) for name, x in tensors.items()}
    checkpoint.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def packed(x: Tensor) -> Tensor:
    """A tensor whose numbers on this rank lie one behind the other, as files have them."""
    if not isinstance(x, DTensor):
        return x.contiguous()
    mine = x.to_local().contiguous()
    stride = torch.empty(x.shape, device="meta").stride()
    return DTensor.from_local(mine, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=stride)


def check_sharding(cfg: DictConfig, module: SSLModule) -> None:
    """Refuses what cannot be done with divided weights.

    Raises:
        ValueError: in one sentence that names the key to change.
    """
    if OmegaConf.select(cfg, "trainer.strategy") != "fsdp":
        return
    found = "trainer.strategy is fsdp, which does not go with"
    if cfg.trainer.compile:
        raise ValueError(f"{found} trainer.compile=true: set one of them back")
    if str(OmegaConf.select(cfg, "optimizer.algorithm._target_")).endswith(".Muon"):
        raise ValueError(f"{found} optimizer=muon, which needs whole matrices: choose another optimizer, or ddp")
    if cfg.data.micro_batch_size is not None:
        raise ValueError(
            f"{found} data.micro_batch_size={cfg.data.micro_batch_size}: set that to null, or "
            "backbone.checkpoint_activations=true in its place"
        )
    if cfg.trainer.precision == "16-mixed":
        raise ValueError(f"{found} trainer.precision=16-mixed: choose bf16-mixed or 32-true")
    if module.mixer is not None and (module.mixer.hidden or module.mixer.learns):
        raise ValueError(
            f"{found} {type(module.mixer.rule).__name__}, which reaches into the student: choose another mixer, or "
            "trainer.strategy=ddp"
        )
    if any(getattr(backbone, "tuning", None) is not None for backbone in module.student.backbones):
        raise ValueError(f"{found} student.tuning, whose weights are few: choose trainer.strategy=ddp, or tuning=none")
    if module.masker is not None:
        raise ValueError(
            f"{found} {type(module.masker).__name__}, which reaches into the student: choose a method without "
            "masks, or trainer.strategy=ddp"
        )
    if cfg.trainer.gradient_clip_val is not None and any(p.requires_grad for p in module.objective.parameters()):
        raise ValueError(
            f"{found} trainer.gradient_clip_val={cfg.trainer.gradient_clip_val} where the objective has parameters of "
            f"its own ({type(module.objective).__name__}): set that to null"
        )
    for name, p in module.student.named_parameters():
        if p.ndim == 0:
            raise ValueError(
                f"{found} a weight that is a single number ({name} of the student): choose another head or backbone, "
                "or trainer.strategy=ddp"
            )
