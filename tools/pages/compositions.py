"""docs/compositions.md: which objective goes with which head and teacher; every verdict is that of the code that builds
a run."""

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import build, build_module, with_widths
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.towers import AlikeTowers
from ssl_framework.module import SSLModule
from ssl_framework.objectives.base import Objective
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.wiring import source_of
from tools.pages.looked_up import looked_up_once
from tools.pages.methods import chosen_by, comment, with_defaults
from tools.pages.mixing import alike, chosen_for

HOST = {"_target_": "ssl_framework.objectives.unmix.UnMix", "weight": 1.0}
"""What takes another objective as its host; MixCo takes the same ones."""


REFUSED = (
    "method=simclr head=byol",
    "method=simclr head=classifier",
    "method=simclr objective=byol",
    "method=simclr objective=mocov2",
    "method=simclr objective=amcl",
    "method=mocov2 objective=simclr",
    "method=mocov2 head=amcl",
    "method=mocov2 teacher=none",
    "method=amcl_moco teacher=moco",
    "method=byol head=none",
    "method=byol objective=mocov3 views=simclr4",
    "method=supervised head=core_tuning",
    "method=dcl objective=instance_discrimination",
    "method=mv_dhel objective=unmix_simclr",
)
"""Crosses that a run refuses, shown with their sentences."""


WIDTH = re.compile(r"\$\{width:(\w+)\}")
"""Names the output that is as wide."""


GROUPS = ("backbone", "text_backbone", "views", "feature_mixer", "mixer", "masker")
"""Of what surrounds head, teacher and objective of a method, what wiring asks for."""


class Verdicts(NamedTuple):
    """Objective -> choice -> why it is refused, "" where it trains; the other parts are those of ``method``."""

    method: dict[str, str]
    head: dict[str, dict[str, str]]
    teacher: dict[str, dict[str, str]]
    host: dict[str, str]


def names_of(root: Path, group: str) -> list[str]:
    """All choices of a group."""
    return sorted(path.stem for path in (root / "configs" / group).glob("*.yaml"))


def methods_of(root: Path) -> dict[str, str]:
    """Objective -> the method that is called so, or else the first that has it."""
    found: dict[str, str] = {}
    for name in names_of(root, "method"):
        chosen = chosen_by(yaml.safe_load((root / "configs" / "method" / f"{name}.yaml").read_text()))
        if objective := chosen.get("objective"):
            found[objective] = name if objective == name else found.get(objective, name)
    return dict(sorted(found.items()))


@functools.cache
@looked_up_once()
def verdicts(root: Path) -> Verdicts:
    """Every objective with every head, with every teacher, and as a host. Encoders and memories have no values here."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        shipped = compose("train")
    found = Verdicts(methods_of(root), {}, {}, {})
    heads, teachers = (
        {name: part(root, group, name) for name in names_of(root, group)} for group in ("head", "teacher")
    )
    outputs = {name: json.dumps({output: asked(one) for output, one in node.items()}) for name, node in heads.items()}
    alone = {key: heads[name] for name, key in outputs.items()}
    built = Built({}, {}, {})
    for objective, method in found.method.items():
        around = Around(chosen_for(root, method, shipped, GROUPS), shipped, built)
        refusals = {key: around.refusal(heads=node) for key, node in alone.items()}
        found.head[objective] = {name: refusals[key] for name, key in outputs.items()}
        found.teacher[objective] = {name: around.refusal(teacher=node) for name, node in teachers.items()}
        found.host[objective] = around.refusal(objective={**HOST, "host": around.own["objective"]}, host=True)
    return found


def part(root: Path, group: str, name: str) -> Any:
    """A group's file, with what it consists of; ``None`` for a part that is none."""
    text = (root / "configs" / group / f"{name}.yaml").read_text()
    return None if "@package _global_" in text else with_defaults(yaml.safe_load(text), root)


def asked(head: Any) -> tuple[str, bool]:
    """All that wiring asks of an output: what it reads, and whether it is as wide as that."""
    return source_of(head), head.get("out") in (None, "source")


class Built(NamedTuple):
    """What several methods have alike."""

    backbones: dict[str, Any]  # by their nodes
    students: dict[str, Encoder | str]  # by all that they consist of; why there is none
    teachers: dict[str, Any]  # by their nodes


def asking(node: Any, what: str, answer: Any) -> list[Any]:
    """The answer, where a node asks for it."""
    return [answer] if what in json.dumps(node) else []


