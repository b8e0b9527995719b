"""Draws mixers, views and runs.

    python scripts/show.py mixer=cutmix data=cifar10     what a mixer does to images
    python scripts/show.py mixers | gallery              one row for each mixer; one column for each, of two images
    python scripts/show.py views method=byol data=digits images and two views of each
    python scripts/show.py report run=outputs/latest     the page of a run, report.html in its folder
    python scripts/show.py neighbours run=outputs/latest test images and their nearest neighbours
    python scripts/show.py embedding run=outputs/latest  features in the plane (by=tsne, pca or umap)
    python scripts/show.py nonfinite run=outputs/latest  makes the step again at which a run was no longer finite

Each prints the path of what it has written, the last one a table. Further key=value change the config, such as
data.root=data.
"""

import argparse
import difflib
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf
from rich.console import Console

from ssl_framework.device import accelerator_of, use_threads
from ssl_framework.loading import load_run_config
from ssl_framework.report.inspection import Inspection
from ssl_framework.report.page import Page
from ssl_framework.report.pictures.features import PLANES, draw_embedding, draw_neighbours
from ssl_framework.report.pictures.mixtures import show_all, show_both_views, show_one, show_side_by_side
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.groups import CONFIGS, admit
from ssl_framework.runs.messages import as_typed, commanded, quiet, refusing, typed
from ssl_framework.runs.overrides import override_each
from ssl_framework.runs.typed_paths import path_of
from ssl_framework.training.replay import make_again, ranks_of, read_step, step_table, verdict

DRAWERS = {"": show_one, "mixers": show_all, "gallery": show_side_by_side, "views": show_both_views}


OF_RUNS = ("report", "neighbours", "embedding")


REPLAY = "nonfinite"


@commanded()
def main(arguments: list[str] | None = None) -> None:
    """Entry point; draws, and prints the path of the picture or the page."""
    parser = argparse.ArgumentParser(
        prog=typed("show"), description=as_typed(str(__doc__)), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="[word] key=value")
    parser.add_argument("--out", type=Path, help="folder of the picture; outputs/show, or pictures in the run folder")
    given = parser.parse_intermixed_args(admit(sys.argv[1:] if arguments is None else arguments))
    words = [word for word in given.words if "=" not in word]
    overrides = [word for word in given.words if "=" in word]
    what, known = " ".join(words), [*filter(None, DRAWERS), *OF_RUNS, REPLAY]
    if len(words) > 1 or what not in ("", *known):
        near = difflib.get_close_matches(what, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        parser.error(f"{what!r}{meant} is neither key=value nor one of {', '.join(known)}")
    with refusing():
        if not what and any(item.startswith("run=") for item in overrides):
            raise ValueError(f"say what to show of the run: {', '.join(OF_RUNS)} or {REPLAY}, before run=")
        if what == REPLAY:
            show_step(overrides, given.out)
        elif what in OF_RUNS:
            print(show_run(what, overrides, given.out))
        else:
            print(DRAWERS[what](overrides, given.out or Path("outputs") / "show"))


def show_run(what: str, overrides: list[str], out: Path | None) -> Path:
    """The page of a run, or one picture of it.

    Args:
        what: of ``OF_RUNS``.
        overrides: ``run=FOLDER``, ``by=KIND`` for an embedding, and keys of the run's config.
        out: folder of the picture; ``None``: pictures in the run folder.

    Raises:
        FileNotFoundError, ValueError: no run, an unknown key or kind, or something that cannot be drawn.
    """
    own = {key: [o.partition("=")[2] for o in overrides if o.startswith(f"{key}=")] for key in ("run", "by")}
    others = [o for o in overrides if o.partition("=")[0] not in own]
    if len(own["run"]) != 1:
        raise ValueError(f"say which run: python scripts/show.py {what} run=outputs/latest")
    if own["by"] and what != "embedding":
        raise ValueError(f"by={own['by'][0]} is of the word embedding, not of {what}: leave it out")
    kind = own["by"][-1] if own["by"] else "tsne"
    if kind not in PLANES:
        raise ValueError(f"by={kind} is not known: choose {', '.join(PLANES)}")
    quiet()
    folder, settings = path_of(own["run"][0]), OmegaConf.load(CONFIGS / "report" / "page.yaml")
    if what == "report":
        if out is not None:
            raise ValueError("the page lies in the run folder: leave out --out")
        return Page(settings.num_images, tsne=True, seed=settings.seed).write(folder, overrides=others)
    seen = Inspection(folder, others, settings.num_images, settings.seed)
    use_threads(seen.stored.trainer.num_threads)
    path = (out or RunFolder(folder).pictures) / (f"embedding_{kind}.png" if what == "embedding" else f"{what}.png")
    if what == "embedding":
        draw_embedding(seen, path, (kind,))
    else:
        draw_neighbours(seen, path)
    return path


def show_step(overrides: list[str], out: Path | None) -> None:
    """Prints why a run stopped at a number that is not finite, and what its step gives when it is made again.

    Of several ranks the first whose step is not finite again is shown, or else the first.

    Args:
        overrides: ``run=FOLDER``, and keys of the run's config.
        out: there is nothing to write.

    Raises:
        FileNotFoundError, ValueError: there is no such run, or no such step of it.
    """
    folders = [o.partition("=")[2] for o in overrides if o.startswith("run=")]
    if len(folders) != 1:
        raise ValueError(f"say which run: python scripts/show.py {REPLAY} run=outputs/latest")
    if out is not None:
        raise ValueError(f"{REPLAY} prints a table: leave out --out")
    quiet()
    run = RunFolder(Path(folders[0]))
    cfg = load_run_config(run.path)
    override_each([cfg], [o for o in overrides if not o.startswith("run=")], str(run.config_file))
    use_threads(cfg.trainer.num_threads)
    device = torch.device("cuda" if accelerator_of(cfg.trainer) == "gpu" and torch.cuda.is_available() else "cpu")
    steps = [read_step(run, rank) for rank in ranks_of(run)]
    tried = ((step, make_again(cfg, step, device)) for step in steps)
    first = step, made = next(tried)
    if not made.wrong:
        step, made = next((pair for pair in tried if pair[1].wrong), first)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(step.message, highlight=False, markup=False, soft_wrap=True)
    console.print(step_table(step, made))
    console.print(verdict(step, made), highlight=False, markup=False, soft_wrap=True)
