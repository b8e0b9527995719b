"""Functions of the standard library and what their docstrings say: pairs of text and code, without a file of their own.

They are read from the Python that runs, so their number depends on its version (about 3,600). A sample is a function
whose docstring begins with a paragraph of 3 to 60 words and whose body has at least 3 lines besides it: its texts are
that paragraph, and the source without the docstring. Files, not functions, are divided into training and test, so that
no test function stands beside a training function.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssl_framework.arguments import OpenFraction, guarded
from ssl_framework.data.texts.worded import Said

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}
"""Folders of the library that are not part of it, or tests."""

FEWEST, MOST, LINES = 3, 60, 3
"""Words of a docstring's first paragraph, and lines of a function's body besides it, at least."""


@guarded
class Docstrings:
    """Pairs of docstring and function.

    Args:
        root: folder of Python files; ``None``: the standard library.
        test_fraction: share of the files that is held out, about: by a hash of their names.
        domains: class -> folders and modules right below the root that belong to it, such as asyncio and queue; all
            others are of the class "other". ``None``: there are no classes.

    Raises:
        ValueError: there is no function with a docstring.
    """

    def __init__(
        self, root: str | None, test_fraction: OpenFraction, domains: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.root = Path(root).expanduser() if root is not None else Path(sysconfig.get_paths()["stdlib"])
        self.test_fraction = test_fraction
        self.domain = {name: domain for domain, names in (domains or {}).items() for name in names}
        self.found: dict[str, list[Said]] = {}

    def splits(self) -> dict[str, list[Said]]:
        """As ``Texts``: two texts a sample, the docstring and the function.

        Raises:
            ValueError: one of the splits would be empty.
        """
        if not self.found:
            self.found = {"train": [], "test": []}
            for path in self.files():
                name = path.relative_to(self.root).as_posix()
                share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8
                part = "test" if share < self.test_fraction else "train"
                label = self.domain.get(name.partition("/")[0].removesuffix(".py"), "other") if self.domain else ""
                self.found[part] += [Said(pair, label) for pair in pairs_in(path)]
            if empty := [name for name, part in self.found.items() if not part]:
                raise ValueError(
                    f"data.root={self.root} has no function with a docstring for {empty[0]}: name a folder of Python "
                    "files, or change data.test_fraction"
                )
        return self.found

    def files(self) -> list[Path]:
        """The Python files below the root, in the order of their names."""
        found = (path for path in self.root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(self.root).parts))
        return sorted(found)


def pairs_in(path: Path) -> Iterator[tuple[str, str]]:
    """First paragraph of the docstring, and the source without the docstring, of every function of a file that has
    both; nothing of a file that is no Python."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # of another version, or bytes that are no UTF-8
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not (said := ast.get_docstring(node)):
            continue
        text = " ".join(said.split("\n\n")[0].split())
        first, last = node.body[0].lineno, node.body[0].end_lineno or node.body[0].lineno  # of the docstring
        code = [*lines[node.lineno - 1 : first - 1], *lines[last : node.end_lineno]]
        body = sum(bool(line.strip()) for line in lines[last : node.end_lineno])
        if FEWEST <= len(text.split()) <= MOST and body >= LINES:
            yield text, "\n".join(code)
