"""Numbers that are not finite: found before anything is saved or scored, and the step that made them kept for a replay.

Every step the loss and the gradients of the backward pass are looked at, before the optimizer uses them. On the CPU the
look is immediate. On a GPU it would make the host wait, so there the device notes the first step that was wrong, with
its samples and the state before it, and the host reads that note every ``log_every_n_steps``, before each checkpoint
and evaluation, and at the end. Weights, memories and the optimizer's state are looked at before each checkpoint and
evaluation.

With ``trainer.precision=16-mixed`` single infinite gradients are normal: the scaler leaves their step out. There the
loss and, after the update, the weights are looked at.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ssl_framework.distributed import local, rank, world_size
from ssl_framework.memory import SampleBank
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.messages import typed
from ssl_framework.training.replay import Found, Position, named_tensors, write_step
from ssl_framework.types import Samples

CURE = "lower optimizer.lr_per_256, raise objective.temperature, or set trainer.precision=32-true"


class NonFinite(ValueError):
    """A run came to a number that is not finite; nothing of that is saved."""


class Values(NamedTuple):
    """What a step has left."""

    names: tuple[str, ...]  # P of them: the terms of the loss, then gradients or weights
    terms: int  # how many are terms
    numbers: Tensor  # [P]: the terms, then a norm of each tensor, which is finite if all of the tensor is

    @classmethod
    def of(cls, terms: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> "Values":
        """Reads every number of ``tensors`` once; the host does not wait for a device."""
        device = terms["loss"].device
        logged = torch.stack([x.to(device, torch.float32) for x in terms.values()])  # [terms]
        return cls((*terms, *tensors), len(terms), torch.cat([logged, norms([*tensors.values()])]))  # [P]

    @property
    def wrong(self) -> Tensor:
        """[] bool: whether the loss or a tensor is not finite. Other terms are only logged."""
        decisive = [i for i, name in enumerate(self.names) if i >= self.terms or name == "loss"]
        whole = len(decisive) == len(self.names)
        return ~(self.numbers if whole else self.numbers[decisive]).isfinite().all()

    def unless(self, wrong: Tensor, kept: "Values | None") -> "Values":
        """These, or those that were ``kept`` if the device has ``wrong`` noted already."""
        if kept is None or kept.names != self.names:
            return self
        return self._replace(numbers=torch.where(wrong, kept.numbers, self.numbers))  # [P]

    def found(self) -> Found:
        """As plain numbers."""
        numbers = self.numbers.tolist()
        terms = dict(zip(self.names, numbers[: self.terms], strict=False))
        rest = zip(self.names[self.terms :], numbers[self.terms :], strict=True)
        return Found(terms, [name for name, number in rest if not math.isfinite(number)])


class Note:
    """The first step that was wrong since the last look, on the device that trains.

    Args:
        state: name -> the tensors that training changes in place.
        every: backward passes between two looks of the host; 1: it looks at each, and nothing has to be kept longer.
        banks: name -> a memory among ``state`` that keeps itself what is written over, instead of a copy of all of it
            in every step. They keep it from now on.
    """

    def __init__(
        self, state: dict[str, Tensor], every: int, banks: Mapping[str, SampleBank] = MappingProxyType({})
    ) -> None:
        device = next(iter(state.values())).device
        theirs = {f"{name}.{column}" for name, bank in banks.items() for column, _ in bank.named_buffers()}
        self.state = {name: local(x) for name, x in state.items() if name not in theirs}
        self.banks = banks
        self.writes: list[tuple[Position, dict[str, int]]] = []  # how many each bank had kept before each pass
        for bank in banks.values():
            bank.undo = []
        self.every = every
        self.wrong = torch.zeros((), dtype=torch.bool, device=device)  # []
        self.clean = torch.zeros((), dtype=torch.long, device=device)  # []: passes since the last look that were not
        self.positions: list[Position] = []  # of the passes since the last look
        self.last: Position | None = None
        self.before: dict[str, Tensor] = {}  # the state before the step that is noted
        self.samples: dict[str, Tensor] = {}  # and its samples
        self.values: Values | None = None

    @torch.no_grad()
    def begin(self, position: Position, samples: Samples) -> None:
        """Before a step."""
        self.last = position
        if not self.positions:  # the host has looked: passes before this one were right
            self.writes.clear()
            for bank in self.banks.values():
                bank.undo = []
        self.positions.append(position)
        self.writes.append((position, {name: len(bank.undo or ()) for name, bank in self.banks.items()}))
        self.before = self.kept(self.before, self.state)
        self.samples = named_tensors(samples) if self.every == 1 else self.kept(self.samples, named_tensors(samples))

    def kept(self, before: dict[str, Tensor], now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of ``now``, written over that of the step before; once a step was wrong, that stays."""
        if before.keys() != now.keys() or any(before[name].shape != x.shape for name, x in now.items()):
            return {name: x.detach().clone() for name, x in now.items()}
        if self.every == 1:
            torch._foreach_copy_([*before.values()], [now[name] for name in before])
            return before
        for name, x in before.items():
            torch.where(self.wrong, x, now[name], out=x)
        return before

    def state_before(self, at: Position) -> dict[str, Tensor]:
        """All that was kept of the state before the step that is noted, which stood at ``at``."""
        writes = next((writes for position, writes in self.writes if position == at), {})
        found = dict(self.before)
        for name, bank in self.banks.items():
            found |= {f"{name}.{column}": x for column, x in bank.as_before(writes.get(name, 0)).items()}
        return found

    def close(self) -> None:
        """Nothing is kept any more."""
        for bank in self.banks.values():
            bank.undo = None

    def end(self, values: Values) -> None:
        """After its backward pass."""
        self.values = values.unless(self.wrong, self.values)
        self.wrong = self.wrong | values.wrong
        self.clean += ~self.wrong

    def look(self) -> Position | None:
        """Where the noted step stood, on the rank that asks; ``None`` if no rank has one. All ranks ask at once."""
        if not anywhere(self.wrong):
            self.positions.clear()
            self.clean.zero_()
            return None
        return self.positions[min(int(self.clean), len(self.positions) - 1)] if self.positions else self.last


