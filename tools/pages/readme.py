"""Keeps the README true: blocks between ``<!-- name -->`` and ``<!-- end -->`` come from configs, tests and records."""

import json
import re
from pathlib import Path

import yaml

from tools.benchmark.command import meaning, number
from tools.chaos.record import story
from tools.pages.compositions import compositions_page
from tools.pages.continued import continued_table
from tools.pages.families import families_page
from tools.pages.layouts import layouts_table
from tools.pages.methods import method_tables, methods_page
from tools.pages.mixing import mixing_page
from tools.pages.protocols import protocols_page
from tools.pages.studies import studies_page

BLOCK = re.compile(r"(<!-- (?P<name>[\w./-]+: [^\n]*?) -->\n).*?(<!-- end -->)", re.S)


def filled(text: str, root: Path) -> str:
    """The README's text with every block written anew.

    ``<!-- file: PATH -->`` shows a file as code, ``<!-- output: PATH -->`` a record of what a command printed,
    ``<!-- table: methods -->`` and ``<!-- table: data -->`` what configs, tests and the record of the comparison say,
    ``<!-- table: speed -->`` the record of the benchmarks, ``<!-- table: chaos -->`` that of the campaign of kills,
    ``<!-- table: continue -->`` that of weights that were gone on from, ``<!-- table: layouts -->`` what is taken of
    checkpoints by others,
    ``<!-- table: embed -->`` that of vectors for a folder of files.

    Args:
        text: the README.
        root: of the repository.
    """

    def fill(match: re.Match) -> str:
        kind, _, what = match["name"].partition(": ")
        if kind == "table":
            content = TABLES[what](root)
        else:
            language = "yaml" if what.endswith(".yaml") else ("python" if what.endswith(".py") else "text")
            content = f"```{language}\n{(root / what).read_text().rstrip()}\n```\n"
        return f"{match[1]}{content}{match[3]}"

    return BLOCK.sub(fill, text)


def data_table(root: Path) -> str:
    """Name, size, channels and the first sentence of each data config."""
    rows = ["| `data=` | px or points | channels | |", "| --- | --- | --- | --- |"]
    for path in sorted((root / "configs" / "data").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        line = path.read_text().splitlines()[0].partition(": ")[2]
        first = re.split(r"(?<=[.)])\s", line)[0].rstrip(",:")
        size = config.get("image_size", config.get("length", "-"))
        channels = config.get("channels", "-")
        rows.append(f"| [`{path.stem}`](configs/data/{path.name}) | {size} | {channels} | {first} |")
    return "\n".join(rows) + "\n"


def speed_table(root: Path) -> str:
    """Every figure of the benchmarks' record, and where it was measured."""
    record = json.loads((root / "results" / "speed" / "benchmark.json").read_text())
    about = record.pop("about")
    rows = ["| | median | min to max | |", "| --- | --- | --- | --- |"]
    for benchmark, figures in record.items():
        for name, value in figures.items():
            median, low, high = (number(value[key]) for key in ("median", "min", "max"))
            spread = "one call" if low == high else f"{low} to {high}"
            rows.append(f"| `{benchmark}` {name} | {median} | {spread} | {meaning(benchmark, name)} |")
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("torch", "lightning", "timm"))
    return "\n".join(rows) + f"\n\nMeasured on {about['device']} ({about['cpu']}), {versions}.\n"


def embed_line(root: Path) -> str:
    """How fast a folder of files becomes vectors, in a sentence."""
    record = json.loads((root / "results" / "embed" / "benchmark.json").read_text())
    figures, about = record["embed"], record["about"]
    rate, times, files = (figures[key] for key in ("ours_images_per_minute", "bare_over_ours", "images"))
    return (
        f"{files['median']:,.0f} PNG files of 32 px become vectors of the tiny net at {number(rate['median'])} a\n"
        f"minute ({number(rate['min'])} to {number(rate['max'])}), {number(times['median'])} times as fast as a loop\n"
        f"of Pillow and torch over them ({number(times['min'])} to {number(times['max'])}),\n"
        f"on {about['device']} ({about['cpu']}): [results/embed](results/embed/command.txt).\n"
    )


TABLES = {
    **{"methods": method_tables, "data": data_table, "speed": speed_table, "chaos": story, "embed": embed_line},
    "continue": continued_table,
    "layouts": layouts_table,
}
"""What a block can ask for."""

FILLED = ("README.md", "docs/continue.md")
"""Pages with blocks."""


def main() -> None:
    """Writes README.md and the pages of docs of this source tree anew."""
    root = Path(__file__).resolve().parents[2]
    (root / "docs" / "compositions.md").write_text(compositions_page(root))
    (root / "docs" / "families.md").write_text(families_page(root))
    (root / "docs" / "mixing.md").write_text(mixing_page(root))
    (root / "docs" / "methods.md").write_text(methods_page(root))
    (root / "docs" / "evaluation.md").write_text(protocols_page(root))
    (root / "docs" / "studies.md").write_text(studies_page(root))
    for name in FILLED:
        (root / name).write_text(filled((root / name).read_text(), root))


if __name__ == "__main__":
    main()
