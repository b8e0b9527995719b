"""docs/studies.md: every study that is declared, and the tables of those of which the repository keeps a record."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_framework.report.comparison import as_list, said_of
from ssl_framework.report.render import markdown
from ssl_framework.report.results_csv import read_csv
from ssl_framework.report.sheet import TRUST, Sheet, cells, verdicts
from ssl_framework.study.declaration import Study, names_of_studies, read_study
from ssl_framework.study.record import lead_of, sheet_of

RECORDS = Path("results") / "studies"


LEAD = """# Studies

A study declares a table of a paper: rows and columns as overrides, seeds, metrics with their protocol, the published
numbers with their source and how far they can be trusted, and two scales. One command runs what is missing of it and
writes the table; stopped at any time, the same command goes on:

```
python scripts/study.py study=dcl/batch_size scale=small data.root=data jobs=2
python scripts/study.py study=dcl/batch_size --dry-run      # what would run, and for how long
```

`scale=paper` is the published setting as far as it is known. `scale=small` takes minutes on two CPU cores.
`scale=long` takes hours on them, and states what the paper leads one to expect as effects: a difference of cells, the
least size that counts, and a test. Its criterion stands in the declaration before the runs are made, and the table
says of each effect whether it was seen, was not seen, or went the other way. The tables below are computed from the
records; each says of which scale it is and what that can and cannot show. The runs shared two cores with other work:
their seconds are upper bounds.
"""


def studies_page(root: Path) -> str:
    """The page; made of configs/study and of the records."""
    names = names_of_studies(root / "configs" / "study")
    parts = [LEAD, "## All studies\n", overview(root, names)]
    parts += [section(root, name) for name in names if (root / RECORDS / name / "results.csv").is_file()]
    return "\n".join(parts)


def overview(root: Path, names: list[str]) -> str:
    """One row a study."""
    lines = ["| `study=` | rows x columns x seeds | published numbers | record | effects seen |", "| --- " * 5 + "|"]
    for name in names:
        study = read_study(name, root / "configs" / "study")
        size = f"{len(study.rows)} x {len(study.columns)} x {len(study.seeds)}"
        trust = "none" if study.published is None else TRUST[study.published.trust]
        kept = (root / RECORDS / name / "results.csv").is_file()
        record = f"[table](#{anchor(study.title)})" if kept else ""
        seen = seen_of(root, study) if kept else ""
        lines.append(
            f"| [`{name}`](../configs/study/{name}.yaml) {study.title} | {size} | {trust} | {record} | {seen} |"
        )
    return "\n".join(lines) + "\n"


def seen_of(root: Path, study: Study) -> str:
    """``2 of 3, 1 opposite``; a dash where the record is of a scale at which no effect is looked for."""
    sheet = recorded(root, study)
    words = [verdict.word for verdict in verdicts(sheet, cells(sheet))]
    opposite = f", {count} opposite" if (count := words.count("opposite")) else ""
    return f"{words.count('seen')} of {len(words)}{opposite}" if words else "-"


def recorded(root: Path, study: Study) -> Sheet:
    """The table that a record is of."""
    folder = root / RECORDS / study.name
    about = json.loads((folder / "about.json").read_text())
    return sheet_of(study, read_csv((folder / "results.csv").read_text()), about["scale"], about["target"])


def anchor(title: str) -> str:
    """Of a heading, as GitHub names it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def section(root: Path, name: str) -> str:
    """The tables of a record, and what they were measured with."""
    folder = root / RECORDS / name
    study, about = read_study(name, root / "configs" / "study"), json.loads((folder / "about.json").read_text())
    sheet = recorded(root, study)
    plot = f"![{study.title}](../{RECORDS.as_posix()}/{name}/plot.png)\n\n" if (folder / "plot.png").is_file() else ""
    lead = "\n\n".join(lead_of(study, about["scale"]))
    return f"## {study.title}\n\n{lead}\n\n{plot}{markdown(sheet)}\n{measured(study, about)}\n"


def measured(study: Study, about: Mapping[str, Any]) -> str:
    """Where, with what, and the folder of the record."""
    versions = as_list(about["versions"])
    used = " or ".join(
        dict.fromkeys(", ".join(f"{name} {each[name]}" for name in ("torch", "lightning", "timm")) for each in versions)
    )
    hardware = ", ".join(said_of(about[name]) for name in ("device", "cpu"))
    return (
        f"Metrics: {', '.join(f'`{name}`' for name in study.metrics.values())}. {hardware}; {used}; commit "
        f"{said_of(about['commit'])}. [Record](../{RECORDS.as_posix()}/{study.name})."
    )
