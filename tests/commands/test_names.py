"""The commands that a wheel installs: each is there, and calls itself in help, refusals and records as it was typed."""

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from ssl_framework import __version__
from ssl_framework.commands import train
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.messages import SCRIPTS, as_typed, command_line, typed

ROOT = Path(__file__).resolve().parents[2]
FOUND = re.findall(r'^(ssl-\w+) = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
ENTRY = {name: (module, function) for name, module, function in FOUND}
WITH_HELP = sorted(set(SCRIPTS) - {"train", "export"})


def test_every_command_is_installed_and_has_a_script() -> None:
    assert sorted(ENTRY) == sorted(f"ssl-{name}" for name in SCRIPTS)
    for name, (module, function) in ENTRY.items():
        assert (module, function) == ("ssl_framework.commands.entry", name.removeprefix("ssl-"))
        assert callable(getattr(importlib.import_module(module), function))
        assert callable(importlib.import_module(f"ssl_framework.commands.{function}").main)
        script = ROOT / SCRIPTS[function].removeprefix("python ")
        assert f"from {module} import {function}" in script.read_text()


@pytest.mark.parametrize("typed", ["ssl", "script"])
@pytest.mark.parametrize("command", WITH_HELP)
def test_help_names_the_command_as_it_was_typed(
    command: str, typed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    ours = f"ssl-{command}" if typed == "ssl" else SCRIPTS[command]
    monkeypatch.setattr(sys, "argv", [f"/opt/bin/ssl-{command}" if typed == "ssl" else ours.split()[-1], "--help"])
    try:
        importlib.import_module(f"ssl_framework.commands.{command}").main()
    except SystemExit as ended:
        assert ended.code == 0
    out = " ".join(capsys.readouterr().out.split())
    other = re.search(r"ssl-(?!framework)" if typed == "script" else r"scripts/|train\.py", out)
    assert ours in out and other is None


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_every_command_says_our_version(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [SCRIPTS[command].split()[-1], "--version"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"ssl_framework.commands.{command}").main()
    assert ended.value.code == 0 and capsys.readouterr().out == f"ssl_framework {__version__}\n"


@pytest.mark.parametrize(("argv", "ours"), [("/opt/bin/ssl-train", "ssl-train"), ("train.py", "python train.py")])
def test_the_training_command_names_itself_in_help_and_records(
    argv: str, ours: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", [argv, "--help"])
    with pytest.raises(SystemExit, match="0"):
        train.main()
    out = capsys.readouterr().out
    assert f"  {ours} resume=outputs/latest  " in out and out.count("ssl-train") == (5 if ours == "ssl-train" else 0)
    assert command_line(["method=dcl", "a=[1, 2]"], "-m") == f'{ours} -m method=dcl "a=[1, 2]"'


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("evaluate", [], "say which run: ssl-evaluate run=outputs/latest, or"),
        ("export", [], "error: say which run: ssl-export run=outputs/latest out=backbone.safetensors"),
        ("show", ["report"], "error: say which run: ssl-show report run=outputs/latest"),
        ("study", ["study=no"], "error: there is no study=no"),
        ("report", ["nowhere"], "error: the folder nowhere does not exist"),
    ],
)
def test_a_refusal_names_the_command_as_it_was_typed(
    command: str, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", [f"ssl-{command}", *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"ssl_framework.commands.{command}").main()
    told = f"{ended.value.code} {capsys.readouterr().err}"
    assert said in told and "scripts/" not in told


def test_other_commands_are_named_as_this_one_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "python scripts/prepare_data.py IMAGES, scripts/evaluate.py or python train.py -m"
    monkeypatch.setattr(sys, "argv", ["scripts/study.py"])
    assert as_typed(text) == text and typed("prepare") == "python scripts/prepare_data.py"
    monkeypatch.setattr(sys, "argv", ["ssl-study"])
    assert as_typed(text) == "ssl-prepare IMAGES, ssl-evaluate or ssl-train -m" and typed("train") == "ssl-train"
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py"])
    monkeypatch.setattr("ssl_framework.runs.messages.HERE", CONFIGS.parent)  # as where the package is installed
    assert typed("train") == "ssl-train"


def test_the_record_of_a_study_has_the_command_that_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.study.test_study import declare

    monkeypatch.chdir(tmp_path)
    name = declare(tmp_path / "declared")
    monkeypatch.setattr(sys, "argv", ["ssl-report", name])
    importlib.import_module("ssl_framework.commands.report").main()
    (command,) = tmp_path.rglob("command.txt")
    assert command.read_text() == f"ssl-report {name}\n"
    assert json.loads(command.with_name("about.json").read_text())["scale"] == "small"
