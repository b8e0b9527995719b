"""Names from runs, folders and study files as each form takes them: what is text there stays text.

HTML is escaped by the templates (see ``html``), LaTeX by ``render.escaped``.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ssl_framework.runs.plain import printable

if TYPE_CHECKING:  # slow to import, and few tables have a picture
    from matplotlib.figure import Figure

FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r]")
"""How cells begin that a spreadsheet computes."""


def csv_cells(row: Iterable[Any]) -> list[Any]:
    """A row of a CSV file in which no text is a formula: an apostrophe comes before it, as spreadsheets have it."""
    return [csv_cell(cell) for cell in row]


def csv_cell(cell: Any) -> Any:
    """One cell; numbers stay, also those that are written out."""
    if not isinstance(cell, str) or is_number(cell):
        return cell
    text = printable(cell)
    return f"'{text}" if FORMULA.match(text) else text


def csv_text(cell: str) -> str:
    """What ``csv_cell`` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell[1:]) else cell


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return "\t" not in text and "\r" not in text


def markdown_text(text: str) -> str:
    """A text in a line of a page: no HTML, no line of its own."""
    return " ".join(printable(text).split()).replace("&", "&amp;").replace("<", "&lt;")


def markdown_cell(text: str) -> str:
    """A text in a table."""
    return markdown_text(text).replace("|", "\\|")


def terminal_text(text: str) -> str:
    """A text on a terminal that ``rich`` writes to: neither its markup nor a control sequence."""
    return printable(text).replace("[", r"\[")


def tick_text(text: str) -> str:
    """A name beside an axis: no formula."""
    return printable(text).replace("$", r"\$")


def tick_texts(names: Iterable[str]) -> list[str]:
    """Names beside an axis."""
    return [tick_text(name) for name in names]


def write_literally(figure: "Figure") -> None:
    """Has titles, labels, legends and words in a picture drawn as they stand. (Numbers beside axes are formulas.)"""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        legend = axes.get_legend()
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += [] if legend is None else legend.get_texts()
    for text in texts:
        text.set_parse_math(False)
