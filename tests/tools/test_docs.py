"""README and docs: links lead somewhere, code runs or composes, every key is described, and the site builds."""

import functools
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

import ssl_framework
from ssl_framework.objectives.supcon import SupCon
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.runs.typed_paths import with_paths_quoted
from tests.small_runs import command_in, put_together
from tools.pages.commands import commands_page
from tools.pages.readme import FOLDERS, PAGES, by_hand
from tools.pages.reference import argument, groups, reference_pages, undocumented

ROOT = Path(__file__).resolve().parents[2]
BY_HAND = by_hand(ROOT)
TEXTS = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "examples/plugin/README.md", *BY_HAND]
"""What is written by hand."""


class Block(NamedTuple):
    """A piece of code of a page."""

    page: str
    language: str
    text: str


@functools.cache
def blocks() -> tuple[Block, ...]:
    """All code of ``TEXTS`` but what comes from records."""
    found = []
    for page in (*TEXTS, "docs/mixing.md"):
        text = re.sub(r"<!-- [\w./-]+: [^\n]*? -->\n.*?<!-- end -->", "", (ROOT / page).read_text(), flags=re.S)
        for match in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```", text, re.S | re.M):
            if not match[1].startswith("{"):
                found.append(Block(page, match[1], match[2]))
    return tuple(found)


def commands() -> Iterator[tuple[str, str, str]]:
    """Page, command and the line below it, of all that a page has in blocks or within a line."""
    for page, language, text in blocks():
        if language in ("", "console", "bash"):
            lines = text.replace("\\\n", " ").splitlines()
            for line, below in zip(lines, [*lines[1:], ""], strict=True):
                if re.match(r"(\$ )?(\w+=\S+ )*(python|make|pip|torchrun|srun|ssl-)\b", line):
                    yield page, re.sub(r"\s+#.*", "", line.removeprefix("$ ")).strip(), below
    for page in BY_HAND:
        text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.S | re.M)
        for said in re.findall(r"`((?:python (?:train\.py|scripts/)|make |pip install )[^`]*)`", text):
            yield page, " ".join(said.replace("\\|", "|").split()), ""


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    """The headings of a page, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"^#+ (.*)$", text, re.M))
    return frozenset(re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in plain)


def test_no_link_is_dead() -> None:
    pages = [ROOT / name for name in TEXTS] + sorted((ROOT / "docs").glob("**/*.md"))
    dead = []
    for page in dict.fromkeys(pages):
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        for name, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#]*)#?([^)]*)\)", text):
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {name}#{anchor}")
    assert not dead, "\n".join(dead)


def test_the_site_lists_every_page() -> None:
    """Sphinx would warn of a page that no list has."""
    listed = set(re.findall(r"^(\w+)$", (ROOT / "docs" / "index.md").read_text(), re.M))
    assert listed >= {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    for folder in FOLDERS:
        assert f"{Path(folder).name}/*" in (ROOT / f"{folder}.md").read_text()


def test_the_readme_is_short_and_has_no_badge() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 15_000 and "badge" not in text and "shields.io" not in text


def test_every_key_is_described() -> None:
    """In its file, in the docstring of what it constructs, or in tools/pages/reference.py."""
    assert undocumented(ROOT) == []
    assert {"objective", "data", "trainer", "views"} <= set(groups(ROOT))


@pytest.mark.parametrize("made", ["commands", "reference"])
def test_generated_pages_are_up_to_date(made: str) -> None:
    """To mend it: python -m tools.pages.readme"""
    pages = {"docs/commands.md": commands_page(ROOT)} if made == "commands" else reference_pages(ROOT)
    for name, text in pages.items():
        assert (ROOT / name).read_text() == text, name
    if made == "reference":
        assert {path.name for path in (ROOT / "docs" / "reference").glob("*.md")} == {
            Path(name).name for name in pages if name != "docs/reference.md"
        }


def test_every_generated_page_is_held_by_a_test() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for make in (*PAGES.values(), *FOLDERS.values()):
        assert f"{make.__name__}(ROOT)" in text or f", {make.__name__})" in text, make.__name__


def test_yaml_and_toml_can_be_read() -> None:
    for page, language, text in blocks():
        if language == "yaml":
            assert yaml.safe_load(text), page
        if language == "toml" and sys.version_info >= (3, 11):
            import tomllib

            assert tomllib.loads(text), page


PRELUDE = {
    "docs/api.md": "composition = ssl_framework.compose('method=simclr', 'data=shapes')\n",
    "docs/plugins.md": "from ssl_framework.arguments import *\nfrom ssl_framework.arguments import guarded\n"
    "from ssl_framework.objectives.base import Objective\n",
}
"""What the code of a page takes for granted."""


@pytest.mark.parametrize("page", sorted({b.page for b in blocks() if b.language == "python"}))
def test_python_of_a_page_runs(page: str) -> None:
    names = {
        **{"ssl_framework": ssl_framework, "torch": torch, "images": torch.zeros(4, 3, 32, 32, dtype=torch.uint8)},
        "net": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8)),
    }
    exec(PRELUDE.get(page, ""), names)
    for block in blocks():
        if block.page == page and block.language == "python":
            exec(block.text, names)


def test_what_is_said_by_another_class_stands_where_it_is_referred_to() -> None:
    said = argument("ssl_framework.objectives.clip.CLIP", "temperature")[1]
    assert said.startswith("1 / scale in the first step")
    assert argument("ssl_framework.objectives.coca.CoCa", "temperature")[1] == said
    assert argument("ssl_framework.objectives.msd.MSD", "temperature")[1].startswith(said.rstrip(".") + "; the moving")


def test_what_python_is_said_to_refuse_is_refused() -> None:
    (said,) = [b.text for b in blocks() if b.text.startswith(">>> SupCon")]
    with pytest.raises(ValueError) as error:
        SupCon(0.1, 0.1).loss_of(torch.randn(4, 8), torch.randn(4, 8))
    assert said.splitlines()[1] == f"ValueError: {error.value}"


ELSEWHERE = re.compile(
    r"OMPI_COMM_WORLD_RANK|trainer=ddp_cpu trainer\.(devices=3|hang|max_epochs=500)|mylab|align_uniform|trust="
)
"""Commands of several processes, which tests/training/test_launch.py runs, and those of the template of a package,
which tests/examples/test_plugin.py installs."""

OPTIONS = re.compile(r"^(-m|--cfg|job|--help|\.\.\.|\[?group=.*|\[?key=.*|hydra[./].*|resume=.*|method=<name>)$")
"""Words of a training command that compose nothing."""


PLAIN = ("method", "data", "trainer", "data.root", "data.download", "trainer.max_epochs", "trainer.max_steps")
"""Keys that any composition has."""


def is_elsewhere(command: str) -> bool:
    """Whether another test runs it."""
    return ELSEWHERE.search(command) is not None


def test_every_command_exists_and_composes() -> None:
    """What trains is composed, of a sweep the first job; of others, every file and choice that they name exists."""
    wrong, seen = [], 0
    for page, command, below in commands():
        if below.startswith("error:") or is_elsewhere(command):
            continue
        seen += 1
        try:
            check(command)
        except Exception as error:
            wrong.append(f"{page}: {command}: {type(error).__name__}: {error}")
    assert not wrong and seen > 60, "\n".join(wrong)


def check(command: str) -> None:
    """One command."""
    if command.startswith("make"):
        target = command.split()[1:2]
        assert not target or f"\n{target[0]}:" in (ROOT / "Makefile").read_text(), "no such target"
    elif command.startswith("pip"):
        extras = re.findall(r"\[(\w+)\]", command)
        said = (ROOT / "pyproject.toml").read_text()
        assert all(f"\n{extra} = [" in said for extra in extras), "no such extra"
    elif "train.py" in command or command.startswith("ssl-train"):
        composes(command.partition("train.py")[2])
    elif match := re.search(r"(?:scripts/(\w+)\.py|-m tools\.([\w.]+)|tools/(\w+)\.py)(.*)", command):
        script, module, tool, rest = match.groups()
        where = f"scripts/{script}" if script else "tools/" + (module or tool).replace(".", "/")
        assert (ROOT / f"{where}.py").is_file() or (ROOT / where / "__main__.py").is_file(), "no such file"
        choices_exist(shlex.split(rest))


@functools.cache
def composes(text: str) -> None:
    """The words behind ``train.py``."""
    words = [word for word in shlex.split(text) if not OPTIONS.match(word)]
    if any("NAME" in word or word.endswith("=") for word in words):
        choices_exist([word for word in words if "NAME" not in word])
        return
    if "-m" in text.split():  # the first job
        words = [word if "hparams_search" in word else re.sub(r"=([^,\[]*),.*", r"=\1", word) for word in words]
    words = [word for word in words if not word.startswith("hparams_search")]
    choices_exist(words)
    if all(word.partition("=")[0] in PLAIN for word in words):
        return  # tests/test_configs.py composes every method with every data set
    put_together(*with_paths_quoted(words))


def choices_exist(words: list[str]) -> None:
    """Of every word that chooses a file."""
    for word in words:
        group, _, names = word.partition("=")
        if (CONFIGS / group).is_dir() and "=" in word and not re.search(r"[A-Z<\[:.]", names):
            for name in names.split(","):
                assert name == "all" or (CONFIGS / group / f"{name}.yaml").is_file(), f"no {group}={name}"


REFUSED = sorted(
    {(command, below) for _, command, below in commands() if below.startswith("error:") and "train.py" in command}
    - {(command, below) for _, command, below in commands() if is_elsewhere(command) and "trust=[os]" not in command}
)


def test_commands_that_are_said_to_be_refused_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """In the very words of the page."""
    call = command_in(tmp_path, monkeypatch, capfd)
    assert len(REFUSED) >= 5
    for command, below in REFUSED:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        ended = call(*shlex.split(command.partition("train.py")[2]), "hydra.run.dir=run")
        said = f"{ended.err}{ended.code if isinstance(ended.code, str) else ''}"
        assert below in said, f"{command}: {said}"


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="pip install -e '.[docs]'")
def test_the_site_builds_without_a_warning_and_works_in_a_browser(tmp_path: Path) -> None:
    """A minute or two. SSL_FRAMEWORK_BROWSER asks for the browser: the folder that tools/site/check.mjs names."""
    options = ["-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "index.html").is_file() and (tmp_path / "methods" / "simclr.html").is_file()
    if browser := os.environ.get("SSL_FRAMEWORK_BROWSER"):
        command = ["node", str(ROOT / "tools" / "site" / "check.mjs"), str(tmp_path), browser]
        seen = subprocess.run(command, capture_output=True, text=True)
        assert seen.returncode == 0, seen.stderr


def test_what_the_page_of_theory_names_is_there() -> None:
    """Every choice of a group, and everything of the package; files by the test of links."""
    text = (ROOT / "docs" / "theory.md").read_text()
    choices = re.findall(r"`(\w+=\w+)`", text)
    choices_exist(choices)
    named = re.findall(r"`(ssl_framework[\w.]+)\.(\w+)`", text)
    assert [f"{where}.{what}" for where, what in named if not hasattr(importlib.import_module(where), what)] == []
    assert len(choices) > 15 and len(named) > 10


def test_the_messages_of_troubleshooting_are_said_somewhere() -> None:
    """Each stands in the code as it is on the page."""
    said = "".join(path.read_text() for path in (ROOT / "ssl_framework").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", said)  # a sentence may go on in the next line
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(rows) > 20 and [row for row in rows if row not in said] == []
