"""Which method trains on which modality, found by building: ``python -m tools.pages.modalities`` writes
results/modalities/verdicts.json, and docs/modalities.md shows it as a table.

A run is composed as the command line composes it, and its module built, as ``train.py`` does before the first step.
Nothing is read, drawn or trained.
"""

import json
import re
import warnings
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ssl_framework.build import build_module, modalities_of
from ssl_framework.runs.config import hosted
from ssl_framework.runs.groups import CONFIGS
from tools.pages.looked_up import looked_up_once

ROOT = Path(__file__).resolve().parents[2]
RECORD = "results/modalities/verdicts.json"

HOSTS = {
    **{"pictures": "shapes", "sounds": "spoken_digits", "series": "waves", "texts": "caption_texts"},
    **{"sequences": "item_markov", "nodes of a graph": "sbm", "pictures with captions": "captioned_shapes"},
}
"""What samples are called -> the embedded data set of them that verdicts are of, where there is one."""

SAMPLES = 4000
"""Of every set, for what keeps a state of each."""


def names(group: str) -> list[str]:
    """All choices of a group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def verdict(method: str, data: str) -> str:
    """Why a method is refused on data, without what to choose instead; "" where it trains."""
    overrides = [f"method={method}", f"data={data}"]
    try:
        cfg = hosted(compose("train", overrides), overrides)
        OmegaConf.resolve(cfg)
        mixes = bool(cfg.mixer) and "_target_" in cfg.mixer  # a mixer is tried out, which takes values
        with torch.device("cpu" if mixes else "meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build_module(cfg, has_labels=True, num_samples=SAMPLES)
    except ValueError as error:
        return re.split(r": (?:choose|set) ", str(error))[0]
    return ""


@looked_up_once()
def verdicts(methods: list[str], data: list[str]) -> dict[str, dict[str, str]]:
    """Method -> data -> ``verdict``."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return {method: {each: verdict(method, each) for each in data} for method in methods}


KINDS = {
    "mixes pictures": "it mixes pictures",
    "has towers of": "it has an encoder for each of several modalities",
    "has not, being of modality": "a part of it is made for another modality, such as a backbone with patches",
    "is about pictures": "it has views of pictures that no others stand for",
    "noise or geometry of pictures": "it changes or compares places of pictures in its views",
    "source=map": "it compares maps of positions",
    "needs blocks that can be named": "it reads maps inside the network",
    "generated images": "it brings generated pictures of one data set",
    "has no": "it reads what the data have not",
    "": "other parts of it are made for pictures",
}
"""What tells refusals apart, the more special first -> what the table says of them."""


def kind_of(sentence: str) -> str:
    """Which of ``KINDS`` a refusal is."""
    return next(kind for kind in KINDS if kind in sentence)


def modalities_table(root: Path) -> str:
    """Methods that go together in one row, and below what the refusals are, with a sentence of each kind."""
    found: dict[str, dict[str, str]] = json.loads((root / RECORD).read_text())
    shown = [name for name, data in HOSTS.items() if data in next(iter(found.values()))]
    rows: dict[tuple[str | None, ...], list[str]] = {}
    for method, own in found.items():
        key = tuple(kind_of(own[HOSTS[name]]) if own[HOSTS[name]] else None for name in shown)
        rows.setdefault(key, []).append(method)
    used = [kind for kind in KINDS if any(kind in key for key in rows)]
    counts = [sum(not own[HOSTS[name]] for own in found.values()) for name in shown]
    lines = [
        "| methods | " + " | ".join(f"{name} (`{HOSTS[name]}`)" for name in shown) + " |",
        "| --- |" + " --- |" * len(shown),
        f"| all {len(found)} | " + " | ".join(f"{count} train" for count in counts) + " |",
    ]
    for key, methods in sorted(rows.items(), key=lambda row: (-len(row[1]), row[1])):
        cells = ["yes" if kind is None else f"no [{used.index(kind) + 1}]" for kind in key]
        links = ", ".join(f"[`{method}`](docs/methods/{method}.md)" for method in methods)
        lines.append(f"| {links} | {' | '.join(cells)} |")
    lines.append("")
    for number, kind in enumerate(used, start=1):
        pairs = ((m, d, s) for m, own in found.items() for d, s in own.items() if s and kind_of(s) == kind)
        method, data, sentence = next(pairs)
        lines.append(f"{number}. {KINDS[kind]}; `method={method} data={data}`: {sentence}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the record."""
    from tools.parse_once import parse_once

    parse_once()
    data = [each for each in HOSTS.values() if each in names("data")]
    assert len({modalities_of(OmegaConf.load(CONFIGS / "data" / f"{each}.yaml")) for each in data}) == len(data)
    path = ROOT / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(verdicts(names("method"), data), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
