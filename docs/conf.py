"""The site: ``make docs`` writes it to build/docs. See https://www.sphinx-doc.org, https://myst-parser.readthedocs.io."""

import re
import sys
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = "ssl_framework"
author = "the ssl_framework authors"
release = re.search(r'__version__ = "([^"]+)"', (ROOT / "ssl_framework" / "__init__.py").read_text())[1]  # type: ignore[index]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

myst_heading_anchors = 3
myst_enable_extensions: list[str] = []
myst_url_schemes = ["http", "https", "mailto", "repository"]
suppress_warnings = ["misc.highlighting_failure"]  # commands with placeholders

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "ssl_framework"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]*)(#[^)\s]*)?(?=\))")
LONGEST = 200_000
"""Characters of a file that is shown; of a longer one only the name."""

linked: set[str] = set()
"""Files and folders of the repository that pages point to."""


def rewritten(text: str, folder: Path) -> str:
    """Links to what lies outside of docs, as ``repository:PATH``."""

    def one(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if not match[1] or not target.is_relative_to(ROOT) or not target.exists():
            return match[0]
        path = target.relative_to(ROOT).as_posix()
        if target.suffix == ".png" or (path.startswith("docs/") and target.suffix == ".md"):
            return match[0]
        linked.add(path)
        return f"repository:{path}"

    return LINK.sub(one, text)


def read_source(app: Any, name: str, source: list[str]) -> None:
    """Before a page is parsed."""
    source[0] = rewritten(source[0], (ROOT / "docs" / name).parent)


def read_included(app: Any, path: Path, name: str, content: list[str]) -> None:
    """Before an included file is parsed: its links are seen from its own folder."""
    folder = (ROOT / "docs" / path).resolve().parent

    def one(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if match[1].endswith(".md") and target.is_relative_to(ROOT / "docs"):
            return target.relative_to(ROOT / "docs").as_posix() + (match[2] or "")
        return match[0]

    content[0] = rewritten(LINK.sub(one, content[0]), folder)


def resolve(app: Any, doctree: Any, name: str) -> None:
    """``repository:PATH`` as the way from a page to the page of that file."""
    for node in doctree.findall(nodes.reference):
        if node.get("refuri", "").startswith("repository:"):
            path = node["refuri"].removeprefix("repository:")
            node["refuri"] = app.builder.get_relative_uri(name, f"repository/{path}")


def write_repository(app: Any, error: Exception | None) -> None:
    """A plain page for each file and folder of the repository that is pointed to: the site needs no other place."""
    out, waiting, done = Path(app.outdir) / "repository", sorted(linked), set()
    while error is None and waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        target = ROOT / path
        if target.is_dir():
            below = sorted(one for one in target.iterdir() if not one.name.startswith((".", "__pycache__")))
            if path in linked:  # folders in it are named only
                waiting += [one.relative_to(ROOT).as_posix() for one in below if one.is_file()]
            body = "".join(f"<li>{entry(target, one, path in linked)}</li>" for one in below)
            body = f"<ul>{body}</ul>"
        else:
            body = shown(target)
        page = out / f"{path}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        home = "../" * (path.count("/") + 1)
        page.write_text(PAGE.format(title=escape(path), home=home, style=STYLE, body=body))


def entry(folder: Path, one: Path, is_linked: bool) -> str:
    """A line of a folder's page."""
    name = escape(one.name)
    is_page = (is_linked and one.is_file()) or one.relative_to(ROOT).as_posix() in linked
    return f'<a href="{folder.name}/{name}.html">{name}</a>' if is_page else name


STYLE = HtmlFormatter().get_style_defs(".highlight")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em }} pre {{ overflow: auto }}
{style}</style>
<p><a href="{home}index.html">ssl_framework</a></p><h1>{title}</h1>{body}
</html>
"""


def shown(target: Path) -> str:
    """A file as HTML."""
    try:
        text = target.read_text()
    except UnicodeDecodeError:
        return "<p>No text.</p>"
    if len(text) > LONGEST:
        return f"<p>{len(text):,} characters: see the file.</p>"
    try:
        lexer = get_lexer_for_filename(target.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter())


def escaped(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: nothing in them is markup but code, headings of sections and indented blocks."""
    for place, line in enumerate(lines):
        if not line.startswith((":", "..", ".. ")):
            parts = re.split(r"(``[^`]*``|`[^`]*`)", line)
            lines[place] = "".join(
                one if one.startswith("`") else re.sub(r"(?<![\w\\])([*|])|(?<=\w)(_)(?!\w)", r"\\\1\2", one)
                for one in parts
            )


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_source)
    app.connect("include-read", read_included)
    app.connect("doctree-resolved", resolve)
    app.connect("build-finished", write_repository)
    app.connect("autodoc-process-docstring", escaped, priority=900)
