"""docs/reference: every key of every group with its type, default and meaning.

Types and meanings come from the annotations and docstrings of the constructors that a config names and from the records
of ``runs/settings.py``; defaults and remarks from the config files themselves.
"""

import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_object

from ssl_framework.arguments import AlgorithmArguments, Wanted, bare, described, wanted_by
from ssl_framework.runs.settings import RECORDS
from tools.pages.method_pages import contents

ROOT = Path(__file__).resolve().parents[2]

SETTERS = ("method", "experiment", "study", "hparams_search", "hydra")
"""Groups whose files set keys of other groups and have none of their own."""

COMMON = {
    "seed": "of weights, order of samples and views",
    "resume": "a run folder to go on with",
    "teacher": "the second encoder, which the method chooses",
    "objective": "the loss, which the method chooses",
    "teacher_views": "positions of the views that the teacher encodes; null: all that are not the student's",
    "modalities": "what a sample consists of",
    "num_workers": "loading processes a rank; null: its share of the machine's cores. Changes no result",
    "name": "of the data set, in folders and tables",
    "channels": "of an image or series",
    "num_classes": "of the labels; null: not known",
    "std": "standard deviation of the training pixels, one number a channel, in [0, 1]",
    "protocol": "name and version of the settings below; a change that changes values raises the version",
    "accelerator": "which device trains; auto: a GPU if there is one",
    "devices": "processes on this machine; auto: one a GPU",
    "num_nodes": "machines",
    "max_epochs": "passes over the training images",
    "accumulate_grad_batches": "batches whose gradients are added up before a step",
    "gradient_clip_val": "greatest norm of the gradient; null: not clipped",
    "sync_batchnorm": "batch normalisation sees the batch of all ranks",
    "log_every_n_steps": "steps from one line of metrics.csv to the next",
    "checkpoint_every_n_epochs": "epochs from one checkpoint to the next",
    "slurm": "processes are started by srun",
    "hydra.run.dir": "the run folder",
}
"""Meanings of keys that no file remarks and no constructor takes."""

OF_VIEWS = {
    "count": "so many views are made alike",
    "size": "pixels, height and width",
    "scale": "least and greatest share of the area that a crop has; without it the central square",
    "ratio": "least and greatest width over height of a crop",
    "flip": "probability of a horizontal flip",
    "jitter": "greatest change of brightness, contrast, saturation and hue",
    "jitter_p": "probability of the colour jitter",
    "band_jitter": "strength s: every channel times a factor of its own between 1 - s and 1 + s",
    "gray": "probability of no colour",
    "blur": "probability of a Gaussian blur",
    "solarize": "probability of solarisation",
}
"""Keys of a group of views."""

OF_PARTS = {
    ("backbone", "options"): "what timm's model of this name takes beside the above",
    ("data", "source"): "which part of torchvision's data set is read",
    ("data", "parts"): "folders and modules that belong to this class",
    ("evaluation", "cross"): "a column of the data that is embedded as well -> the tower that does it",
    ("objective", "weights"): "the weight of this term",
    ("objective", "views"): "positions of the views that this term reads; a term that is not named reads all",
    ("generated", "of"): "name of the data set whose images these belong to; another one is refused",
    ("generated", "path"): "file of the generated images",
    ("generated", "root"): "folder of the generated images",
}
"""Group and first part of a key -> its meaning."""

OUTSIDE = {
    "lr": "rate; set by optimizer.lr_per_256",
    "momentum": "share of the last update that is kept",
    "fused": "one kernel for all weights",
    "betas": "decay of the running means of the gradient and of its square",
    "foreach": "several weights in one call",
    "nesterov": "Nesterov's momentum: the gradient is that of the place the momentum leads to",
    "ns_steps": "steps of the iteration that makes an update orthogonal",
    "conv_mode": "how a convolution becomes a matrix",
    "adjust_lr_fn": "how the rate follows from a matrix's shape",
    "save_dir": "folder of the log",
    "name": "folder within it",
    "version": "folder within that",
}
"""Arguments of optimizers of torch and timm and of loggers of Lightning, which are not ours to describe."""


