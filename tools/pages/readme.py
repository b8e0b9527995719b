"""Keeps README.md and docs true: ``python -m tools.pages.readme`` writes what is made of configs, tests and records.

Whole pages come from ``PAGES``; in pages written by hand, blocks between ``<!-- name -->`` and ``<!-- end -->``.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from tools.benchmark.command import meaning, number
from tools.chaos.record import story
from tools.pages.commands import commands_page
from tools.pages.compositions import compositions_page
from tools.pages.continued import continued_table
from tools.pages.families import families_page
from tools.pages.layouts import layouts_table
from tools.pages.method_pages import method_pages
from tools.pages.mixing import mixing_page
from tools.pages.modalities import modalities_table
from tools.pages.protocols import protocols_page
from tools.pages.reference import reference_pages
from tools.pages.studies import studies_page

BLOCK = re.compile(r"(<!-- (?P<name>[\w./-]+: [^\n]*?) -->\n).*?(<!-- end -->)", re.S)


def filled(text: str, root: Path, above: str = "") -> str:
    """A page's text with every block written anew.

    ``<!-- file: PATH -->`` shows a file as code, ``<!-- output: PATH -->`` a record of what a command printed,
    ``<!-- table: data -->`` what the configs of data say, ``<!-- table: speed -->`` the record of the benchmarks,
    ``<!-- table: chaos -->`` that of the campaign of kills, ``<!-- table: continue -->`` that of weights that were gone
    on from, ``<!-- table: layouts -->`` what is taken of checkpoints by others, ``<!-- table: embed -->`` that of
    vectors for a folder of files, ``<!-- table: budget -->`` what an epoch costs, ``<!-- table: modalities -->`` which
    method trains on which modality.

    Args:
        text: of the page.
        root: of the repository.
        above: the way from the page's folder to the root, such as "../".
    """

    def fill(match: re.Match) -> str:
        kind, _, what = match["name"].partition(": ")
        if kind == "table":
            content = re.sub(r"\]\((?!http|#)", f"]({above}", TABLES[what](root))
        else:
            language = "yaml" if what.endswith(".yaml") else ("python" if what.endswith(".py") else "text")
            content = f"```{language}\n{(root / what).read_text().rstrip()}\n```\n"
        return f"{match[1]}{content}{match[3]}"

    return BLOCK.sub(fill, text)


def data_table(root: Path) -> str:
    """Name, size, channels and the first sentence of each data config."""
    rows = ["| `data=` | size or length | channels | |", "| --- | --- | --- | --- |"]
    for path in sorted((root / "configs" / "data").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        said = ""
        for line in path.read_text().splitlines():
            if not re.match(r"# \S", line) or said.endswith((".", ":")):
                break
            said += line[1:]
        said = said.partition(": ")[2]
        first = re.split(r"(?<=[.)])\s", said)[0].rstrip(",:")
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


def budget_table(root: Path) -> str:
    """How long an epoch of so many images takes, by the record of the benchmarks."""
    record = json.loads((root / "results" / "speed" / "benchmark.json").read_text())
    about, steps = record["about"], record["step"]
    sizes = (10_000, 50_000, 1_000_000)
    rows = [f"| network | images a second | {' | '.join(f'epoch of {size:,}' for size in sizes)} |"]
    rows.append("| --- | --- |" + " --- |" * len(sizes))
    for name, said in (("tiny", "`backbone=tiny`"), ("resnet18", "`backbone=resnet18`")):
        rate = steps[f"{name}/images_per_second"]["median"]
        rows.append(f"| {said} | {number(rate)} | {' | '.join(duration(size / rate) for size in sizes)} |")
    return (
        "\n".join(rows) + f"\n\nSimCLR, two views of 32 px, {about['device']} ({about['cpu']}), float32: "
        "[results/speed](results/speed/benchmark.json). A GPU was not measured.\n"
    )


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


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
    **{"data": data_table, "speed": speed_table, "chaos": story, "embed": embed_line},
    **{"continue": continued_table, "budget": budget_table, "layouts": layouts_table, "modalities": modalities_table},
}
"""What a block can ask for."""

PAGES: dict[str, Callable[[Path], str]] = {
    "docs/commands.md": commands_page,
    "docs/compositions.md": compositions_page,
    "docs/families.md": families_page,
    "docs/mixing.md": mixing_page,
    "docs/evaluation.md": protocols_page,
    "docs/studies.md": studies_page,
}
"""Pages that are made as a whole."""

FOLDERS: dict[str, Callable[[Path], dict[str, str]]] = {
    "docs/methods": method_pages,
    "docs/reference": reference_pages,
}
"""Folder -> what makes its pages, and the page beside it that lists them: path -> text."""


def by_hand(root: Path) -> list[str]:
    """Pages that are written by hand, blocks aside."""
    made = {*PAGES, *(f"{folder}.md" for folder in FOLDERS), "docs/structure.md"}
    found = ["README.md", *(f"docs/{path.name}" for path in sorted((root / "docs").glob("*.md")))]
    return [name for name in found if name not in made]


def main() -> None:
    """Writes README.md and the pages of docs of this source tree anew."""
    root = Path(__file__).resolve().parents[2]
    for name, make in PAGES.items():
        (root / name).write_text(make(root))
    for folder, make_all in FOLDERS.items():
        pages = make_all(root)
        (root / folder).mkdir(exist_ok=True)
        for path in (root / folder).glob("*.md"):
            if f"{folder}/{path.name}" not in pages:
                path.unlink()
        for name, text in pages.items():
            (root / name).write_text(text)
    for name in by_hand(root):
        text = (root / name).read_text()
        (root / name).write_text(filled(text, root, "../" * name.count("/")))


if __name__ == "__main__":
    main()
