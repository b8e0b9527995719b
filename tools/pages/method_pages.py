"""docs/methods.md, which lists all methods by what they need, and one page a method below docs/methods."""

import ast
import functools
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, variance

import yaml

from ssl_framework.report.comparison import Record, protocol_line, read_record
from ssl_framework.runs.numbers import short
from tools.pages.methods import (
    GROUPS,
    HIDDEN,
    RECORD,
    SHOWN,
    Method,
    chosen_by,
    comment,
    needs_of,
    read_methods,
    reference_lines,
)
from tools.pages.studies import anchor

MADE = "Made by `python -m tools.pages.readme` from the configs, the tests and the records; a test compares."

EVERY_METHOD = (
    ("test_ddp", "two processes equal one in loss, gradient and memory"),
    (
        "test_methods",
        "every trainable parameter moves, the same seed gives the same steps, and half precision stays near float32",
    ),
    ("test_configs", "it composes with every data set that has what it needs, and builds"),
)
"""Tests that every method goes through, and what they show."""


def method_pages(root: Path) -> dict[str, str]:
    """Path -> text of docs/methods.md and of the page of each method."""
    found = {where: read_record(root / where) for where in (RECORD, HIDDEN)}
    records = {where: record for where, record in found.items() if record is not None}
    methods, used = read_methods(root), studies_of(root)
    pages = {f"docs/methods/{one.name}.md": method_page(root, one, records, used.get(one.name, [])) for one in methods}
    return {"docs/methods.md": index_page(root, methods, records), **pages}


