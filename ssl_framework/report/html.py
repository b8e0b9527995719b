"""Pages as Jinja2 templates, which lie in the folder of that name. Whatever stands in their braces is escaped."""

import base64
import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@functools.cache
def environment() -> Environment:
    """Where templates come from; a name that a template misspells is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def rendered(template: str, **values: Any) -> str:
    """A page: ``template`` filled in."""
    return environment().get_template(template).render(values)


def embedded(picture: bytes, kind: str = "png") -> str:
    """A picture as the address of itself: the page needs no other file. ``kind``: png or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