class Around:
    """A method, parts of which are replaced; those that are not are built once.

    Args:
        cfg: what the method's file says.
        shipped: the default config.
        built: what other methods have built.
    """

    def __init__(self, cfg: DictConfig, shipped: DictConfig, built: Built) -> None:
        default, own_data = (OmegaConf.to_container(node) for node in (shipped.data, cfg.data))
        assert isinstance(default, dict) and isinstance(own_data, dict)
        every = {"data": {**default, **own_data}}  # every head finds keys, whatever a method brings
        if texts := "text_backbone" in cfg:  # and then the data have words
            every["data"]["words"] = {"_target_": "ssl_framework.data.pairs.captioned_shapes.ShapeVocabulary"}
            every["text_backbone"] = OmegaConf.to_container(cfg.text_backbone)  # type: ignore[assignment]
        self.data = OmegaConf.create(every)
        self.built = built
        key, self.backbone = self.network(cfg.backbone)
        towers = cfg.student.get("others") or {}
        known, self.others = {}, {}
        for name in towers:
            known[name], self.others[name] = self.network(towers[name])
        own: Any = OmegaConf.to_container(cfg)
        self.own = {"objective": own["objective"], "teacher": own["teacher"], "heads": own["student"].pop("heads")}
        self.kind = {**own["student"], "backbone": key, "texts": texts, "others": known}
        self.objectives: dict[str, Objective] = {}  # by their nodes
        self.which = {key: cfg[key] for key in ("student_views", "teacher_views")}
        self.views, self.optimizer, self.feature_mixer = map(build, (cfg.views, shipped.optimizer, cfg.feature_mixer))
        self.mixer = build(cfg.mixer if "_target_" in cfg.mixer else None)
        self.masker = build(cfg.masker if "_target_" in cfg.masker else None)

    def refusal(self, host: bool = False, **replaced: Any) -> str:
        """Why a run with these parts in the place of the method's is refused, in one sentence; "" where it is not.

        Args:
            host: whether the objective alone is asked for.
            replaced: "heads", "teacher" or "objective" -> its node.
        """
        parts = {**self.own, **replaced}
        try:
            student = self.student(parts)
            objective = self.objective(parts, student)
            if not host:
                self.module(student, objective, self.teacher(parts))
        except ValueError as error:
            return str(error)
        return ""

    def network(self, node: DictConfig) -> tuple[str, Any]:
        """A backbone, and what it is known by."""
        key = json.dumps(OmegaConf.to_container(node, resolve=True))
        if key not in self.built.backbones:
            with torch.device("meta"):
                self.built.backbones[key] = build(node)
        return key, self.built.backbones[key]

    def config(self, parts: dict[str, Any], wanted: str) -> DictConfig:
        """A part, the data, and the other parts that it refers to."""
        text = json.dumps(parts[wanted])
        for name, place in (("heads", "student"), ("objective", "objective"), ("teacher", "teacher")):
            if name == wanted or f"${{{place}." in text:
                self.data[place] = {"heads": parts["heads"]} if name == "heads" else parts[name]
        return self.data

    def student(self, parts: dict[str, Any]) -> Encoder:
        """With these heads; a mixer that works inside a student, or learns from it, has one of its own.

        Raises:
            ValueError: there is none with these heads.
        """
        key = json.dumps([self.kind, parts["heads"], *asking(parts["heads"], "${objective", parts["objective"])])
        own = self.mixer is not None and (self.mixer.hidden or self.mixer.learns)
        if key not in self.built.students or own:
            try:
                with torch.device("meta"):
                    self.built.students[key] = self.build_student(self.config(parts, "heads").student.heads)
            except ValueError as error:
                self.built.students[key] = str(error)
        if isinstance(found := self.built.students[key], str):
            raise ValueError(found)
        return found

    def objective(self, parts: dict[str, Any], student: Encoder) -> Objective:
        """One for all heads, unless it is as wide as the outputs of some are."""
        text = json.dumps(parts["objective"])
        key = json.dumps([text, {output: student.dims.get(output) for output in WIDTH.findall(text)}])
        if key not in self.objectives:
            with torch.device("meta"):
                self.objectives[key] = build(with_widths(self.config(parts, "objective").objective, student))
        return self.objectives[key]

    def teacher(self, parts: dict[str, Any]) -> Any:
        """One for all methods."""
        key = json.dumps(parts["teacher"])
        if key not in self.built.teachers:
            with torch.device("meta"):
                self.built.teachers[key] = build(self.config(parts, "teacher").teacher)
        return self.built.teachers[key]

    def build_student(self, heads: DictConfig) -> Any:
        """As the method's file says: one encoder, or one a modality."""
        if self.others:
            main, alone = self.kind["main"], self.kind.get("main_heads", ())
            return AlikeTowers(self.backbone, build(heads), main=main, others=self.others, main_heads=alone)
        return Encoder(self.backbone, build(heads), beside=dict.fromkeys(self.kind.get("beside", ()), self.backbone))

    def module(self, student: Encoder, objective: Objective, teacher: Any) -> None:
        """Puts a module together, as ``build_module`` does."""
        SSLModule(
            views=self.views,
            student=student,
            objective=objective,
            optimizer=self.optimizer,
            teacher=teacher,
            mixer=self.mixer,
            masker=self.masker,
            feature_mixer=self.feature_mixer,
            **self.which,
        )


