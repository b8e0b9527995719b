"""What may be said of every method, read from its config, its tests and the record of the comparison.

Nothing here is written by hand: a method that has no golden value, no run or no test is shown without.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.utils import get_class

from ssl_framework.report.comparison import Record
from ssl_framework.runs.composition import PARTS
from ssl_framework.runs.numbers import short

RECORD = Path("results") / "comparison"

HIDDEN = Path("results") / "comparison_vit"
"""Record of the methods that hide patches, and of others on the same ViT."""


SHOWN = "knn[k=20,T=0.1]/top1"
"""Metric of the columns of docs/methods.md, one for each data set of the record."""


NEEDED = {
    "label": "labels",
    "partial labels": "which may be missing (-1)",
    "number": "numbers as labels",
    "index": "a state of every training image",
    "maps": "a map of positions",
    "geometry": "where each view was cut",
    "regions": "boxes, and what is in each",
    "mixer": "a mixer",
    "added mixtures": "a mixer",
    "masks": "hidden patches",
}


MIXTURES = {"mixer": "in the place of clean views", "added mixtures": "beside the clean views"}


SEVERAL = "several modalities"
"""What a method needs whose views are not all of one."""


OTHER_SAMPLES = {"node": "nodes of a graph", "sequence": "sequences of items", "text": "texts"}
"""Main modality of the data that a method brings -> what it needs, where that is no picture."""


KINDS = {"reference code": "golden value", "formula": "formula only"}
"""``kind`` of an entry of tests/golden.json -> what its test shows, the strongest first."""


GROUPS = (
    "Two views of a batch",
    "Any number of views",
    "Memory, no teacher",
    "Teacher, no memory",
    "Teacher and memory",
    "Positions of a map",
    "Labels",
    "Hidden patches",
    "Several modalities",
    "Graphs and sequences",
    "Texts",
)


class Method(NamedTuple):
    """One file of configs/method."""

    name: str
    title: str
    authors: str
    venue: str  # with year; "" where the header has none
    paper: str  # title of the paper
    arxiv: str  # number; "" where the header has none
    command: str
    notes: dict[str, list[str]]  # "Differs" and "Unverified" -> lines of the header
    views: int
    student_views: list[int] | None
    teacher_views: list[int] | None
    memory: list[str]
    needs: list[str]  # beside views and memory
    feature_mixer: str  # its own; "" for none
    feature_mixers: list[str]  # that it accepts
    mixtures: list[str]  # where it reads mixtures of images, of ``MIXTURES``
    target: str  # of its objective, "module.Class"
    files: list[str]
    tests: list[str]  # below tests/, that of the loss first
    loss_of: str  # the method whose test that is, where it is another with the same objective
    golden: dict[str, int]  # kind -> number of entries of tests/golden.json that its tests compare with

    @property
    def shows(self) -> str:
        """What its tests compare it with, beside a loop."""
        found = next((words for kind, words in KINDS.items() if self.golden.get(kind)), None)
        return found or (f"loss of `{self.loss_of}`" if self.loss_of else "loop only")

    @property
    def group(self) -> str:
        """Which of ``GROUPS`` it belongs to, by what it needs."""
        teacher = "a teacher" in self.needs
        if SEVERAL in self.needs:
            return GROUPS[8]
        if other := {*OTHER_SAMPLES.values()} & {*self.needs}:
            return GROUPS[10 if other == {OTHER_SAMPLES["text"]} else 9]
        if NEEDED["masks"] in self.needs:
            return GROUPS[7]
        if NEEDED["label"] in self.needs or NEEDED["number"] in self.needs:
            return GROUPS[6]
        if NEEDED["maps"] in self.needs:
            return GROUPS[5]
        if self.memory or NEEDED["index"] in self.needs:
            return GROUPS[4] if teacher else GROUPS[2]
        return GROUPS[3] if teacher else GROUPS[1 if self.views > 2 else 0]

    @property
    def link(self) -> str:
        """To the paper."""
        return f"[{self.arxiv}](https://arxiv.org/abs/{self.arxiv})" if self.arxiv else ""


def read_methods(root: Path) -> list[Method]:
    """All methods of a source tree, by name."""
    entries = json.loads((root / "tests" / "golden.json").read_text())
    paths = sorted((root / "configs" / "method").glob("*.yaml"))
    configs = {path.stem: composed_by(path, root) for path in paths}
    tests = {name: tests_of(name, config, root) for name, config in configs.items()}
    return [
        Method(
            path.stem,
            **from_header(path),
            **from_config(configs[path.stem], root),
            tests=[
                str(test.relative_to(root / "tests"))
                for test in (*tests[path.stem], *tests_of_data(configs[path.stem], root))
            ],
            loss_of=same_loss(path.stem, tests[path.stem], configs),
            golden=golden_of(path.stem, module_of(configs[path.stem]), tests, entries),
        )
        for path in paths
    ]


def chosen_by(config: dict[str, Any]) -> dict[str, str]:
    """Group -> what a method's file chooses of it."""
    return {key.split("/")[-1]: value for item in config.get("defaults", []) for key, value in item.items()}


