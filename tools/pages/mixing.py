"""docs/mixing.md: the mixers, and which method takes which; every verdict is that of the code that builds a run."""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from ssl_framework.build import WIDTHS, build
from ssl_framework.report.comparison import protocol_line, read_record, table_of
from ssl_framework.runs.config import leaves
from ssl_framework.runs.groups import CONFIGS
from ssl_framework.wiring import check_wiring
from tools.pages.looked_up import looked_up_once
from tools.pages.methods import comment, composed_by

BUDGET = (
    "It shows that they train together; papers see the gain of mixing after hundreds of epochs, and a budget of "
    "minutes can neither show nor refute it."
)


RECORDS = {
    "mixing": ("In self-supervision", ("knn[k=20,T=0.1]/top1", "linear[l2=0.0001]/top1"), BUDGET),
    "mixing_supervised": (
        "Supervised",
        ("classifier/top1", "classifier/ece[bins=15]", "knn[k=20,T=0.1]/top1"),
        f"classifier is the run's own head; ece its expected calibration error, percent. {BUDGET}",
    ),
}
"""Folder of results -> heading, metrics shown, and what else these mean."""


COST = (
    "*of a step*: time of mixing one view of 128 images of 32 px, in percent of a training step of SimCLR with the "
    "tiny backbone: median, and least to greatest of the rounds ([record](../results/speed_mixers)). Mixers inside the "
    "network draw only their shares there; what learned ones add to the backward pass is not in it."
)


LEFT_OUT = {
    "Co-Mixup": "all mixtures of a batch are chosen together, by an iterative solver that takes longer than the step",
    "SuperMix": "the masks are optimised through a trained teacher, for every batch anew",
    "AdAutoMix": "a mask net against a classifier in turns, with a backward pass each; `automix` has one",
    "SUMix": "the shares follow from distances of features that the classifier's own loss trains",
    "TLA (token-label alignment)": "labels are carried through every attention layer of the network that is trained",
}
"""Policies of OpenMixup (arXiv:2209.04851) that are no mixer here, and why."""


class MixerFile(NamedTuple):
    """One file of configs/mixer."""

    name: str
    title: str  # what it is, and its paper
    notes: str  # the rest of the comment at its top
    node: DictConfig


def read_mixers(root: Path) -> list[MixerFile]:
    """All mixers of a source tree, by name."""
    found = []
    for path in sorted((root / "configs" / "mixer").glob("*.yaml")):
        whole = " ".join(line.strip() for line in comment(path))
        cited = re.match(r".*?\(arXiv:\d{4}\.\d{5}\)", whole)
        title = cited[0] if cited else whole.partition(". ")[0]
        notes = whole.removeprefix(title).lstrip(" .;,:")
        node = OmegaConf.load(path)
        assert isinstance(node, DictConfig)
        if node:
            found.append(MixerFile(path.stem, title, notes, node))
    return found


def read_speed(root: Path) -> dict[str, str]:
    """Mixer -> its cost in percent of a step, ``3.1 (2.9 to 3.4)``; nothing without the record."""
    path = root / "results" / "speed_mixers" / "benchmark.json"
    figures = json.loads(path.read_text())["mixers"] if path.is_file() else {}
    costs = {name.removesuffix("/over_step"): value for name, value in figures.items() if name.endswith("/over_step")}
    percent = {name: [f"{100 * value[key]:.1f}" for key in ("median", "min", "max")] for name, value in costs.items()}
    return {name: f"{median} % ({low} to {high})" for name, (median, low, high) in percent.items()}