class Key(NamedTuple):
    """One key of a config file."""

    name: str  # from the group's node on
    default: str
    kind: str  # what it may be, in words
    meaning: str  # "" where nobody says


class Choice(NamedTuple):
    """One file of a group."""

    name: str
    said: str  # its header
    node: str  # where in the config its keys stand; "" at the top
    target: str  # "module.Class" of the node itself, or ""
    consists: dict[str, str]  # key -> file of another group that stands there
    keys: list[Key]


def groups(root: Path) -> list[str]:
    """Groups with keys of their own, by name."""
    found = (path.name for path in (root / "configs").iterdir() if path.is_dir())
    return sorted(name for name in found if name not in SETTERS)


@functools.cache
def choices(root: Path, group: str) -> list[Choice]:
    """All files of a group."""
    return [read_choice(path, group) for path in sorted((root / "configs" / group).glob("*.yaml"))]


def read_choice(path: Path, group: str) -> Choice:
    """One file."""
    text = path.read_text()
    lines = text.splitlines()
    package = re.search(r"^# @package (\S+)", text, re.M)
    node = group if package is None else package[1].replace("_global_", "")
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    content = yaml.safe_load(text) or {}
    entries = [] if root is None else [pair for pair in root.value if pair[0].value != "defaults"]
    consists = {
        name.partition("@")[2].replace("_global_.", ""): f"{name.partition('@')[0].split('/')[-1]}/{chosen}"
        for item in content.get("defaults", [])
        if isinstance(item, dict)
        for name, chosen in item.items()
        if "@" in name
    }
    target = str(content.get("_target_", ""))
    keys = list(keys_of(entries, "", node, target, lines, ""))
    return Choice(path.stem, header(lines), node, target, consists, keys)


def header(lines: list[str]) -> str:
    """The comment at a file's top, without Hydra's own."""
    said = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            said.append(line[1:].strip())
    return " ".join(said)


def keys_of(
    entries: list[Any], above: str, node: str, target: str, lines: list[str], remark: str, hint: Any = None
) -> Iterator[Key]:
    """The keys of a mapping and of what lies in it.

    Args:
        entries: of the mapping, as YAML's nodes.
        above: names of the keys above, with a dot at the end.
        node: where the file's keys stand in the config.
        target: what the mapping constructs, or "".
        lines: of the file.
        remark: of a mapping on one line, which is shown where it stands.
        hint: the annotation of the mapping, where it constructs nothing.
    """
    seen: set[int] = set()
    for key, value in entries:
        if key.value in ("_target_", "_partial_", "_convert_", "_recursive_"):
            continue
        line = key.start_mark.line
        own = "" if line in seen or remark == lines[line] else remark_of(lines, line)
        seen.add(line)
        name = above + key.value
        where = f"{node}.{name}" if node else name
        hinted, meant = described_key(key.value, where, target, hint)
        built = target_of(value)
        if words_of(own) and len(words_of(own) - words_of(meant)) <= 0.4 * len(words_of(own)):
            own = ""  # says the same
        fallback = "" if meant or own else common_of(where, key.value)
        meaning = ". ".join(filter(None, (meant.rstrip("."), f"*{own}*" if own and meant else own, fallback)))
        if isinstance(value, yaml.MappingNode) and value.value:
            shown = built.rpartition(".")[2] if built else ""
            if built or meaning:
                yield Key(name, shown, "a part" if built else "a mapping", meaning or said_of_class(built))
            yield from keys_of(value.value, f"{name}.", node, built, lines, lines[line], inner(hinted))
        elif isinstance(value, yaml.SequenceNode) and any(isinstance(one, yaml.MappingNode) for one in value.value):
            if meaning:
                yield Key(name, "", described(hinted) if hinted is not None else "a list", meaning)
            for position, one in enumerate(value.value):
                if isinstance(one, yaml.MappingNode):
                    built = target_of(one)
                    yield from keys_of(one.value, f"{name}.{position}.", node, built, lines, "", item(hinted))
        else:
            kind = kind_of(value) if hinted is None or bare(hinted) is Any else described(hinted)
            yield Key(name, text_of(value, lines), kind, meaning)