def index_page(root: Path, methods: list[Method], records: Mapping[Path, Record]) -> str:
    """One short table a group; with a record, k-NN on ``SHOWN`` and what it means below. Methods that hide patches have
    a record of their own, on another network."""
    lines = ["# Methods", "", MADE, "", lead(root, bool(records)), ""]
    shown = {where: record for where, record in records.items() if SHOWN in record.sheet.metrics}
    for group in GROUPS:
        members = [method for method in methods if method.group == group]
        if not members:
            continue
        record = shown.get(HIDDEN if group == GROUPS[7] else RECORD)
        data_sets = sorted(record.sheet.columns, reverse=True) if record else []
        head = ["method", "paper", "equal to", *(f"{data} k-NN" for data in data_sets)]
        lines += [f"## {group}", "", f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
        for method in members:
            paper = ", ".join(filter(None, (method.authors, method.venue, method.link)))
            notes = [word for kind, word in NOTED.items() if method.notes[kind]]
            row = [f"[`{method.name}`](methods/{method.name}.md)", paper, "; ".join([method.shows, *notes])]
            row += [record.shown(method.name, data, SHOWN) for data in data_sets] if record else []
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    if shown:
        lines += ["## How the numbers were made", ""]
    for where, record in shown.items():
        which = f"k-NN of the group {GROUPS[7]!r}" if where == HIDDEN else "k-NN"
        lines += [f"{which} is {short(SHOWN)}. {protocol_line(record.about)} [Record](../{where})", ""]
        lines += reference_lines(record) + untrained_lines(record)
        hiding = {method.name for method in methods if method.group == GROUPS[7]}
        if where == HIDDEN and (others := [row for row in record.sheet.rows if row not in hiding]):
            scores = {
                row: ", ".join(f"{data} {record.shown(row, data, SHOWN)}" for data in record.sheet.columns)
                for row in others
            }
            lines += [f"- beside them: {'; '.join(f'{row} {score}' for row, score in scores.items())}", ""]
    return "\n".join([*lines, *contents("methods")]) + "\n"


def untrained_lines(record: Record) -> list[str]:
    """One line a data set: the methods whose mean is not two pooled deviations over seeds above that of the untrained
    network."""
    lines = []
    for data in record.sheet.columns:
        scores: dict[str, list[float]] = {}
        for entry in record.sheet.entries:
            if entry.column == data and SHOWN in entry.values:
                scores.setdefault(entry.row, []).append(entry.values[SHOWN])
        untrained = [own[SHOWN] for own in record.about["references"].get(data, {}).get("untrained", {}).values()]
        if min(map(len, [untrained, *scores.values()]), default=0) > 1:
            low = [name for name, own in scores.items() if not apart(own, untrained)]
            said = ", ".join(f"`{name}`" for name in low) or "none"
            lines += [
                f"- {data}: {len(scores) - len(low)} of {len(scores)} methods are above the untrained network by "
                f"more than two pooled deviations; the others: {said}"
            ]
    return [*lines, ""] if lines else []


def apart(own: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the mean of one group is above that of another by more than two pooled standard deviations."""
    return mean(own) - mean(other) > 2 * math.sqrt((variance(own) + variance(other)) / 2)


def contents(folder: str) -> list[str]:
    """What tells Sphinx of the pages below a page."""
    return ["```{toctree}", ":hidden:", ":glob:", "", f"{folder}/*", "```"]


KINDS_SAID = {
    "reference code": "the authors' public code",
    "formula": "the paper's formula, computed apart from this code",
}

NOTED = {"Unverified": "unverified detail", "Differs": "differs"}


def lead(root: Path, with_numbers: bool) -> str:
    """What the tables show."""
    lines = (
        "`python train.py method=<name>` trains one. The pages say what each is made of, how it differs from its "
        "paper, what its tests hold and what it scored.",
        "*Equal to* says what a test compares the loss with, beside a loop over samples in float64: a golden value of "
        "the authors' public code, or one of the paper's formula, computed apart from this code.",
        "The k-NN columns check that every method trains. They are no ranking: the runs are short, a few epochs on a "
        "CPU ([how long](#how-the-numbers-were-made)), and methods with a teacher or a memory have hardly begun. "
        "Below the tables it says which are no better than an untrained network. Not run are methods with another "
        "network (those that hide patches), other data than pictures, a trained teacher or few labels, and generated "
        "images that the data lack.",
        f"The [record](../{RECORD}) was made by [these commands](../{RECORD}/command.txt), or by `python -m "
        "tools.comparison outputs/comparison`, which runs what it lacks.",
    )
    return "\n\n".join(lines if with_numbers else lines[:2])


def method_page(
    root: Path, method: Method, records: Mapping[Path, Record], studies: list[tuple[str, str, bool]]
) -> str:
    """One method."""
    cited = [method.authors, f"*{method.paper}*", method.venue, f"arXiv:{method.link}" if method.link else ""]
    file = f"configs/method/{method.name}.yaml"
    lines = [f"# {method.name}", "", f"{method.title}: {', '.join(filter(None, cited))}.", ""]
    lines += ["```", method.command, "```", "", "## The loss", ""]
    for source in (name for name in method.files if name.endswith(".py")):
        lines += [f"[{'/'.join(Path(source).parts[-2:])}](../../{source})", "", *loss_text(root / source), ""]
    if code := forward_of(root, method.target):
        lines += ["What the objective computes, as it stands in the code:", "", "```python", code, "```", ""]
    lines += ["## What it is made of", "", *composition(root, method), ""]
    lines += [f"[`{file}`](../../{file}):", "", "```yaml", (root / file).read_text().rstrip(), "```", ""]
    accepted = [f"`{name}`" + " (its own)" * (name == method.feature_mixer) for name in method.feature_mixers]
    mixtures = f"{' or '.join(method.mixtures)} ([which](../mixing.md))" if method.mixtures else "not taken"
    lines += [
        f"- Needs: {needs_of(method)}.",
        f"- Mixed images: {mixtures}.",
        f"- Feature mixers: {', '.join(accepted) or 'none'}.",
        "",
        "## Where it differs from the paper",
        "",
    ]
    notes = [
        f"- {'Not verified: ' * (kind == 'Unverified')}{text}" for kind, texts in method.notes.items() for text in texts
    ]
    lines += [
        *(
            notes
            or ["Nothing is known to differ but what the comments of the YAML files name: sizes, rates, optimizer."]
        ),
        "",
    ]
    lines += ["## What tests hold", "", *tested(root, method), ""]
    lines += ["## Numbers", "", *numbers(method, records)]
    for name, title, kept in studies:
        place = f"#{anchor(title)}" if kept else ""
        lines.append(f"- Study [`{name}`](../studies.md{place}): {title}{'' if kept else ' (not run yet)'}")
    return "\n".join(lines).rstrip() + "\n"


@functools.cache
def loss_text(path: Path) -> list[str]:
    """The docstring of an objective's module as markdown: paper and equation, and what it does."""
    said = inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text())) or "")
    lines: list[str] = []
    for paragraph in said.split("\n\n"):
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            lines += ["```", inspect.cleandoc(paragraph), "```", ""]
        else:
            lines += [prose(paragraph), ""]
    return lines[:-1]


