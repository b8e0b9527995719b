"""What a run is composed of: the chosen method, head, teacher and objective, and what it is called by them."""

import functools
from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ssl_framework.runs import suggestions

PARTS = {"objective": "objective", "head": "student.heads", "teacher": "teacher"}
"""Groups of which a method is composed, in the order they are named, and the node each fills in."""


@functools.cache
def own_parts(method: str) -> dict[str, str | None]:
    """What a method's file chooses of each of ``PARTS``; ``None`` where it writes the part itself."""
    shipped = hydra.compose("train", overrides=[f"method={method}"], return_hydra_config=True)
    return {group: shipped.hydra.runtime.choices[group] for group in PARTS}


def called(choices: Mapping[str, str | None]) -> str:
    """Name of a composition: the method's where all parts are its own, otherwise what else was chosen, too.

    ``simclr + objective=dcl head=barlow_twins``: it is never shown as SimCLR.
    """
    method, own = str(choices["method"]), own_parts(str(choices["method"]))
    others = [f"{group}={choices[group]}" for group in PARTS if choices[group] != own[group]]
    return f"{method} + {' '.join(others)}" if others else method


def refuse_mixed_parts(choices: Mapping[str, str | None]) -> None:
    """Raises ValueError if a part was chosen that the method's file writes itself: both would be one node."""
    method = str(choices["method"])
    for group, own in own_parts(method).items():
        if own is None and choices[group] is not None:
            raise ValueError(
                f"the file of method={method} holds the {group} itself, with which {group}={choices[group]} would be "
                f"mixed: give it a file in configs/{group} that the method chooses, or leave {group}={choices[group]} "
                "out"
            )


def refuse_mixed_keys(choices: Mapping[str, str | None], cfg: DictConfig) -> None:
    """Raises ValueError where a method's file sets a key of its own choice of a group, which another choice has not."""
    method = suggestions.nodes_of("method")[str(choices["method"])]
    for group in sorted((method.keys() & choices.keys()) - {"data", "evaluation"}):
        known = suggestions.nodes_of(group)
        own = known.get(suggestions.chosen(method, group) or "", {})
        node = known.get(str(choices[group]), own)
        if node is own or "_target_" not in node or "defaults" in node or not isinstance(method[group], dict):
            continue
        for key in method[group]:
            if key in own and key not in node and key in cfg[group]:
                fitting = suggestions.choices(group, lambda node, key=key: key in node)  # type: ignore[misc]
                raise ValueError(
                    f"method={choices['method']} sets {group}.{key}, which {group}={choices[group]} does not have: "
                    f"choose {fitting}another method"
                )


def choice_of(about: Mapping[str, Any], group: str) -> str | None:
    """What a run of these names (run.json) chose of a group; older runs name their method and data set only."""
    if group == "data" or (group == "method" and "choices" not in about):
        return about.get(group)
    if "choices" in about:
        return about["choices"].get(group)
    return own_parts(about["method"])[group] if "method" in about else None


def composition_folder() -> str:
    """The name of this command's composition as that of a folder: ``simclr+objective-dcl+head-barlow_twins``."""
    return called(HydraConfig.get().runtime.choices).replace(" + ", "+").replace(" ", "+").replace("=", "-")


def width(output: str, *, _root_: DictConfig) -> int | str:
    """Width of an output of the student; of one as wide as the backbone's features, which no config tells, its name.

    What builds the objective puts the number there (see ``build``). An output that there is not is left to wiring.
    """
    heads = OmegaConf.select(_root_, "student.heads") or {}
    while output in heads:
        found = heads[output].get("out", heads[output].get("num_classes"))
        if found is not None:
            return int(found)
        output = heads[output].source
    return output


OmegaConf.register_new_resolver("composition_folder", composition_folder, replace=True)
OmegaConf.register_new_resolver("width", width, replace=True)