def words_of(text: str) -> set[str]:
    """The words of a sentence."""
    return set(re.findall(r"[\w.]+", text.lower()))


def target_of(value: Any) -> str:
    """What a mapping of a file constructs, or ""."""
    if not isinstance(value, yaml.MappingNode):
        return ""
    return next((one.value for key, one in value.value if key.value == "_target_"), "")


def text_of(value: Any, lines: list[str]) -> str:
    """A value as the file has it."""
    start, end = value.start_mark, value.end_mark
    if start.line != end.line and isinstance(value, yaml.ScalarNode):
        return str(value.value)
    found = [lines[start.line][start.column : end.column if start.line == end.line else None]]
    found += [line.strip() for line in lines[start.line + 1 : end.line]]
    if start.line != end.line and end.column:
        found.append(lines[end.line][: end.column].strip())
    text = re.sub(r"\s+#.*", "", " ".join(found).strip())
    return text[1:-1] if re.fullmatch(r'"[^"]+"', text) else text


def kind_of(value: Any) -> str:
    """What kind of value a file has, where no annotation says."""
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "seq": "a list"}
    return kinds.get(value.tag.rpartition(":")[2], "a mapping" if value.tag.endswith("map") else "anything")


def remark_of(lines: list[str], line: int) -> str:
    """The comment behind a key, which may go on in lines of comments only."""
    code, found = outside_quotes(lines[line]), []
    if code is None:
        return ""
    found.append(code.strip())
    for below in lines[line + 1 :]:
        if not re.match(r"\s+#", below) or outside_quotes(below) is None:
            break
        found.append(below.strip().lstrip("#").strip())
    return " ".join(found)


def outside_quotes(line: str) -> str | None:
    """What follows the first ``#`` that begins a comment; ``None`` if there is none."""
    quote = ""
    for position, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "#" and (position == 0 or line[position - 1].isspace()):
            return line[position + 1 :]
    return None


def described_key(name: str, where: str, target: str, hint: Any) -> tuple[Any, str]:
    """The annotation of a key, or ``None``, and what its constructor says of it.

    Args:
        name: of the key in its mapping.
        where: from the config's top on.
        target: what the mapping constructs, or "".
        hint: the annotation of the mapping, where it constructs nothing.
    """
    if target:
        return argument(target, name)
    above, _, last = where.rpartition(".")
    if above in RECORDS and last == name:
        return hints_of(RECORDS[above]).get(name), ""
    if hint is not None and typing.is_typeddict(bare(hint)):
        record = bare(hint)
        return hints_of(record).get(name), arguments_said(record.__doc__).get(name, "") or OF_VIEWS.get(name, "")
    if re.search(r"groups\.\d+\.\w+$", where):
        return None, OF_VIEWS.get(name, "")
    return None, ""


def common_of(where: str, name: str) -> str:
    """What a key means everywhere, where nobody says it nearer by."""
    parts = where.split(".")
    return OF_PARTS.get((parts[0], parts[1] if len(parts) > 1 else ""), COMMON.get(where, COMMON.get(name, "")))


@functools.cache
def hints_of(record: type) -> dict[str, Any]:
    """What the keys of a TypedDict must be."""
    return typing.get_type_hints(record, include_extras=True)


