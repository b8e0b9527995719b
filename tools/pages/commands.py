"""docs/commands.md: every command with what its ``--help`` prints."""

import contextlib
import importlib
import io
import os
from pathlib import Path

import yaml

WHAT = {
    "train": "trains and evaluates; a sweep with -m",
    "evaluate": "scores a finished run or any backbone, by any protocol, on any data set",
    "embed": "writes a vector for every image",
    "export": "writes the trained backbone for other libraries",
    "prepare": "decodes a folder of images once and for all",
    "study": "runs the table of a paper",
    "report": "makes a table of runs that there are",
    "show": "draws pictures of a run, of views and of mixers",
}
"""Command -> what it does, in the order in which a user meets them."""

LEAD = """# Commands

Made by `python -m tools.pages.readme` from what the commands print; a test compares.

From a source tree a command is a script, `python train.py` or `python scripts/evaluate.py`. An installed package has
the same under the names `ssl-train`, `ssl-evaluate` and so on. All take `key=value` as `train.py` does,
`--config-dir DIR` and `trust=[package]` ([a package of your own](plugins.md)).

| exit code | |
| --- | --- |
| 0 | complete |
| 1 | refused or failed: something has to be changed, and one sentence says what |
| 75 | something outside has stopped it, such as a full disk: the same command goes on |
| 128 + n | signal n has stopped it, after it saved: the same command goes on |
"""


def commands_page(root: Path) -> str:
    """docs/commands.md."""
    lines = [LEAD, "| command | script | |", "| --- | --- | --- |"]
    for name, what in WHAT.items():
        lines.append(f"| [`ssl-{name}`](#ssl-{name}) | `{script_of(name)}` | {what} |")
    for name in WHAT:
        text = help_of_train(root) if name == "train" else help_of(name)
        lines += ["", f"## ssl-{name}", "", "```text", text.strip(), "```"]
    return "\n".join(lines) + "\n"


def script_of(name: str) -> str:
    """What is typed in a source tree."""
    return {"train": "train.py", "prepare": "scripts/prepare_data.py"}.get(name, f"scripts/{name}.py")


def help_of(name: str) -> str:
    """What ``--help`` prints, 100 columns wide."""
    printed, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            importlib.import_module(f"ssl_framework.commands.{name}").main(["--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines())


def help_of_train(root: Path) -> str:
    """The parts of ``python train.py --help`` that do not depend on what is composed."""
    said = yaml.safe_load((root / "configs" / "train.yaml").read_text())["hydra"]["help"]
    options = (
        "python train.py [group=choice ...] [key=value ...]",
        "  -m                 several values of a key, separated by commas, are several runs",
        "  --cfg job          prints the whole config and ends",
        "  --help             prints all groups, their choices and the keys of this composition",
        "  --config-dir DIR   config files of your own beside the shipped ones",
        "  trust=[PACKAGE]    a package whose classes a config may name",
    )
    return "\n".join([said["header"], "", *options, "", said["footer"].replace("${typed:train}", "python train.py")])