def with_defaults(content: dict[str, Any], root: Path) -> dict[str, Any]:
    """A part's file with the files it consists of: ``/backbone@backbone: tiny`` puts one at the key ``backbone``."""
    for item in content.pop("defaults", []):
        for choice, name in item.items() if item != "_self_" else ():
            group, _, key = choice.lstrip("/").partition("@")
            part = yaml.safe_load((root / "configs" / group / f"{name}.yaml").read_text())
            content[key] = {**part, **content.get(key, {})}
    return content


def composed_by(path: Path, root: Path) -> dict[str, Any]:
    """A method's file with the head, teacher and objective that it chooses, as Hydra puts them together."""
    config = yaml.safe_load(path.read_text())
    chosen = chosen_by(config)
    for group, node in PARTS.items():
        if group in chosen:
            file = root / "configs" / group / f"{chosen[group]}.yaml"
            content = with_defaults(yaml.safe_load(file.read_text()), root)
            if "@package _global_" not in file.read_text():
                content = {node: content}
            for where, value in content.items():
                *above, last = where.split(".")
                inner = config
                for key in above:
                    inner = inner.setdefault(key, {})
                inner[last] = value
    return config


def comment(path: Path) -> list[str]:
    """The lines of the comment at a config's top, without Hydra's own."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:])
    return [line for line in lines if not line.strip().startswith("@package")]


def from_header(path: Path) -> dict[str, Any]:
    """Paper, command, and the lines that begin with "Differs:" or "Unverified:", which go on where indented further."""
    lines = comment(path)
    whole = " ".join(line.strip() for line in lines)
    title, _, rest = whole.partition(": ")
    cited = re.match(r"(?P<text>.*?)\s*\(arXiv:(?P<number>\d{4}\.\d{5})\)", rest)
    text = cited["text"] if cited else rest.partition(". ")[0]
    authors, _, paper = text.partition(", ")
    before, _, last = paper.rpartition(", ")
    dated = before and re.search(r"\b(19|20)\d\d\b", last)
    notes: dict[str, list[str]] = {"Differs": [], "Unverified": []}
    current: list[str] | None = None
    for line in lines:
        kind = next((kind for kind in notes if line.strip().startswith(f"{kind}:")), None)
        if kind is not None:
            current = notes[kind]
            current.append(line.strip().removeprefix(f"{kind}:").strip())
        elif current is not None and line.startswith("   "):
            current[-1] += f" {line.strip()}"
        else:
            current = None
    command = re.search(r"Command: (python train\.py(?: [\w./]+=[\w./]+)+)", whole)
    return {
        "title": title,
        "authors": authors,
        "venue": last if dated else "",
        "paper": before if dated else paper,
        "arxiv": cited["number"] if cited else "",
        "command": command[1] if command else f"python train.py method={path.stem}",
        "notes": notes,
    }


def from_config(config: dict[str, Any], root: Path) -> dict[str, Any]:
    """What a method needs and accepts."""
    chosen = chosen_by(config)
    views = yaml.safe_load((root / "configs" / "views" / f"{chosen.get('views', 'simclr')}.yaml").read_text())
    views |= {key: count for key, count in config.get("views", {}).items() if key in ("num_views", "count")}
    objective: Any = get_class(config["objective"]["_target_"])
    mixers: dict[str, Any] = {
        path.stem: get_class(yaml.safe_load(path.read_text())["_target_"])
        for path in sorted((root / "configs" / "feature_mixer").glob("*.yaml"))
        if path.stem != "none"
    }
    own = chosen.get("feature_mixer", "none").replace("none", "")
    parts = list(targets(config["objective"]))
    if own:
        parts += targets(yaml.safe_load((root / "configs" / "feature_mixer" / f"{own}.yaml").read_text()))
    memory = [
        f"{node['_target_'].rpartition('.')[2]}"
        + (f" of {node['size']:,}" if isinstance(node.get("size"), int) else "")
        for node in parts
        if node["_target_"].startswith("ssl_framework.memory.") and "size" in node  # a centre is none
    ]
    modules = [node["_target_"].rpartition(".")[0] for node in parts]
    return {
        "views": sum(map(count_of, views.get("parts", [views]))),
        "student_views": config.get("student_views"),
        "teacher_views": config.get("teacher_views"),
        "memory": memory,
        "needs": [
            *([SEVERAL] if "parts" in views else []),
            *other_samples(chosen.get("data"), root),
            *(["a teacher"] if config.get("teacher") else []),
            *(words for key, words in NEEDED.items() if key in objective.requires),
            *(["generated images"] if chosen.get("generated", "none") != "none" else []),
        ],
        "feature_mixer": own,
        "mixtures": [words for key, words in MIXTURES.items() if key in objective.accepts | objective.requires],
        "feature_mixers": [name for name, mixer in mixers.items() if mixer.needs <= objective.accepts],
        "target": config["objective"]["_target_"],
        "files": [
            *(f"configs/{group}/{chosen[group]}.yaml" for group in PARTS if chosen.get(group, "none") != "none"),
        ]
        + [f"{module.replace('.', '/')}.py" for module in dict.fromkeys(modules) if module != "ssl_framework.memory"],
    }


def other_samples(data: str | None, root: Path) -> list[str]:
    """What the data that a method brings consist of, where that is no picture."""
    if data is None:
        return []
    main = yaml.safe_load((root / "configs" / "data" / f"{data}.yaml").read_text()).get("modalities", ["image"])[0]
    return [OTHER_SAMPLES[main]] if main in OTHER_SAMPLES else []


def count_of(views: Mapping[str, Any]) -> int:
    """Views of a sample that a view maker of one modality makes."""
    if "groups" in views:
        return sum(group.get("count", 1) for group in views["groups"])
    said = [views[key] for key in ("num_views", "count") if key in views]
    return said[0] if said else get_class(views["_target_"]).num_views  # always as many


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a ``_target_`` in a config, outermost first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def tests_of(name: str, config: dict[str, Any], root: Path) -> list[Path]:
    """The test file called as the method or as its objective's module, else those that import the objective."""
    module = config["objective"]["_target_"].rpartition(".")[0]
    paths = [path for room in ("objectives", "feature_mixers") for path in (root / "tests" / room).glob("test_*.py")]
    for stem in (name, module.rpartition(".")[2]):
        if own := [path for path in paths if path.stem == f"test_{stem}"]:
            return own
    return [path for path in sorted(paths) if f"from {module} import" in path.read_text()]