KINDS = (
    "besides, which nothing would train",
    "of the student, but the head that was chosen has",
    "of all towers, which is",
    "reads one vector a sample of",
    "has source=",
    "reads no teacher",
    "needs a teacher",
    "teacher.heads names",
    "takes no terms of mixtures",
    "",
)
"""What tells the kinds of refusals apart, the more special first; the page shows one sentence of each."""


def kind_of(sentence: str) -> str:
    """Which of ``KINDS`` a refusal is; "" also for what is none."""
    return next(kind for kind in KINDS if kind in sentence)


@functools.cache
def refused(overrides: str) -> str:
    """The sentence in which a command ends before it trains."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=overrides.split())
    try:
        build_module(cfg, has_labels=True, num_samples=4000)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{overrides} trains")


def compositions_page(root: Path) -> str:
    """docs/compositions.md."""
    found = verdicts(root)
    lines = [
        "# Compositions",
        "",
        "<!-- generated by python -m tools.pages.readme -->",
        "",
        "A method is a head, a teacher and an objective beside its views and optimizer, and each can be replaced: "
        "`python train.py method=simclr head=barlow_twins objective=dcl`. A head has outputs, and an objective says "
        "which of them it reads, and which views are queries and which keys; a run whose parts do not fit is refused "
        "before it begins. A run is called by what it is composed of, "
        "`simclr + objective=dcl head=barlow_twins`, in its folder, its tables and its page.",
        "",
        *group_table(root, "head", "A head is what stands between the backbone and the objective"),
        *group_table(root, "teacher", "A teacher is a second encoder that follows the first"),
        "## Which objective goes with which head and teacher",
        "",
        "Each objective with the other parts of the method in its row. *Host*: Un-Mix and MixCo can add their terms of "
        "mixtures to it. Numbers are those of the sentences below.",
        "",
        *matrix(found),
        "",
        "## Ten and more refused crosses",
        "",
    ]
    for overrides in REFUSED:
        lines += [f"- `python train.py {overrides}`", f"  {refused(overrides)}"]
    return "\n".join(lines) + "\n"


def group_table(root: Path, group: str, heading: str) -> list[str]:
    """All choices of a group, each with what its file says of it and its outputs."""
    lines = [f"## {heading}", "", f"| `{group}=` | | outputs |", "| --- | --- | --- |"]
    for name in names_of(root, group):
        node = part(root, group, name) or {}
        path = f"configs/{group}/{name}.yaml"
        outputs = node.get("heads") or [output for output, one in node.items() if isinstance(one, dict)]
        said = " ".join(line.strip() for line in comment(root / path))
        lines.append(f"| [`{name}`](../{path}) | {said} | {', '.join(outputs) or '-'} |")
    return [*lines, ""]


def matrix(found: Verdicts) -> list[str]:
    """The table of verdicts, alike rows and columns together, and a sentence of each kind of refusal."""
    columns = [("head", names) for names in alike(accepting(found.head))]
    columns += [("teacher", names) for names in alike(accepting(found.teacher))]
    rows = alike({objective: row_of(found, objective, columns) for objective in found.method})
    kinds: dict[str, str] = {}
    heads = " | ".join(f"{group}: {', '.join(f'`{name}`' for name in names)}" for group, names in columns)
    lines = [f"| objective (method) | {heads} | host |", "| --- |" + " --- |" * (len(columns) + 1)]
    for row in rows:
        first = row[0]
        cells = [getattr(found, group)[first][names[0]] for group, names in columns] + [found.host[first]]
        for sentence in filter(None, cells):
            kinds.setdefault(kind_of(sentence), sentence)
        shown = [f"no [{[*kinds].index(kind_of(cell)) + 1}]" if cell else "yes" for cell in cells]
        named = [f"`{o}`" + (f" ({found.method[o]})" if found.method[o] != o else "") for o in row]
        lines.append(f"| {', '.join(named)} | {' | '.join(shown)} |")
    return [*lines, "", *(f"{number}. {sentence}" for number, sentence in enumerate(kinds.values(), start=1))]


def accepting(refusals: dict[str, dict[str, str]]) -> dict[str, tuple[str, ...]]:
    """Choice -> the kind of refusal by each objective."""
    choices = next(iter(refusals.values()))
    return {
        choice: tuple(kind_of(of[choice]) if of[choice] else "yes" for of in refusals.values()) for choice in choices
    }


def row_of(found: Verdicts, objective: str, columns: list[tuple[str, list[str]]]) -> tuple[str, ...]:
    """The kind of refusal in each column, and as a host."""
    cells = [getattr(found, group)[objective][names[0]] for group, names in columns] + [found.host[objective]]
    return tuple(kind_of(cell) if cell else "yes" for cell in cells)