def inner(hint: Any) -> Any:
    """The annotation of a mapping among alternatives, or ``None``."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((one for one in options if typing.is_typeddict(bare(one))), None)


def item(hint: Any) -> Any:
    """The annotation of the entries of a list, or ``None``."""
    found = typing.get_args(bare(hint))
    return found[0] if found else None


@functools.cache
def wanted(target: str) -> dict[str, Wanted]:
    """The arguments of what a config names."""
    return wanted_by(get_object(target))


@functools.cache
def argument(target: str, name: str) -> tuple[Any, str]:
    """The annotation of an argument, or ``None``, and what the docstring says of it."""
    if not target.startswith(("ssl_framework.", "hydra_plugins.")):
        return hints_of(AlgorithmArguments).get(name), OUTSIDE.get(name, f"argument of {target}")
    found = wanted(target).get(name)
    return (None if found is None else found.hint), said_by(target).get(name, "")


@functools.cache
def said_by(target: str) -> dict[str, str]:
    """Argument -> what the docstrings of a class, its constructor and its bases say of it, the nearest first."""
    thing = get_object(target)
    if isinstance(thing, type):
        documented = [one for base in thing.__mro__ for one in (base, vars(base).get("__init__"))]
    else:
        documented = [thing, getattr(thing, "__self__", None)]
    found: dict[str, str] = {}
    for one in documented:
        if one is not None and (getattr(one, "__module__", None) or "").startswith("ssl_framework"):
            own = arguments_said(inspect.getdoc(one) or "")
            own = {name: said_elsewhere(text, one.__module__, name) for name, text in own.items()}
            found = {**own, **{name: said_there(text, one, own.get(name)) for name, text in found.items()}}
    return found


def said_elsewhere(text: str, module: str, name: str) -> str:
    """What is said of an argument, with what another class says of one of that name where it is "as in ``Class``"."""
    referred = re.match(r"as (?:in|of) ``(?:\w+\.)*(\w+)``", text)
    of = referred and address_of(referred[1], module)
    if referred is None or of is None or name not in said_by(of):
        return text
    return said_by(of)[name].rstrip(".") + text[referred.end() :]


def address_of(name: str, module: str) -> str | None:
    """The class of that name which a module knows, or that alone has it in the package; ``None``: there is none."""
    known = getattr(sys.modules[module], name, None)
    if isinstance(known, type):
        return f"{known.__module__}.{known.__qualname__}"
    there = classes().get(name, [])
    return f"{there[0]}.{name}" if len(there) == 1 else None


@functools.cache
def classes() -> dict[str, list[str]]:
    """Name of a class -> modules of the package that define one."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "ssl_framework").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE):
            found.setdefault(name, []).append(module)
    return found


def said_there(text: str, base: Any, own: str | None) -> str:
    """What is said of an argument, with what a base says of it where it is "see ``Base``" or "as of ``Base``"."""
    name = getattr(base, "__name__", "")
    referred = re.match(rf"(?:see|as of) ``{name}``", text)
    return text if referred is None or own is None else own.rstrip(".") + text[referred.end() :]


