"""The record of continued pretraining: python -m tools.continued OUTPUTS results/continue

A run of ours is the public weight: its export is gone on from on other images, with ``experiment=continue`` and, to
compare, with the method's own rate; and the same steps are made from random weights. Runs that are there are not made
again.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ssl_framework.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]

COMMON = (
    *("method=simclr", "backbone=tiny", "trainer=cpu", "trainer.num_threads=1", "report=none", "data.batch_size=128"),
    *("evaluation.every_n_epochs=0", "evaluation.probes.knn.k=20", "evaluation.probes.linear=null"),
)
PUBLIC = ("data=cifar10_10k", "trainer.max_epochs=6")
DATA = {
    "shapes": ("data=shapes", "data.source.num_train=6000"),
    "cifar10": ("data=cifar10", "data.source.num_train=6000", "data.source.num_test=2000"),
}
"""Of the second stage, which has two epochs."""

WAYS: dict[str, tuple[str, ...]] = {
    "experiment=continue": ("experiment=continue", "backbone.weights={weights}"),
    "the method's own rate": ("backbone.weights={weights}",),
    "from random weights": (),
}
"""How the second stage goes -> what the command has for it."""

SEEDS = (0, 1)


def train(folder: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    """One run, unless its folder has a result; that result."""
    run = RunFolder(folder)
    if not run.result_file.is_file():
        command = [sys.executable, str(ROOT / "train.py"), *arguments, f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True, cwd=ROOT)
    return run.read_result()


def rows(outputs: Path, weights: str) -> list[dict[str, Any]]:
    """One a run of the second stage: what was scored before, after and of random weights."""
    found = []
    for data, chosen in DATA.items():
        for way, own in WAYS.items():
            for seed in SEEDS:
                said = tuple(item.format(weights=weights) for item in own)
                length = "trainer.max_epochs=2"
                name = f"{data}-{list(WAYS).index(way)}-{seed}"
                result = train(outputs / name, (*COMMON, *chosen, *said, length, f"seed={seed}"))
                ((metric, after),) = result["metrics"].items()
                before, untrained = (result["baselines"].get(key, {}).get(metric) for key in ("before", "untrained"))
                scores = {"before": before, "after": after, "untrained": untrained}
                overrides = [item.replace(weights, "encoder.safetensors") for item in result["overrides"]]
                found.append({"data": data, "way": way, "seed": seed, "metric": metric, **scores})
                found[-1] |= {"steps": result["steps"], "command": "python train.py " + " ".join(overrides)}
    return found


def main() -> None:
    """Makes what is missing of the runs, and writes the record."""
    outputs, record = (Path(argument).resolve() for argument in sys.argv[1:])
    public, weights = train(outputs / "public", (*COMMON, *PUBLIC)), outputs / "encoder.safetensors"
    if not weights.is_file():
        export = [sys.executable, "scripts/export.py", f"run={outputs / 'public'}", f"out={weights}"]
        subprocess.run(export, check=True, cwd=ROOT)
    found = rows(outputs, str(weights))
    record.mkdir(parents=True, exist_ok=True)
    with (record / "table.csv").open("w", newline="") as file:
        out = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        out.writeheader()
        out.writerows(found)
    about = {key: public[key] for key in ("versions", "device", "cpu", "commit", "metrics", "baselines", "steps")}
    about["command"] = "python train.py " + " ".join(public["overrides"])
    (record / "public.json").write_text(json.dumps(about, indent=2) + "\n")
    (record / "command.txt").write_text("python -m tools.continued outputs/continued results/continue\n")


if __name__ == "__main__":
    main()
