"""The table of docs/continue.md of checkpoints by others: what the line says of the fixture of each layout."""

from pathlib import Path

from ssl_framework.models.layouts import fitted, place_of, tensors_of
from tests.models.test_layouts import LAYOUTS


def layouts_table(root: Path) -> str:
    """A row a layout: a name in such a file, and what one line says when it is taken."""
    lines = ["| saved by | a name in such a file | what the line says of the test's |", "| --- | --- | --- |"]
    for layout, (make, lay_out) in LAYOUTS.items():
        content, here = lay_out(make(1).state_dict()), make(0)
        names = [name for name, _ in tensors_of(content)]
        place = place_of(names, set(here.state_dict()))
        assert place is not None, layout
        first = next(name for name in names if name.startswith(place.prefix))
        said = fitted(content, here, "the network").said
        lines.append(f"| {layout} | `{first}` | {said} |")
    return "\n".join(lines) + "\n"
