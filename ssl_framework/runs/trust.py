"""Which classes a config that comes out of a file may name: parts of this package, and a few others by their names."""

import importlib
import inspect
from typing import Any

from ssl_framework.runs.paths import OPENERS
from ssl_framework.runs.plugins import trusted, trustworthy, within

PARTS = (
    *("ssl_framework.views", "ssl_framework.models", "ssl_framework.data", "ssl_framework.mixers"),
    *("ssl_framework.feature_mixers", "ssl_framework.masks", "ssl_framework.objectives", "ssl_framework.evaluation"),
    *("ssl_framework.memory", "ssl_framework.optim", "ssl_framework.report.page.Page"),
    "ssl_framework.training.stages.StageClusters",
    *(f"ssl_framework.training.loggers.{name}" for name in ("WandbRun", "TrackioRun", "MLflowRun")),
)
"""Where this package's own parts of a run are defined; what trains, launches, writes and reads runs is not among
them."""

OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "NAdam", "RAdam", "RMSprop"),
    *("Rprop", "SGD", "SparseAdam"),
)
"""Of torch.optim."""

LOGGERS = ("CSVLogger", "TensorBoardLogger", "WandbLogger")
"""Of lightning.pytorch.loggers."""

OTHERS = (
    *(f"torch.optim.{name}" for name in OPTIMIZERS),
    "timm.optim.Muon",
    *(f"lightning.pytorch.loggers.{name}" for name in LOGGERS),
)
"""Classes of other packages, each by the name that configs have for it."""

SAID = (
    "a part of this package, an optimizer of torch.optim, timm.optim.Muon or one of Lightning's loggers "
    f"{', '.join(LOGGERS)}"
)
"""What a stored config may name, as an error says it."""


def refuse_foreign(node: Any, where: str) -> None:
    """Refuses to construct what a config from elsewhere has no need of.

    Args:
        node: nested mappings and lists.
        where: what an error calls the file.

    Raises:
        ValueError: a ``_target_`` that is not trusted, or arguments without names.
    """
    if isinstance(node, dict):
        if "_target_" in node:
            refuse_target(node, where)
        for value in node.values():
            refuse_foreign(value, where)
    elif isinstance(node, list):
        for value in node:
            refuse_foreign(value, where)


def refuse_target(node: dict[str, Any], where: str) -> None:
    """Raises ValueError where a mapping asks to construct what is not trusted, or by arguments without names."""
    target = node["_target_"]
    if not is_trusted(target):
        raise ValueError(f"{where} asks to construct {target!r}, {why_foreign(target)}")
    if "_args_" in node and not within(target, trusted()):
        raise ValueError(
            f"{where} constructs {target} with _args_, but a run's config names its arguments: nothing was loaded"
        )


def is_trusted(target: Any) -> bool:
    """Whether a dotted name is a class of ``OTHERS``, or one defined (not merely imported) in this package's parts or
    in a package that the user trusts."""
    if not isinstance(target, str) or target in OPENERS:
        return False
    if target not in OTHERS and not within(target, (*PARTS, *trusted())):
        return False
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    if not inspect.isclass(found):
        return False
    at_home = f"{found.__module__}.{found.__qualname__}" == target  # under another name no rule would find it
    return target in OTHERS or at_home or within(found.__module__, trusted())


def why_foreign(target: Any) -> str:
    """Why ``target`` is not constructed, and what the user can do about it."""
    root = str(target).partition(".")[0]
    if isinstance(target, str) and within(target, trusted()):
        return (
            f"but {root}, which is trusted, has no such class of its own here: nothing was loaded; install the version "
            "of it that the run was made with, or put it on PYTHONPATH"
        )
    others = f", nor a class of {', '.join(trusted())}" if trusted() else ""
    said = f"which is not {SAID}{others}: nothing was loaded"
    try:
        trustworthy(root)
    except ValueError:
        return said
    return (
        f"{said}; if you trust {root}, write trust=[{root}] into the command, or install the package that declares it "
        "as a plugin"
    )