@functools.cache
def forward_of(root: Path, target: str) -> str:
    """The source of ``forward`` of a class, or of a base of it in the same file; "" where it is elsewhere."""
    module, _, name = target.rpartition(".")
    text = (root / f"{module.replace('.', '/')}.py").read_text()
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    while name in classes:
        for node in classes[name].body:
            if isinstance(node, ast.FunctionDef) and node.name == "forward":
                return inspect.cleandoc("\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]))
        name = next((base.id for base in classes[name].bases if isinstance(base, ast.Name)), "")
    return ""


def prose(text: str) -> str:
    """Text of a docstring, nothing in it markup but code."""
    parts = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(one if one.startswith("`") else re.sub(r"([*_<\[\]|])", r"\\\1", one) for one in parts)


def composition(root: Path, method: Method) -> list[str]:
    """Each part that the method chooses, with what its file says of it."""
    chosen = chosen_by(yaml.safe_load((root / "configs" / "method" / f"{method.name}.yaml").read_text()))
    rows = ["| part | choice | |", "| --- | --- | --- |"]
    for group, name in sorted(chosen.items(), key=lambda one: ORDER.get(one[0], len(ORDER))):
        path = root / "configs" / group / f"{name}.yaml"
        if name != "none" and path.is_file():
            said = " ".join(line.strip() for line in comment(path)).replace("|", "\\|")
            rows.append(f"| {group} | [`{name}`](../reference/{group}.md#{name}) | {said} |")
    return rows


ORDER = {
    name: place for place, name in enumerate(("views", "mixer", "masker", "backbone", "head", "teacher", "objective"))
}


def tested(root: Path, method: Method) -> list[str]:
    """What the loss is compared with, and the tests by their names."""
    kinds = ", ".join(
        f"{count} golden value{'s' * (count > 1)} of {KINDS_SAID[kind]}" for kind, count in method.golden.items()
    )
    lines = [f"Its loss is compared with a loop in float64{' and with ' + kinds if kinds else ''}"
             f"{' (loss of `' + method.loss_of + '`)' if method.loss_of else ''}.", ""]  # fmt: skip
    for name in method.tests:
        said = "; ".join(names_of(root / "tests" / name))
        lines.append(f"- [{Path(name).name}](../../tests/{name}): {said}")
    lines += [f"- [{name}.py](../../tests/{name}.py): {what}" for name, what in EVERY_METHOD]
    return lines


@functools.cache
def names_of(path: Path) -> tuple[str, ...]:
    """The tests of a file as sentences."""
    found = re.findall(r"^def test_(\w+)", path.read_text(), re.M)
    return tuple(name.replace("_", " ") for name in found)


def numbers(method: Method, records: Mapping[Path, Record]) -> list[str]:
    """What it scored in the comparisons, with the number of seeds."""
    having = [record for record in records.values() if method.name in record.sheet.rows]
    if not having:
        return ["It is not in the [comparison of all methods](../methods.md).", ""]
    metrics = having[0].sheet.metrics
    lines = [f"| | {' | '.join(f'`{short(metric)}`' for metric in metrics)} |", "| --- |" + " --- |" * len(metrics)]
    for record in having:
        backbone = f", {record.about['protocol']['backbone']}" if len(having) > 1 else ""
        for data in record.sheet.columns:
            shown = [record.shown(method.name, data, metric) for metric in metrics]
            lines.append(f"| {data}{backbone} | {' | '.join(shown)} |")
    said = "Top-1 in percent, mean ± standard deviation (seeds), after a short run on a CPU: a check, no ranking"
    return [*lines, "", f"{said}. [How they were made](../methods.md#how-the-numbers-were-made).", ""]


def studies_of(root: Path) -> dict[str, list[tuple[str, str, bool]]]:
    """Method -> name, title and whether there is a record of each study that trains it."""
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for path in sorted((root / "configs" / "study").rglob("*.yaml")):
        text, name = path.read_text(), path.relative_to(root / "configs" / "study").with_suffix("").as_posix()
        title = re.search(r"^title: (.*)$", text, re.M)
        kept = (root / "results" / "studies" / name / "results.csv").is_file()
        for method in dict.fromkeys(methods_in(text)):
            found.setdefault(method, []).append((name, title[1].strip("\"'") if title else name, kept))
    return found


def methods_in(text: str) -> Iterator[str]:
    """The methods that overrides in a file name."""
    for said in re.findall(r"\bmethod=([\w,]+)", text):
        yield from said.split(",")