class NonFiniteWatch(L.Callback):
    """Stops a run at the first step that is not finite, and writes that step into ``nonfinite/``.

    Stands before all callbacks that save or score.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.note: Note | None = None
        self._params: dict[str, nn.Parameter] = {}
        self._scaled = False
        self._written = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        every = looks_every(trainer.strategy.root_device, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        banks = {name: part for name, part in pl_module.named_modules() if isinstance(part, SampleBank)}
        self.note = Note(pl_module.state_dict(keep_vars=True), every, banks)
        self._params = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self._scaled = trainer.precision == "16-mixed"
        if rank() == 0:
            self.folder.forget_nonfinite()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SSLModule) and self.note is not None
        self.note.begin(Position(*pl_module.clock, pl_module.batches_done(batch_idx), rank(), world_size()), batch)

    @torch.no_grad()
    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._scaled:
            grads = {f"the gradient of {name}": p.grad for name, p in self._params.items() if p.grad is not None}
            self._take(pl_module, grads)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if self._scaled:
            self._take(pl_module, self._params)

    def _take(self, pl_module: L.LightningModule, tensors: Mapping[str, Tensor]) -> None:
        """Notes a step, and looks at the note when that is due."""
        assert isinstance(pl_module, SSLModule) and self.note is not None
        self.note.end(Values.of(pl_module.terms, tensors))
        if len(self.note.positions) >= self.note.every:
            self._look(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._refuse(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._refuse(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._refuse(trainer, pl_module)
        # Weights that callbacks train; a single number may be the best score so far, which begins at infinity.
        theirs = {name: x for name, x in tensors_below(checkpoint["callbacks"], "callbacks") if x.ndim}
        refuse_non_finite(theirs, trainer.global_step)

    def _refuse(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Looks at everything, as what comes next scores or saves it. All ranks do.

        Raises:
            NonFinite: a gradient was, or a weight is, not finite.
        """
        if self.note is not None:
            self._look(pl_module)
            refuse_non_finite_state(pl_module, trainer.optimizers)

    def _look(self, pl_module: L.LightningModule) -> None:
        """Reads the device's note.

        Raises:
            NonFinite: a step was wrong, on some rank.
        """
        assert self.note is not None
        at = self.note.look()
        if at is None:
            return
        assert self.note.values is not None
        what = first_of_ranks(said(self.note.values.found(), at))
        message = f"{what}: {CURE}; {typed('show')} nonfinite run={self.folder} replays the step"
        self._write(pl_module, message, at)
        raise NonFinite(message)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NonFinite) and not self._written and self.note is not None and self.note.last:
            self._write(pl_module, str(exception), self.note.last)

    def _write(self, pl_module: L.LightningModule, message: str, at: Position) -> None:
        """Writes the noted step. All ranks do, and each its own samples."""
        assert self.note is not None
        self._written = True
        likes = pl_module.state_dict(keep_vars=True)
        state = {name: gathered(x, likes[name]) for name, x in self.note.state_before(at).items()}
        found = Found({}, []) if self.note.values is None else self.note.values.found()
        precision = str(pl_module.trainer.precision)
        write_step(self.folder, at, message, found, precision, state, self.note.samples)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.note is not None:
            self.note.close()
        self.note = None


