"""docs/evaluation.md: every protocol with its version and what it measures, and one checkpoint by all of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.numbers import shown

RECORD = Path("results") / "protocols"


LEAD = """# Evaluation protocols

`evaluation=<name>` chooses a protocol for a run, `python scripts/evaluate.py run=<folder> evaluation=<name>` measures a
checkpoint with it later. Samples are shown clean, to a network in eval mode, and every test sample counts once, unless
the table says something else; nothing is chosen on the test split. A metric's name carries its parameters;
`result.json` and `evaluation.json` carry the protocol's name, version and settings, and what the command changed in
them. A version fixes its settings: a test fails if they drift.

An interval is the 95 % bootstrap interval over test images (for an accuracy in closed form, the binomial's quantiles).
It says how far the number may be from that on other images, not how far other seeds of the training fall.
"""


def protocols_page(root: Path) -> str:
    """The page; made of configs/evaluation and of the record."""
    parts = [LEAD, "## The protocols\n", protocols_table(root)]
    path = RunFolder(root / RECORD).evaluation_file
    if path.is_file():
        parts += ["\n## One checkpoint by all protocols\n", record_lead(json.loads(path.read_text()))]
        parts += [record_table(json.loads(path.read_text()))]
    return "\n".join(parts)


def protocols_table(root: Path) -> str:
    """Name and version of each protocol, and the words at the head of its file."""
    lines = ["| `evaluation=` | version | measures |", "| --- | --- | --- |"]
    for path in sorted((root / "configs" / "evaluation").glob("*.yaml")):
        text = path.read_text()
        name, version = yaml.safe_load(text)["protocol"].split("/")
        lines.append(f"| [`{name}`](../configs/evaluation/{path.name}) | {version} | {header(text)} |")
    return "\n".join(lines) + "\n"


def header(text: str) -> str:
    """The comment at the head of a file, as one line."""
    said = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        said.append(line.removeprefix("#").strip())
    return " ".join(said).replace("|", "\\|")


def record_lead(record: Mapping[str, Any]) -> str:
    """Which checkpoint, which command, where."""
    model = record["model"]
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("torch", "timm", "scikit-learn"))
    return (
        f"{model['method']} on {model['data']}, seed {model['seed']}, {model['steps']:,} steps. `{record['command']}` "
        f"([record](../{RECORD.as_posix()})), {record['device']} ({record['cpu']}), {versions}. A metric that several "
        "protocols share stands with the first.\n"
    )


def record_table(record: Mapping[str, Any]) -> str:
    """Rows are the metrics of all protocols; beside the trained backbone's values the references'."""
    lines = ["| protocol | metric | trained (95 %) | untrained | raw pixels |", "| --- | --- | --- | --- | --- |"]
    seen: set[str] = set()
    results: Sequence[Mapping[str, Any]] = record.get("results", [record])
    for result in results:
        for metric, value in result["metrics"].items():
            if metric in seen:
                continue
            seen.add(metric)
            spread = result["intervals"].get(metric)
            ends = " ({}, {})".format(*(shown(metric, end) for end in spread)) if spread else ""
            others = [result["references"].get(name, {}).get(metric) for name in ("untrained", "raw_pixels")]
            cells = " | ".join("-" if other is None else shown(metric, other) for other in others)
            lines.append(f"| {result['protocol']['name']} | `{metric}` | {shown(metric, value)}{ends} | {cells} |")
    left_out = [f"`{name}` ({reason})" for why in record["left_out"].values() for name, reason in why.items()]
    return "\n".join(lines) + (f"\n\nLeft out: {'; '.join(left_out)}.\n" if left_out else "\n")