@looked_up_once()
def verdicts(root: Path, methods: Sequence[str]) -> dict[str, dict[str, str]]:
    """Method -> mixer -> why it is refused, "" where it is accepted, for the methods' own settings.

    A method's file may set keys of the mixer, which is composed before it.
    """
    mixers = read_mixers(root)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        shipped = compose("train")
    built: dict[tuple[str, str], Any] = {}  # mixer, and what a method's file sets of it
    found: dict[str, dict[str, str]] = {}
    for method in methods:
        cfg = chosen_for(root, method, shipped)
        for place, value in list(leaves(OmegaConf.to_container(cfg.objective, resolve=False))):
            if place.split(".")[-1] in WIDTHS and isinstance(value, str):  # as wide as an output
                OmegaConf.update(cfg.objective, place, 192)  # any number does here that attention heads divide
        objective, views, feature_mixer = build(cfg.objective), build(cfg.views), build(cfg.feature_mixer)
        found[method] = {}
        said, seen = OmegaConf.to_yaml(cfg.mixer), (views.num_views, cfg.student_views, cfg.teacher_views)
        for mixer in mixers:
            key = mixer.name, said
            if key not in built:
                built[key] = build(OmegaConf.merge(mixer.node, cfg.mixer))
            try:
                check_wiring(objective, cfg.teacher is not None, built[key], feature_mixer, *seen)
                found[method][mixer.name] = ""
            except ValueError as error:
                found[method][mixer.name] = str(error)
    return found


def chosen_for(
    root: Path, method: str, shipped: DictConfig, groups: Sequence[str] = ("views", "feature_mixer")
) -> DictConfig:
    """What a method's file says on the default data, as far as wiring asks for it, with its own choice of ``groups``.

    That is what Hydra composes, in a fiftieth of the time.
    """
    own = OmegaConf.create(composed_by(root / "configs" / "method" / f"{method}.yaml", root))
    chosen = {key.split("/")[-1]: value for item in own.pop("defaults", []) for key, value in item.items()}
    default = {"backbone": "tiny", "views": "simclr", "feature_mixer": "none", "mixer": "none", "masker": "none"}
    data, brought = data_of(root, chosen.get("data"), shipped)
    default["backbone"] = brought or "tiny"
    backbone = read_part(root / "configs" / "backbone" / f"{default['backbone']}.yaml") if brought else shipped.backbone
    files = {
        group: read_part(root / "configs" / group / f"{chosen.get(group) or default[group]}.yaml")
        for group in groups
        if group in {**chosen, **default}
    }
    empty: dict[str, Any] = {"teacher": None, "student_views": None, "teacher_views": None, "mixer": {}}
    around = {"data": data, **({} if "backbone" in groups else {"backbone": backbone})}
    cfg = OmegaConf.merge(around, empty, files, own)
    assert isinstance(cfg, DictConfig)
    return cfg


def data_of(root: Path, name: str | None, shipped: DictConfig) -> tuple[DictConfig, str]:
    """The data that a method brings, and the backbone that they choose, if any; else the default ones and ""."""
    if not name:
        return shipped.data, ""
    own = read_part(root / "configs" / "data" / f"{name}.yaml")
    items = [item for chosen in own.get("defaults") or () for item in chosen.items()]
    chosen = [value for key, value in items if key.startswith("override /backbone")]
    return OmegaConf.masked_copy(own, [key for key in own if key != "defaults"]), next(iter(chosen), "")


@functools.cache
def read_part(path: Path) -> Any:
    """A file of configs, not to be changed."""
    return OmegaConf.load(path)


