"""What a refusal tells the user to choose instead: the choices of a group whose files fit, those of plugins, too."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssl_framework.runs.groups import files


def choices(group: str, fits: Callable[[Any], bool]) -> str:
    """``head=byol, mocov3 or ``: the choices of a group whose nodes fit; nothing if there is none."""
    return one_of(group, [name for name, node in nodes_of(group).items() if fits(node)])


def one_of(group: str, names: Sequence[str]) -> str:
    """``head=byol, mocov3 or ``; nothing without names."""
    return f"{group}={', '.join(names)} or " if names else ""


def nodes_of(group: str) -> dict[str, Any]:
    """Choice -> its node, unresolved; those of plugins, too."""
    return {name: read_node(file) for name, file in files(group).items()}


@functools.cache
def read_node(file: Path) -> Any:
    """What a config file holds, unresolved."""
    return OmegaConf.to_container(OmegaConf.load(file))


def chosen(method: Any, group: str) -> str | None:
    """What a method's node chooses of a group; ``None`` where it says nothing."""
    own = [item for item in method.get("defaults", ()) if isinstance(item, dict)]
    return next((value for item in own for key, value in item.items() if key.split("/")[-1] == group), None)


def towers_of(method: Any) -> list[str]:
    """The modalities for which a method's node has a tower, the main one first; none where there is one encoder."""
    student = method.get("student") or {}
    return [student["main"], *student.get("others", {})] if "main" in student else []