def module_of(config: dict[str, Any]) -> str:
    """The objective's module, without package."""
    return config["objective"]["_target_"].split(".")[-2]


def same_loss(name: str, tests: Sequence[Path], configs: dict[str, dict[str, Any]]) -> str:
    """The other method with the same objective after which a test file of this one is called, "" if there is none."""
    own = configs[name]["objective"]["_target_"]
    called = [test.stem.removeprefix("test_") for test in tests]
    return next((c for c in called if c != name and c in configs and configs[c]["objective"]["_target_"] == own), "")


def tests_of_data(config: dict[str, Any], root: Path) -> list[Path]:
    """Tests of the parts by which a method says which images meet: tests/<room>/test_<module of the part>.py."""
    chosen = chosen_by(config)
    found = []
    for group in ("labels", "sampler", "pseudo_labels", "generated"):
        if group in chosen:
            part = yaml.safe_load((root / "configs" / group / f"{chosen[group]}.yaml").read_text())
            modules = [node["_target_"].split(".")[-2] for node in targets(part)]
            found += [path for module in modules for path in sorted((root / "tests").glob(f"*/test_{module}.py"))]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def golden_of(
    name: str, module: str, tests: dict[str, list[Path]], entries: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """How many golden values of each kind the tests of a method read.

    Entries are a method's own by their ``config``. Without such, a loss may be compared with entries that are no other
    method's, as SimCLR's is with "ntxent": they count where the test file is called as the module of the loss, for the
    method that is called so too or alone is tested there.

    Args:
        name: of the method.
        module: of its objective, without package.
        tests: method -> its test files.
        entries: of tests/golden.json.
    """
    found = [entry for path in tests[name] for entry in read_by(path, entries)]
    own = [entry for entry in found if entry["config"] == name]
    its_loss = [path.stem for path in tests[name]] == [f"test_{module}"]
    alone = name.startswith(module) or sum(files == tests[name] for files in tests.values()) == 1
    if not own and its_loss and alone:
        own = [entry for entry in found if entry["config"] not in tests]
    return {kind: count for kind in KINDS if (count := sum(entry["kind"] == kind for entry in own))}


def read_by(path: Path, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that the ``golden(...)`` calls of a test file name.

    A call with an f-string stands for all entries of that form; where the form begins with a variable, only for those
    whose config the file names. A call with a variable stands for the entries whose whole names are in the file, or if
    there are none, whose config is.
    """
    tree = ast.parse(path.read_text())
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    calls = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "golden"
    ]

    def matches(argument: ast.expr, entry: dict[str, Any]) -> bool:
        if isinstance(argument, ast.Constant):
            return argument.value == entry["name"]
        if isinstance(argument, ast.JoinedStr):
            parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in argument.values]
            said = isinstance(argument.values[0], ast.Constant) or entry["config"] in named
            return said and re.fullmatch("".join(parts), entry["name"]) is not None
        return entry["name"] in named or (not spelt_out and entry["config"] in named)

    spelt_out = any(entry["name"] in named for entry in entries)
    return [entry for entry in entries if any(matches(argument, entry) for argument in calls)]


def needs_of(method: Method) -> str:
    """What a method needs, in words."""
    seen = [
        f"{who} {', '.join(map(str, which))}"
        for who, which in (("student", method.student_views), ("teacher", method.teacher_views))
        if which is not None
    ]
    views = f"{method.views} view{'s' * (method.views > 1)}" + (f" ({'; '.join(seen)})" if seen else "")
    return ", ".join([views, *method.needs, *method.memory])


def reference_lines(record: Record) -> list[str]:
    """The raw input and the untrained backbone, where they were scored."""
    lines = []
    for name, words in record.references().items():
        scores = "; ".join(
            f"{data}: "
            + ", ".join(f"{short(metric)} {record.reference(name, data, metric)}" for metric in record.sheet.metrics)
            for data in record.sheet.columns
        )
        lines.append(f"- {words}: {scores}")
    return [*lines, ""] if lines else []
