"""The page of a run that trains: what is known by now, without a look at images or weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ssl_framework.report.html import embedded, rendered
from ssl_framework.report.lines import Curve, drawn_lines
from ssl_framework.report.page import Part, scores_in
from ssl_framework.report.pictures.curves import RATE, TITLES, family, parameters, spaced
from ssl_framework.runs.folder import RunFolder, write

RELOADED = 30
"""Seconds after which a browser reads the page anew."""


class Known(NamedTuple):
    """What is known of a run that trains."""

    cfg: DictConfig
    about: Mapping[str, Any]  # names, overrides, command
    scores: Mapping[str, Any]  # metrics, intervals, baselines of the last evaluation
    device: str


def write_live(folder: Path, known: Known, state: str, going: bool) -> None:
    """Writes ``report.html``, whole or not at all.

    Args:
        folder: of the run.
        known: of it.
        state: a sentence that says how far it is.
        going: whether it goes on; the page is then read anew by itself.
    """
    run, cfg = RunFolder(folder), known.cfg
    panels = panels_of(run.read_metrics())
    words = "As logged by now. Pictures of images and features come with the end of the run."
    facts = {
        "method": known.about["method"],
        "data": known.about["data"],
        "length": f"{cfg.trainer.max_epochs} epochs, batch {cfg.data.batch_size}",
        "device": known.device,
        "precision": cfg.trainer.precision,
    }
    text = rendered(
        "run.html",
        title=f"{known.about['method']} on {known.about['data']}, seed {cfg.seed}",
        state=state,
        reload=RELOADED if going else 0,
        scores=scores_in(known.scores, cfg, known.about["overrides"]),
        facts=facts,
        command=known.about["command"],
        parts=[Part("Curves", embedded(drawn_lines(panels), "svg+xml"), words)] if panels else [],
        config=OmegaConf.to_yaml(cfg),
    )
    write(run.page_file, text)


def panels_of(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Title -> curves: each evaluated family of metrics, then the loss and what is logged beside it."""
    panels: dict[str, dict[str, Curve]] = {}
    evaluated = [name for name in curves if name.startswith("eval/")]
    trained = sorted(set(curves) - set(evaluated), key=lambda name: (name != "train/loss", name))
    for name in evaluated:
        metric = name.removeprefix("eval/")
        panels.setdefault(spaced(family(metric)), {})[parameters(metric)] = curves[name]
    for name in trained:
        title = RATE.sub("train/lr", name)
        panels.setdefault(TITLES.get(title, spaced(title.removeprefix("train/"))), {})[own_name(name)] = curves[name]
    return panels


def own_name(name: str) -> str:
    """What tells a curve of training from others in its panel: of the rates, the group of parameters."""
    return f"group {name.rpartition('_')[2]}" if RATE.fullmatch(name) else ""