def mixing_page(root: Path) -> str:
    """docs/mixing.md."""
    methods = sorted(path.stem for path in (root / "configs" / "method").glob("*.yaml"))
    mixers = read_mixers(root)
    lines = [
        "# Mixing",
        "",
        "<!-- generated by python -m tools.pages.readme -->",
        "",
        "`mixer=<name>` mixes views, `feature_mixer=<name>` embeddings ([methods](methods.md): the page of each says "
        "which it takes). A mixer says of every pixel how much of it is of which sample; labels are the means of "
        "that unless the table says otherwise. `mixer.views` chooses the views, `mixer.probability` how many samples, "
        "`mixer.start` and `mixer.stop` the part of the run: `mixer.stop=0.5` is early-stopped mixup.",
        "",
        "![what the mixers make of the same two images](pictures/mixer_gallery.png)",
        "",
        "```",
        "python train.py method=mocov2 mixer=cutmix feature_mixer=mochi   # mixed images and mixed negatives",
        "python train.py method=unmix_byol mixer=fmix                     # Un-Mix's loss on BYOL, other mixtures",
        "python train.py method=supervised mixer=mixup mixer.stop=0.75    # mixup stopped early, with calibration",
        "python train.py method=supervised backbone=vit_tiny mixer=transmix",
        "python train.py method=dacl data=digits backbone=mlp             # mixtures as views, of vectors",
        "python scripts/show.py mixer=puzzlemix data=cifar10 data.root=data",
        "```",
        "",
        "```",
        "$ python train.py method=hallucinator mixer=cutmix",
        "error: Hallucinator changes positive pairs, but with CutMix a positive is a mixture of two: set mixer=none or "
        "feature_mixer=none",
        "```",
        "",
        "![every mixer on the embedded data set](pictures/mixers.png)",
        "",
        "Made by `python scripts/show.py mixers --out docs/pictures`; one mixer alone by `python scripts/show.py "
        "mixer=fmix data=cifar10`. The network is untrained here, so masks that a network draws are still nearly flat. "
        "Left out are mixers inside the network.",
        "",
        "## Mixers",
        "",
    ]
    speed = read_speed(root)
    lines += ["| `mixer=` | | |" + " of a step |" * bool(speed), "| --- | --- | --- |" + " --- |" * bool(speed)]
    for m in mixers:
        cost = f" {speed.get(m.name, 'not measured')} |" if speed else ""
        lines.append(f"| [`{m.name}`](../configs/mixer/{m.name}.yaml) | {m.title} | {m.notes} |{cost}")
    if speed:
        lines += ["", COST]
    lines += ["", "Of OpenMixup's policies (Li et al., 2022, arXiv:2209.04851) these are left out:", ""]
    lines += [f"- {name}: {reason}." for name, reason in LEFT_OUT.items()]
    lines += ["", "## Which method takes which mixer", ""]
    found = verdicts(root, methods)
    columns = alike({m.name: tuple(found[method][m.name] == "" for method in methods) for m in mixers})
    # The first word of a refusal is the part that refuses.
    rows = alike({method: tuple(found[method][c[0]].partition(" ")[2] for c in columns) for method in methods})
    reasons: dict[str, str] = {}  # without the mixer's name -> the first with it
    lines += ["| method | " + " | ".join(", ".join(f"`{name}`" for name in column) for column in columns) + " |"]
    lines += ["| --- |" + " --- |" * len(columns)]
    rules = {m.name: m.node.rule._target_.rpartition(".")[2] for m in mixers}
    for row in rows:
        cells = []
        for column in columns:
            reason = found[row[0]][column[0]]
            key = reason.replace(rules[column[0]], "it")
            reasons.setdefault(key, reason)
            cells.append(f"no [{[*filter(None, reasons)].index(key) + 1}]" if reason else "yes")
        lines.append(f"| {', '.join(f'`{name}`' for name in row)} | {' | '.join(cells)} |")
    lines += ["", "Why, for the first method and mixer of each group:", ""]
    lines += [f"{number}. {reason}" for number, reason in enumerate(filter(None, reasons.values()), start=1)]
    for name, (heading, metrics, meaning) in RECORDS.items():
        record = read_record(root / "results" / name)
        if record is not None:
            lines += ["", f"## {heading}", "", f"{protocol_line(record.about)} {meaning}".strip(), ""]
            lines += [
                table_of(record, metrics),
                "",
                f"[Record](../results/{name}), [command](../results/{name}/command.txt)",
            ]
    return "\n".join(lines) + "\n"


def alike(patterns: dict[str, tuple[Any, ...]]) -> list[list[str]]:
    """Names of equal patterns together, in the order of their first."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, pattern in patterns.items():
        groups.setdefault(pattern, []).append(name)
    return list(groups.values())