@functools.cache
def arguments_said(docstring: str | None) -> dict[str, str]:
    """The entries of a docstring's ``Args:``."""
    found: dict[str, str] = {}
    _, _, section = inspect.cleandoc(docstring or "").partition("Args:\n")
    names: list[str] = []
    for line in section.splitlines():
        if line.strip() and not line.startswith("    "):
            break
        entry = re.match(r"    ([*\w]+(?:, \w+)*)(?: \([^)]*\))?: (.*)", line)
        if entry and not line.startswith("     "):
            names = entry[1].lstrip("*").split(", ")
            found |= dict.fromkeys(names, entry[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def said_of_class(target: str) -> str:
    """The first sentence of a class."""
    if not target.startswith("ssl_framework."):
        return target
    said = inspect.getdoc(get_object(target)) or ""
    return re.split(r"(?<=[.:;])\s", " ".join(said.partition("\n\n")[0].split()))[0].rstrip(":;")


def top_keys(root: Path) -> list[Key]:
    """The keys of train.yaml that belong to no group."""
    lines = (root / "configs" / "train.yaml").read_text().splitlines()
    tree = yaml.compose("\n".join(lines), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    entries = [pair for pair in tree.value if pair[0].value not in ("defaults", "hydra")]
    return list(keys_of(entries, "", "", "", lines, ""))


def undocumented(root: Path) -> list[str]:
    """Keys of which nobody says what they mean, "group=choice key"."""
    found = [f"train.yaml {key.name}" for key in top_keys(root) if not key.meaning]
    for group in groups(root):
        found += [
            f"{group}={one.name} {key.name}" for one in choices(root, group) for key in one.keys if not key.meaning
        ]
    return found


def reference_pages(root: Path) -> dict[str, str]:
    """docs/reference/<group>.md for every group, and docs/reference.md, which lists them."""
    pages = {f"docs/reference/{group}.md": group_page(root, group) for group in groups(root)}
    return {"docs/reference.md": index_page(root), **pages}


def index_page(root: Path) -> str:
    """All groups and the keys at the top."""
    lines = [
        "# Reference: config keys",
        "",
        MADE,
        "",
        "`python train.py group=choice key=value` sets any of these; a key that does not exist is refused with the "
        "nearest one. `python train.py method=<name> --cfg job` prints what a command composes; whether "
        "its parts fit together is looked at when a run begins. A value is refused before the run begins "
        "where it is not what the column *allowed* says.",
        "",
        "`${data.root}` stands for the value of another key. A part is a class of this package: its keys are the "
        "arguments of its constructor.",
        "",
        "## Groups",
        "",
        "| group | choices | keys |",
        "| --- | --- | --- |",
    ]
    for group in groups(root):
        found = choices(root, group)
        names = ", ".join(f"`{one.name}`" for one in found)
        lines.append(f"| [`{group}`](reference/{group}.md) | {names} | {sum(len(one.keys) for one in found):,} |")
    lines += [
        "",
        "`method=` chooses of these groups and sets keys of theirs: [methods](methods.md). So do `experiment=`, which "
        "is a whole command by one name, `study=` ([studies](studies.md)) and `hparams_search=` ([sweeps](sweeps.md)).",
        "",
        "## Keys at the top",
        "",
        *table(top_keys(root), ""),
        "",
        *contents("reference"),
    ]
    return "\n".join(lines) + "\n"


MADE = "<!-- generated by python -m tools.pages.readme -->"


def group_page(root: Path, group: str) -> str:
    """One group: every choice with its keys."""
    found = choices(root, group)
    lines = [
        f"# {group}",
        "",
        MADE,
        "",
        f"`{group}=` one of {', '.join(f'[{one.name}](#{one.name})' for one in found)}.",
    ]
    for one in found:
        lines += [
            "",
            f"## {one.name}",
            "",
            f"{plain(one.said)} [{group}/{one.name}.yaml]({file_of(group, one)})".strip(),
        ]
        if one.target:
            lines += ["", f"Constructs `{one.target}`."]
        for key, file in one.consists.items():
            part, _, name = file.partition("/")
            lines += ["", f"`{key}` is [`{file}`]({part}.md#{name})." if part != group else f"`{key}` is `{file}`."]
        lines += ["", *(table(one.keys, one.node) if one.keys else ["No keys."])]
    return "\n".join(lines) + "\n"


def file_of(group: str, one: Choice) -> str:
    """Link to a choice's file from its page."""
    return f"../../configs/{group}/{one.name}.yaml"


def table(keys: list[Key], node: str) -> list[str]:
    """Keys with their whole names."""
    rows = ["| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for key in keys:
        name = f"{node}.{key.name}" if node else key.name
        shown = f"`{key.default}`" if key.default else ""
        rows.append(f"| `{name}` | {cell(shown)} | {cell(key.kind)} | {cell(plain(key.meaning))} |")
    return rows


def plain(text: str) -> str:
    """A docstring's or comment's text as markdown."""
    text = text.replace("``", "`").replace("`None`", "`null`").replace("`True`", "`true`").replace("`False`", "`false`")
    parts = re.split(r"(`[^`]*`)", re.sub(r"(?<!`)\bNone\b(?!`)", "`null`", text))
    return "".join(one if one.startswith("`") else re.sub(r"([<\[\]_])", r"\\\1", one) for one in parts)


def cell(text: str) -> str:
    """Text within a table."""
    return text.replace("|", "\\|")
