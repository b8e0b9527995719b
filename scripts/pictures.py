"""Draws the README's pictures again: ``python scripts/pictures.py``."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from ssl_framework.build import build
from ssl_framework.report.pictures.base import show_views
from ssl_framework.runs.groups import CONFIGS
from tools.pages.readme_pictures import show_long_runs, show_run, show_speed

if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train")
    show_views(build(cfg.data.source).load("train"), build(cfg.views), root / "docs" / "shapes_views.png")
    show_run(root / "results" / "default", "knn[k=20,T=0.1]/top1", root / "docs" / "default_run.png")
    long = [root / "results" / "front_page" / name for name in ("simclr", "mochi")]
    show_long_runs(long, 100, ["knn[k=20,T=0.1]/top1", "linear[l2=0.0001]/top1"], root / "docs" / "long_runs.png")
    show_speed(root / "results" / "speed", root / "docs" / "speed.png")
