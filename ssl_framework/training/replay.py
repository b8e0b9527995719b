"""The step at which a run came to a number that is not finite: how it is written, read and made again.

``nonfinite/`` in the run folder has two files a rank: ``rank_<r>.safetensors`` holds the samples as they came and the
state of the module before the step, ``rank_<r>.json`` where the step stood, what was found, and in which precision.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_framework.build import build_module
from ssl_framework.data.loader import each_tensor
from ssl_framework.module import SSLModule
from ssl_framework.runs.durable import replacing
from ssl_framework.runs.folder import RunFolder, read_json, write_json
from ssl_framework.types import Clock, Samples, step_seed

SHOWN = 12
"""Parameters in the table."""


class Position(NamedTuple):
    """Where a backward pass stood in a run; all that is random in it is a function of that."""

    step: int  # optimizer steps before it
    epoch: int
    total_steps: int
    seed: int
    batches_done: int  # before it
    rank: int
    ranks: int


class Found(NamedTuple):
    """What a step has left."""

    terms: dict[str, float]  # of the loss
    tensors: list[str]  # what else was not finite: gradients, or weights


class Step(NamedTuple):
    """A step that was written, as it is read."""

    at: Position
    message: str  # why the run stopped
    found: Found
    precision: str  # of the trainer
    state: dict[str, Tensor]  # of the module, before the step
    samples: Samples


class Made(NamedTuple):
    """What a step made again has left."""

    terms: dict[str, float]
    first: tuple[str, str, str] | None  # the first module whose output is not finite: name, class, its inputs
    gradients: dict[str, Tensor | None]

    @property
    def wrong(self) -> bool:
        """Whether it is not finite again."""
        numbers = [torch.tensor(list(self.terms.values())), *(g for g in self.gradients.values() if g is not None)]
        return not all(bool(x.isfinite().all()) for x in numbers)


def named_tensors(samples: Samples) -> dict[str, Tensor]:
    """The tensors of a batch by names of one level: "inputs", or "inputs.0" ... of crops, "index", "beside.text" ..."""
    found: dict[str, Tensor] = {}
    for name, value in samples._asdict().items():
        if isinstance(value, list):
            found |= {f"{name}.{number}": x for number, x in enumerate(value)}
        elif isinstance(value, dict):
            found |= {f"{name}.{key}": x for key, x in value.items()}
        elif value is not None:
            found[name] = value
    return found


def samples_of(named: dict[str, Tensor]) -> Samples:
    """What ``named_tensors`` took apart."""

    def part(name: str) -> Any:
        if name in named:
            return named[name]
        below = {key.partition(".")[2]: x for key, x in named.items() if key.startswith(f"{name}.")}
        if name == "beside":
            return below or None
        return [below[key] for key in sorted(below, key=int)] or None

    return Samples(*(part(name) for name in Samples._fields))


def write_step(
    folder: RunFolder,
    at: Position,
    message: str,
    found: Found,
    precision: str,
    state: dict[str, Tensor],
    samples: dict[str, Tensor],
) -> None:
    """Writes a step, each file whole or not at all; without the second one there is no step."""
    tensors, about = folder.nonfinite_files(at.rank)
    tensors.parent.mkdir(exist_ok=True)
    about.unlink(missing_ok=True)
    content = {f"state.{name}": x for name, x in state.items()} | {f"samples.{name}": x for name, x in samples.items()}
    with replacing(tensors) as partial:
        save_file({name: x.detach().cpu().contiguous().clone() for name, x in content.items()}, partial)
    terms = {name: repr(value) for name, value in found.terms.items()}  # JSON knows no nan
    said = {"message": message, "terms": terms, "not_finite": found.tensors, "precision": precision}
    write_json(about, {**at._asdict(), **said})


def read_step(folder: RunFolder, rank: int) -> Step:
    """What a rank has written; nothing there can be made to run code.

    Raises:
        ValueError: a file is missing, damaged or something else.
    """
    tensors, about = folder.nonfinite_files(rank)
    try:
        said, content = read_json(about), load_file(tensors)
        at = Position(**{name: int(said[name]) for name in Position._fields})
        found = Found({name: float(x) for name, x in said["terms"].items()}, [*map(str, said["not_finite"])])
        parts = {
            part: {name.removeprefix(f"{part}."): x for name, x in content.items() if name.startswith(f"{part}.")}
            for part in ("state", "samples")
        }
        samples = samples_of(parts["samples"])
        return Step(at, str(said["message"]), found, str(said["precision"]), parts["state"], samples)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{about.parent} holds no step that can be read ({error!r}): run the command again") from error


def ranks_of(folder: RunFolder) -> list[int]:
    """Which ranks have written a step.

    Raises:
        FileNotFoundError: none has.
    """
    where = folder.nonfinite
    found = sorted(int(path.stem.removeprefix("rank_")) for path in where.glob("rank_*.json") if is_number(path))
    if not found:
        raise FileNotFoundError(f"{where} is not there: the run came to no number that is not finite")
    return found


def is_number(path: Path) -> bool:
    """Whether a file is called after a rank."""
    return path.stem.removeprefix("rank_").isdecimal()


def make_again(cfg: DictConfig, step: Step, device: torch.device) -> Made:
    """Makes a step again, alone: forward pass, loss, backward pass.

    Args:
        cfg: of the run.
        step: as it was written.
        device: where; the random numbers of another kind of device are others.

    Raises:
        ValueError: the state or the samples do not fit the config.
    """
    at = step.at
    module = build_module(cfg, has_labels=True, num_samples=samples_known(step.state))
    try:
        module.load_state_dict(step.state)
    except RuntimeError as error:
        raise ValueError(f"nonfinite/ does not fit config.yaml: {' '.join(str(error).split())}") from error
    module.to(device)
    samples = each_tensor(step.samples, lambda x: x.to(device))
    torch.manual_seed(step_seed(at.seed, at.batches_done, at.rank))
    with ExitStack() as stack:
        first = stack.enter_context(First(module))
        half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(step.precision)
        stack.enter_context(torch.autocast(device.type, half, enabled=half is not None))
        losses = module.losses(samples, Clock(at.step, at.epoch, at.total_steps, at.seed))
    losses["loss"].backward()
    terms = {name: value.item() for name, value in losses.items()}
    return Made(terms, first.found, {name: p.grad for name, p in module.named_parameters() if p.requires_grad})


def samples_known(state: dict[str, Tensor]) -> int | None:
    """N of the training set, where the objective keeps a state of each sample; any number where it does not."""
    return next((len(x) for name, x in state.items() if name.endswith(".visited")), 1)


class First:
    """Notes the first part of a module whose output is not finite, while it is entered."""

    def __init__(self, module: SSLModule) -> None:
        self.module = module
        self.found: tuple[str, str, str] | None = None
        self.hooks: list[Any] = []

    def __enter__(self) -> "First":
        for name, part in self.module.named_modules():
            if name and not list(part.children()):  # a part of a part is through before the whole
                self.hooks.append(part.register_forward_hook(self.hook(name)))
        for name in ("views", "student", "objective"):
            self.hooks.append(getattr(self.module, name).register_forward_hook(self.hook(name)))
        return self

    def hook(self, name: str) -> Any:
        def look(part: nn.Module, inputs: Any, output: Any) -> None:
            if self.found is None and not all(x.isfinite().all() for x in floats(output)):
                clean = all(x.isfinite().all() for x in floats(inputs))
                self.found = name, type(part).__name__, "finite" if clean else "not finite"

        return look

    def __exit__(self, *args: object) -> None:
        for hook in self.hooks:
            hook.remove()


def floats(node: Any) -> Iterator[Tensor]:
    """Every tensor of floating-point numbers in nested outputs."""
    if isinstance(node, Tensor):
        if node.is_floating_point():
            yield node.detach()
    elif isinstance(node, dict):
        for value in node.values():
            yield from floats(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from floats(value)


def step_table(step: Step, made: Made) -> Table:
    """Terms of the loss then and now, the first part that is not finite, and gradients, those that are not first."""
    at = step.at
    table = Table(title=f"step {at.step} of rank {at.rank} (of {at.ranks}), made again", title_justify="left")
    for column in ("what", "then", "now"):
        table.add_column(column, justify="left" if column == "what" else "right", overflow="fold")
    for name in dict.fromkeys([*step.found.terms, *made.terms]):
        pair = (step.found.terms.get(name), made.terms.get(name))
        table.add_row(name, *("-" if x is None else f"{x:.6g}" for x in pair))
    table.add_section()
    name, kind, inputs = made.first or ("none", "", "")
    table.add_row("first output that is not finite", "", f"{name} ({kind}, its inputs {inputs})" if kind else name)
    table.add_section()
    counts = {name: 0 if g is None else int((~g.isfinite()).sum()) for name, g in made.gradients.items()}
    wrong = set(step.found.tensors)
    order = sorted(made.gradients, key=lambda name: (not counts[name], f"the gradient of {name}" not in wrong))
    for name in order[:SHOWN]:
        then = "not finite" if f"the gradient of {name}" in wrong else "finite"
        table.add_row(f"gradient of {name}", then, described(made.gradients[name], counts[name]))
    if len(order) > SHOWN:
        table.add_row(
            f"{len(order) - SHOWN} more gradients", "", f"{sum(map(bool, counts.values()))} not finite in all"
        )
    return table


def described(grad: Tensor | None, bad: int) -> str:
    """A gradient in two words."""
    if grad is None:
        return "none"
    return f"{bad:,} of {grad.numel():,} not finite" if bad else f"finite, at most {grad.abs().max().item():.3g}"


def verdict(step: Step, made: Made) -> str:
    """Whether the step did the same again; if not, what may have been another then."""
    if made.wrong:
        return "the replay is not finite, either"
    if step.at.ranks > 1:
        return (
            f"the replay is finite: it knows rank {step.at.rank} alone, without the samples of the other "
            f"{step.at.ranks - 1} ranks"
        )
    if not any(name.startswith("the gradient of ") for name in step.found.tensors) and "loss" in step.found.terms:
        return "the replay is finite, as the step's loss and gradients were: the update made what is not"
    return (
        "the replay is finite: it does not reproduce the step, which another device, library or a fault may have made"
    )
