"""Plain values out of files that anybody may have written: YAML and JSON, bounded before anything is made of them.

YAML is read event by event, by the scanner of PyYAML and without its constructors: no tag is obeyed, nothing is
referred to twice, and a file costs no more time and memory than its length allows. Numbers and truth values are those
of OmegaConf, which writes the configs of runs.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

MOST_BYTES = 1 << 20
"""Of a file; the longest shipped config, resolved, has 13 KB."""

MOST_DEPTH = 40
"""Levels of mappings and lists; configs here have up to 9."""

MOST_VALUES = 20_000
"""Mappings, lists, keys and values; a config that names a thousand classes has 2,000."""

SCANNER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]"
)
"""Control characters but tab and newline, marks that turn the direction of writing, and halves of characters."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: mappings with text keys, lists, texts, numbers, truth values and null.

    Raises:
        ValueError: the file is too large or too deep, is no YAML, or holds more than plain values.
    """
    return plain_yaml(read_text(path), str(path))


def read_config(path: Path) -> dict[str, Any]:
    """The content of a run's config.yaml: a mapping of plain values that refer to nothing else.

    Raises:
        ValueError: as ``read_yaml``, or it is no mapping, is not complete or holds an interpolation.
    """
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a run's config: it holds {type(found).__name__}, not a mapping")
    refuse_unresolved(found, str(path))
    return found


def refuse_unresolved(node: Any, where: str) -> None:
    """Raises ValueError for an interpolation in a key or a value, and for a value that is missing."""
    if isinstance(node, dict):
        for key, value in node.items():
            refuse_unresolved(key, where)
            refuse_unresolved(value, where)
    elif isinstance(node, list):
        for value in node:
            refuse_unresolved(value, where)
    elif isinstance(node, str) and ("${" in node or node == "???"):
        what = "the value ???, which is missing" if node == "???" else f"the interpolation {node!r}"
        raise ValueError(f"{where} holds {what}, but a run's config is stored resolved: nothing was loaded")


def read_text(path: Path) -> str:
    """A text file, at most ``MOST_BYTES`` long.

    Raises:
        ValueError: it is longer, no file, or not UTF-8.
    """
    if not path.is_file():  # such as a pipe, which never ends
        raise ValueError(f"{path} is no file: nothing was loaded")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes, which no config has: nothing was loaded")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error.reason} at byte {error.start}): nothing was loaded") from error


def plain_yaml(text: str, where: str) -> Any:
    """As ``read_yaml``, of a text; ``where`` is what an error calls it."""
    try:
        builder = Builder(where)
        for event in yaml.parse(text, Loader=SCANNER):
            builder.take(event)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML ({' '.join(str(error).split())}): nothing was loaded") from error
    return builder.root


@functools.cache
def scalars() -> yaml.SafeLoader:
    """What tells numbers and truth values from texts."""
    return get_yaml_loader()("")


class Builder:
    """Makes values of the events of one YAML document, without recursion.

    Args:
        where: what an error calls the document.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.root: Any = None
        self.documents = 0
        self.count = 0
        self.open: list[dict[str, Any] | list[Any]] = []  # from the root to where the next value belongs
        self.keys: list[str | None] = []  # of each mapping in ``open`` the key that waits for its value
        self.scalars = scalars()

    def take(self, event: yaml.Event) -> None:
        """Reads one event.

        Raises:
            ValueError: it is more than a plain value, or one too many.
        """
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            self.refuse(event, "an anchor or alias, which stands for a value elsewhere")
        if isinstance(event, yaml.CollectionStartEvent):
            if event.tag is not None:
                self.refuse(event, f"the tag {event.tag}")
            self.add({} if isinstance(event, yaml.MappingStartEvent) else [], event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()
            self.keys.pop()
        elif isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                self.refuse(event, f"the tag {event.tag}")
            self.add(self.scalar(event), event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.refuse(event, "a second document")

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        """A text, number, truth value or null."""
        tag = self.scalars.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == "tag:yaml.org,2002:merge":
            self.refuse(event, "a merge key (<<)")
        try:
            value = self.scalars.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, yaml.YAMLError, OverflowError):
            self.refuse(event, f"{event.value[:40]!r}, which is no number")
        if isinstance(value, str) and (found := UNPRINTABLE.search(value)):
            self.refuse(event, f"the control character {found[0]!r}")
        return value

    def add(self, value: Any, event: yaml.Event) -> None:
        """Puts a key or a value where it belongs, and opens a mapping or list."""
        self.count += 1
        if self.count > MOST_VALUES:
            self.refuse(event, f"more than {MOST_VALUES:,} values")
        if len(self.open) >= MOST_DEPTH:
            self.refuse(event, f"more than {MOST_DEPTH} levels")
        if not self.open:
            self.root = value
        elif isinstance(above := self.open[-1], list):
            above.append(value)
        elif self.keys[-1] is None:
            self.keys[-1] = self.key(value, above, event)
            return
        else:
            above[self.keys[-1]] = value
            self.keys[-1] = None
        if isinstance(value, (dict, list)):
            self.open.append(value)
            self.keys.append(None)

    def key(self, value: Any, above: dict[str, Any], event: yaml.Event) -> Any:
        """The key of a mapping, which has none like it yet."""
        if not isinstance(value, (str, int, float)):
            self.refuse(event, f"the key {value!r}, which is no text")
        if value in above:
            self.refuse(event, f"the key {value!r} twice")
        return value

    def refuse(self, event: yaml.Event, what: str) -> None:
        """Raises ValueError."""
        line = event.start_mark.line + 1
        raise ValueError(f"{self.where} holds {what} in line {line}: it must be plain values, so nothing was loaded")


def plain_json(text: str | bytes, where: str) -> Any:
    """The content of a JSON text whose strings are fit to be printed: control characters are replaced by U+FFFD.

    Raises:
        ValueError: it is no JSON, or too deep; ``where`` is what the error calls it.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError(f"{where} holds lists in lists without end: nothing was loaded") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text ({error.reason}): nothing was loaded") from error
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return cleaned(found) if SUSPICIOUS.search(raw) else found


SUSPICIOUS = re.compile(rb"\\u|\\[bfr]|[\x7f\x80-\xff]")
"""What JSON needs to hold anything unprintable."""


def cleaned(node: Any) -> Any:
    """A nested value with every text printable."""
    if isinstance(node, dict):
        return {printable(key): cleaned(value) for key, value in node.items()}
    if isinstance(node, list):
        return [cleaned(value) for value in node]
    return printable(node) if isinstance(node, str) else node


def printable(text: str) -> str:
    """A text that changes nothing about a terminal but the place of the cursor: see ``UNPRINTABLE``."""
    return UNPRINTABLE.sub("\ufffd", text)
