"""Evaluation of a run folder, later: the same numbers, or other probes on the same features."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from torch import Tensor

from ssl_framework.build import build, build_data, build_module, load_run_config
from ssl_framework.callbacks import load_checkpoint
from ssl_framework.data.sources import Images
from ssl_framework.device import use_threads
from ssl_framework.evaluation.frozen import FrozenEvaluation, intervals, plain, raw_pixels
from ssl_framework.evaluation.protocol import protocol_of
from ssl_framework.module import SSLModule
from ssl_framework.report.tables import run_table
from ssl_framework.run import device_name, quiet, read_json, write_json


def load_run(folder: Path, overrides: list[str]) -> tuple[DictConfig, SSLModule]:
    """The config and the trained module of a run folder; nothing in it is unpickled or imported from elsewhere.

    Raises:
        FileNotFoundError, ValueError: no such run, an unknown key, or a folder that is not trusted.
    """
    cfg = load_run_config(folder)
    OmegaConf.set_struct(cfg, True)
    for item in overrides:
        key, found, value = item.partition("=")
        if not found:
            raise ValueError(f"{item!r} is not of the form key=value")
        try:
            OmegaConf.update(
                cfg, key, OmegaConf.create({"value": OmegaConf.from_dotlist([f"value={value}"]).value}).value
            )
        except OmegaConfBaseException as error:
            raise ValueError(f"the run's config has no key {key}: see {folder / 'config.yaml'}") from error
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    module = build_module(cfg, has_labels=True, num_samples=checkpoint["DataModule"].get("num_samples"))
    try:
        module.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: the checkpoint does not fit config.yaml: {' '.join(str(error).split())}"
        ) from error
    return cfg, module


def evaluate(folder: Path, overrides: list[str]) -> dict[str, float]:
    """Scores the last checkpoint with the run's own probes, after the overrides; writes ``evaluation.json``."""
    cfg, module = load_run(folder, overrides)
    data = build_data(cfg)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    module.to(device)
    evaluation: FrozenEvaluation = build(cfg.evaluation)
    if not data.has_labels:
        evaluation.probes, evaluation.head_probes = {}, {}
        if not evaluation.measures:
            raise ValueError(
                f"{folder} was trained on data without labels or without a test split: nothing can be scored but "
                "measures, and its evaluation has none"
            )
    saved = load_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]
    for callback in evaluation.beside:
        callback.load_state_dict(saved.get(callback.state_key, {}))
    scores = evaluation.score(evaluation.features_of(module), data, module.student, online=True)
    metrics = plain(scores)
    record = {"metrics": metrics, "intervals": intervals(scores)}
    record |= {"protocol": protocol_of(cfg.evaluation, overrides), "overrides": overrides}
    write_json(folder / "evaluation.json", {**record, "device": device_name(device)})
    return metrics


def references(folder: Path, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """What a run with ``evaluation.baselines=true`` would have scored before its first step.

    Args:
        folder: of a run on the CPU or on a GPU; only its config is read.
        names: of "raw_pixels" and "untrained".
    """
    cfg = load_run_config(folder)
    torch.manual_seed(cfg.seed)
    use_threads(cfg.trainer.num_threads)
    data = build_data(cfg)
    module = build_module(cfg, data.pretrain.labelled, data.pretrain.shape[0])
    evaluation: FrozenEvaluation = build(cfg.evaluation)
    features: dict[str, Callable[[Images], dict[str, Tensor]]] = {
        "raw_pixels": lambda images: {"": raw_pixels(images)},
        "untrained": evaluation.features_of(module),
    }
    students = {"untrained": module.student}
    return {name: plain(evaluation.score(features[name], data, students.get(name))) for name in names}


def main(arguments: list[str] | None = None) -> None:
    """``run=FOLDER`` and overrides of the run's config."""
    arguments = sys.argv[1:] if arguments is None else arguments
    folder, overrides = split_run(arguments, "python scripts/evaluate.py run=outputs/latest")
    quiet()
    try:
        metrics = evaluate(folder, overrides)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    shown = {"method": "run", "data": folder, "seed": "?", "baselines": {}, "images_per_second": 0, "wall_seconds": 0}
    shown |= {
        "device": "",
        **result,
        "metrics": metrics,
        "intervals": read_json(folder / "evaluation.json")["intervals"],
    }
    Console().print(run_table(shown))
    print(folder / "evaluation.json")


def split_run(arguments: list[str], example: str) -> tuple[Path, list[str]]:
    """The folder of ``run=``, and the other arguments."""
    folders = [a.removeprefix("run=") for a in arguments if a.startswith("run=")]
    if len(folders) != 1:
        sys.exit(f"error: say which run: {example}")
    return Path(folders[0]), [a for a in arguments if not a.startswith("run=")]