def looks_every(device: torch.device, log_every_n_steps: int) -> int:
    """Backward passes between two looks of the host: each on the CPU, where a look waits for nothing."""
    return 1 if device.type == "cpu" else max(1, log_every_n_steps)


def refuse_non_finite_state(module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Looks at all that a checkpoint holds of a run: weights, running statistics, memories, the optimizers' state.

    All ranks call it, and all refuse where one does. The host waits for the device once.

    Raises:
        NonFinite: one of these is not finite.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    tensors = dict(module.state_dict())
    for optimizer in optimizers:
        for p, values in optimizer.state.items():
            own = {f"the optimizer's {key} of {names.get(id(p), 'a weight')}": x for key, x in values.items()}
            tensors |= {name: x for name, x in own.items() if isinstance(x, Tensor)}
    step = module.global_step if isinstance(module, L.LightningModule) else 0
    refuse_non_finite(tensors, step)


def refuse_non_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raises NonFinite, on all ranks, if one of these tensors is not finite on one of them after ``step`` updates."""
    named = {name: local(x) for name, x in tensors.items() if x.is_floating_point()}
    bad = ~norms([*named.values()]).isfinite()  # [P]
    if not anywhere(bad.any() if len(bad) else torch.zeros((), dtype=torch.bool, device=device_of(tensors))):
        return
    wrong = [name for name, is_bad in zip(named, bad.tolist(), strict=True) if is_bad]
    here = f"{listed(wrong)} after {step} steps on rank {rank()}" if wrong else ""
    raise NonFinite(f"{first_of_ranks(here)}: nothing of it is saved or scored; {CURE}")


def device_of(tensors: Mapping[str, Tensor]) -> torch.device:
    """Where they lie; the CPU if there are none."""
    return next((x.device for x in tensors.values()), torch.device("cpu"))


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """A norm of each tensor, [P] float32 or float64, finite exactly if all numbers of the tensor are.

    On a GPU the largest number, by one kernel for all of them. On the CPU that takes ten times as long as the
    Euclidean norm, which overflows for numbers above 1e19: where it does, the largest one decides there, too.
    """
    flat = [local(x.detach()) for x in tensors]
    if not flat:
        return torch.zeros(0)
    wide = torch.float64 if any(x.dtype == torch.float64 for x in flat) else torch.float32
    full = [x if x.numel() else x.new_zeros(1) for x in flat]
    order = 2.0 if full[0].device.type == "cpu" else math.inf
    found = torch.stack([x.to(wide) for x in torch._foreach_norm(full, order)])  # [P]
    if order == 2.0 and not found.isfinite().all():
        found = torch.stack([x.to(wide) for x in torch._foreach_norm(full, math.inf)])  # [P]
    return found


def gathered(x: Tensor, like: Tensor) -> Tensor:
    """A tensor whose share ``x`` this rank holds, divided as ``like`` is, on every rank; all have to ask for it."""
    if not isinstance(like, DTensor):
        return x
    return DTensor.from_local(
        x, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def tensors_below(node: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested state, with its place."""
    if isinstance(node, Tensor):
        yield name, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from tensors_below(value, f"{name}.{key}")
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from tensors_below(value, f"{name}.{number}")


def anywhere(here: Tensor) -> bool:
    """Whether something holds on any rank; all ranks ask at once. Waits for the device."""
    if world_size() > 1:
        found = here.float()
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found)
    return bool(here)


def first_of_ranks(here: str) -> str:
    """The sentence of the first rank that has one, best one about its own loss: gradients come from all ranks."""
    found = [here]
    if world_size() > 1:
        found = ["" for _ in range(world_size())]
        dist.all_gather_object(found, here)
    return next((one for one in found if one.startswith("the loss")), next(filter(None, found), "a number"))


def said(found: Found, at: Position) -> str:
    """What was found in a step, where; nothing if it was on another rank."""
    where = f"at step {at.step} on rank {at.rank} ({', '.join(f'{name}={x:.4g}' for name, x in found.terms.items())})"
    if not math.isfinite(found.terms.get("loss", 0.0)):
        return f"the loss is not finite {where}"
    return f"{listed(found.tensors)} {where}" if found.tensors else ""


def listed(names: Sequence[str]) -> str:
    """``a is not finite``, ``a (and 2 more) is not finite``."""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{more} is not finite"
