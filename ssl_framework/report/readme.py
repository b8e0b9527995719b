"""Keeps the README true: blocks between ``<!-- name -->`` and ``<!-- end -->`` come from configs, tests and records."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_class

from ssl_framework.benchmark.command import meaning, number

BLOCK = re.compile(r"(<!-- (?P<name>[\w./-]+: [^\n]*?) -->\n).*?(<!-- end -->)", re.S)


def filled(text: str, root: Path) -> str:
    """The README's text with every block written anew.

    ``<!-- file: PATH -->`` shows a file as code, ``<!-- output: PATH -->`` a record of what a command printed,
    ``<!-- table: methods -->`` and ``<!-- table: data -->`` what the configs say, ``<!-- table: speed -->`` the record
    of the benchmarks.

    Args:
        text: the README.
        root: of the repository.
    """

    def fill(match: re.Match) -> str:
        kind, _, what = match["name"].partition(": ")
        if kind == "table":
            content = {"methods": method_table, "data": data_table, "speed": speed_table}[what](root)
        else:
            language = "yaml" if what.endswith(".yaml") else ("python" if what.endswith(".py") else "text")
            content = f"```{language}\n{(root / what).read_text().rstrip()}\n```\n"
        return f"{match[1]}{content}{match[3]}"

    return BLOCK.sub(fill, text)


def header(path: Path) -> str:
    """The comment at a config's top, as one line, without Hydra's own."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(line for line in lines if not line.startswith("@package"))


def method_table(root: Path) -> str:
    """Name, paper, what it needs, and the test that holds it to its reference."""
    rows = ["| `method=` | paper | needs | status: equal to | test |", "| --- | --- | --- | --- | --- |"]
    for path in sorted((root / "configs" / "method").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        paper = re.split(r"(?<=\d{5}\))", header(path).partition(": ")[2])[0]  # up to the arXiv number
        objective: Any = get_class(config["objective"]["_target_"])
        needs = sorted(objective.requires) + (["queue"] if "queue" in config["objective"] else [])
        module = objective.__module__.rpartition(".")[2]
        test = path.stem if (root / "tests" / "objectives" / f"test_{path.stem}.py").exists() else module
        tested = (root / "tests" / "objectives" / f"test_{test}.py").read_text()
        status = "golden value and loop" if "golden(" in tested else "loop"
        link = f"[test_{test}.py](tests/objectives/test_{test}.py)"
        name = f"[`{path.stem}`](configs/method/{path.name})"
        rows.append(f"| {name} | {paper} | {', '.join(needs) or '-'} | {status} | {link} |")
    return "\n".join(rows) + "\n"


def data_table(root: Path) -> str:
    """Name, size, channels and the first sentence of each data config."""
    rows = ["| `data=` | px | channels | |", "| --- | --- | --- | --- |"]
    for path in sorted((root / "configs" / "data").glob("*.yaml")):
        config = yaml.safe_load(path.read_text())
        line = path.read_text().splitlines()[0].partition(": ")[2]
        first = re.split(r"(?<=[.)])\s", line)[0].rstrip(",:")
        rows.append(
            f"| [`{path.stem}`](configs/data/{path.name}) | {config['image_size']} | {config['channels']} | {first} |"
        )
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


def main() -> None:
    """Writes README.md of this source tree anew."""
    root = Path(__file__).resolve().parents[2]
    path = root / "README.md"
    path.write_text(filled(path.read_text(), root))


if __name__ == "__main__":
    main()
