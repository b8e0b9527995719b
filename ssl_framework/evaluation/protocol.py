"""What a number was measured with: the name, the version and the settings of an evaluation, beside its results."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

WHEN = ("protocol", "every_n_epochs", "baselines")
"""Keys that say when and beside what is evaluated; none of them changes a value."""


def protocol_of(evaluation: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The record of a protocol that goes into result.json and evaluation.json.

    Args:
        evaluation: the config of that name.
        overrides: of the command, of which those that change the protocol are listed.

    Returns:
        ``name``: with its version, as shipped; ``changed``: what the command changed in it; ``images``: what is scored;
        ``settings``: all parameters of all probes and measures.
    """
    prefix = "evaluation."
    changed = [
        item
        for item in overrides
        if (key := item.lstrip("+~")).startswith(prefix)
        and key.removeprefix(prefix).split("=")[0].split(".")[0] not in WHEN
    ]
    return {
        "name": evaluation.get("protocol", "unnamed"),
        "changed": changed,
        "images": "clean images, encoder in eval mode; fitted on the train split, scored on every test image once",
        "settings": settings(evaluation),
    }


def settings(evaluation: DictConfig) -> dict[str, Any]:
    """What determines the values, resolved."""
    content = OmegaConf.to_container(evaluation, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key not in WHEN}
