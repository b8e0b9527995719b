"""What a run goes on from: a checkpoint that has everything a run needs, and fits this one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssl_framework.data.datamodule import DataModule
from ssl_framework.evaluation.frozen import FrozenEvaluation
from ssl_framework.models.weights import by
from ssl_framework.training.loops import Position, position_of

PARTS = {
    "global_step": int,
    "state_dict": Mapping,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": Mapping,
    "callbacks": Mapping,
    DataModule.__name__: Mapping,
}
"""What a checkpoint holds to go on from, beside what evaluators read."""


def position_in(content: Mapping[str, Any], path: Path, module: nn.Module) -> Position:
    """Where in the run a checkpoint was made.

    Args:
        content: of the checkpoint.
        path: of it, for the error.
        module: that is to go on from it.

    Raises:
        ValueError: it lacks something that a run goes on from, contradicts itself, or is of another run.
    """
    refuse_incomplete(content, path)
    refuse_other_weights(content["state_dict"], path, module)
    try:
        loops = content["loops"]["fit_loop"]
        found = position_of(loops)
        steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
        served = content[DataModule.__name__]["served"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say where in the run it was made ({error!r}): {advice(path)}") from error
    inside = 0 if found.whole else found.batches
    if steps != content["global_step"] or served != inside:
        raise ValueError(
            f"{path} contradicts itself (step {content['global_step']} and {steps}, batch {served} and {inside} of an "
            f"epoch): {advice(path)}"
        )
    return found


def refuse_incomplete(content: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for a checkpoint that would begin a part of the run anew."""
    for name, kind in PARTS.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{path} has no {name}, without which a run does not go on exactly: {advice(path)}")
    for name in ("optimizer_states", "lr_schedulers"):
        if len(content[name]) != 1:
            raise ValueError(f"{path} has {len(content[name])} {name}, but a run has one: {advice(path)}")
    if FrozenEvaluation.__name__ not in content["callbacks"]:
        raise ValueError(f"{path} does not say what was evaluated when (callbacks): {advice(path)}")


def refuse_other_weights(state: Mapping[str, Any], path: Path, module: nn.Module) -> None:
    """Raises ValueError for the weights of another student, objective or mixer."""
    own, parameters = module.state_dict(), dict(module.named_parameters())
    found = [f"{name} is missing there" for name in own if name not in state]
    found += [f"{name} is unknown here" for name in state if name not in own]
    for name, x in state.items():
        if not isinstance(x, Tensor):
            found.append(f"{name} is no tensor")
        elif name in parameters and x.shape != own[name].shape:
            found.append(f"{name} is {by(x)} there and {by(own[name])} here")
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValueError(f"{path} is not of this run: {found[0]}{more}: {advice(path)}")


def advice(path: Path) -> str:
    """What to do about a checkpoint that nothing can go on from."""
    return f"put the run's own checkpoint there, or remove {path.parent} to begin anew"
