"""One run: data, model, trainer, fit, result.json. Everything here happens in each process of the run.

``python -m ssl_framework.training.run FOLDER`` is what ``training.launch`` starts for each rank of a run whose folder
the command has prepared.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ssl_framework.build import build, build_data, build_module, check_labels
from ssl_framework.data.base import SPLITS, Split
from ssl_framework.device import accelerator_of, cpu_name, device_name, keep_freed_memory, use_threads
from ssl_framework.evaluation.after_training.base import AfterRun
from ssl_framework.evaluation.during_training.alarm import CollapseAlarm
from ssl_framework.evaluation.frozen import FrozenEvaluation, copied, count_parameters
from ssl_framework.evaluation.protocol import protocol_of
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.weights import load_checkpoint, load_into, read_weights
from ssl_framework.module import SSLModule
from ssl_framework.report.tables import cost_of, run_table
from ssl_framework.runs.config import config_hash
from ssl_framework.runs.folder import read_json, write_json
from ssl_framework.runs.messages import STOPPED, quiet
from ssl_framework.runs.provenance import commit, versions
from ssl_framework.training.checkpoints import AtomicCheckpointIO, Checkpoints, StopSignals
from ssl_framework.training.launch import local_processes
from ssl_framework.training.metrics_log import MetricsCSV
from ssl_framework.training.precision import settle_precision
from ssl_framework.training.progress import EvaluationLines, Progress


def begin_with_weights(module: SSLModule) -> None:
    """Gives every backbone of student and teacher the weights that its config names.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it cannot be read safely, or does not fit.
    """
    encoders = [module.student] if module.teacher is None else [module.student, module.teacher.encoder]
    for encoder in encoders:
        for backbone in (encoder.backbone, *encoder.beside.values()):
            assert isinstance(backbone, Backbone)
            if backbone.weights is not None:
                load_into(backbone, read_weights(Path(backbone.weights).expanduser()))


def run(cfg: DictConfig, folder: Path, about: dict[str, Any], resume: bool) -> str | None:
    """Trains and evaluates; rank 0 prints, writes ``result.json`` and returns.

    Args:
        cfg: the resolved config.
        folder: the run folder; ``config.yaml`` lies in it already.
        about: the names of the chosen method and data set, the overrides and the command.
        resume: continue from ``folder/checkpoints/last.ckpt``.

    Returns:
        Name of the signal that stopped the run, ``None`` if it ran to its end.
    """
    started = time.perf_counter()
    quiet()
    keep_freed_memory()
    source = commit()  # now: the tree may move on while the run goes
    console = Console()
    use_threads(cfg.trainer.num_threads)
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg, folder, resume)
    module = build_module(cfg, data.pretrain.labelled, data.pretrain.shape[0])
    check_labels(module.objective, data.pretrain.label if isinstance(data.pretrain, Split) else None)
    if cfg.previous is not None and not resume:
        module.student.take_over(load_checkpoint(Path(cfg.previous) / "checkpoints" / "last.ckpt")["state_dict"])
    settle_precision(cfg, folder)
    if cfg.trainer.compile:
        module.compile_parts()
    csv = MetricsCSV(folder)
    evaluation: FrozenEvaluation = build(cfg.evaluation)
    if isinstance(evaluation, AfterRun):
        raise ValueError(
            f"evaluation={evaluation.name} is of finished runs: choose evaluation=frozen for this one, and then "
            f"python scripts/evaluate.py run=<folder> evaluation={evaluation.name}"
        )
    report = build(OmegaConf.select(cfg, "report"))  # a run folder of an earlier version has no such key
    if not resume:
        evaluation.initial = copied(module.student)  # the untrained backbone is one without weights from elsewhere
        begin_with_weights(module)
    progress = Progress(console)
    signals = StopSignals()
    checkpoints = Checkpoints(folder / "checkpoints", cfg.trainer.checkpoint_every_n_epochs, signals)
    below = OmegaConf.select(cfg, "trainer.collapse_below")  # a run folder of an earlier version has no such key
    watching = [*([] if below is None else [CollapseAlarm(below)]), *evaluation.beside]
    callbacks = [signals, progress, *watching, evaluation, EvaluationLines(console, evaluation), checkpoints]
    trainer = build_trainer(cfg.trainer, folder, callbacks, [csv, *build_loggers(cfg.logger, folder, about, cfg.seed)])
    if trainer.is_global_zero:
        say_what_runs(console, cfg, about, module, data.pretrain.shape, trainer)
    step = 0
    if resume:
        step = int(load_checkpoint(checkpoints.path)["global_step"])
        last = -(-data.num_batches() // trainer.accumulate_grad_batches) * cfg.trainer.max_epochs
        if step >= last and (folder / "result.json").is_file():
            raise ValueError(f"{folder} is complete ({step} steps): raise trainer.max_epochs to train it further")
        csv.drop_after(step)
        if trainer.is_global_zero:
            console.print(f"resuming at step {step}", highlight=False)
    trainer.fit(module, datamodule=data, ckpt_path=str(checkpoints.path) if resume else None)
    if checkpoints.stopped_by is None and trainer.is_global_zero:
        before = {} if cfg.previous is None else read_json(Path(cfg.previous) / "result.json")
        result = {
            "metrics": evaluation.metrics,
            "intervals": evaluation.intervals,
            "baselines": before.get("baselines", evaluation.baselines),  # only the first stage begins untrained
            "protocol": protocol_of(cfg.evaluation, about["overrides"]),
            "method": about["method"],
            "data": about["data"],
            "seed": cfg.seed,
            "config_hash": config_hash(cfg),
            "versions": versions(),
            "commit": source,
            "precision": cfg.trainer.precision,
            "device": device_name(trainer.strategy.root_device),
            "cpu": cpu_name(),
            "processes": trainer.world_size,
            "images": {name: getattr(data, name).shape[0] for name in SPLITS},
            "steps": trainer.global_step,
            "resumed_at": step,
            "wall_seconds": round(time.perf_counter() - started, 2),
            "training_seconds": round(progress.seconds, 2),
            "evaluation_seconds": round(evaluation.seconds, 2),
            "images_per_second": round(progress.images_per_second, 1),
            "command": about["command"],
            "overrides": about["overrides"],
        }
        write_json(folder / "result.json", result)
        console.print(run_table(result) if result["metrics"] else cost_of(result), highlight=False)
    if report is not None and checkpoints.stopped_by is None:
        end_process_group()  # rank 0 goes on alone
        if trainer.is_global_zero:
            report_on(report, folder, trainer.loggers, console)
    return checkpoints.stopped_by


def end_process_group() -> None:
    """Leaves the other ranks, once all have come this far."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def report_on(report: Any, folder: Path, loggers: Sequence[Logger], console: Console) -> None:
    """Writes the page of a run that has ended (see ``report.page``), which nothing that goes wrong there can undo."""
    try:
        path = os.path.relpath(report.write(folder, loggers))
        console.print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        console.print(f"no report: {type(error).__name__}: {reason}", highlight=False, markup=False, soft_wrap=True)


def build_trainer(cfg: DictConfig, folder: Path, callbacks: list[L.Callback], loggers: list[Logger]) -> L.Trainer:
    """The Lightning Trainer; ``devices: auto`` are all local GPUs.

    Raises:
        ValueError: the machine lacks what the config asks for.
    """
    accelerator = accelerator_of(cfg)
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator is gpu, but there is no GPU here: choose trainer=cpu or trainer=ddp_cpu")
    for key in ("max_epochs", "max_steps"):
        if not isinstance(cfg[key], int) or (cfg[key] < 1 and (key == "max_epochs" or cfg[key] != -1)):
            raise ValueError(f"trainer.{key} is {cfg[key]}: it must be a whole number, at least 1")
    devices = local_processes(cfg)
    plugins: list[Any] = [AtomicCheckpointIO()]
    if cfg.slurm:
        plugins.append(SLURMEnvironment(auto_requeue=False))  # Checkpoints saves; main asks for the requeue
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=cfg.num_nodes,
        strategy="ddp" if devices * cfg.num_nodes > 1 else "auto",
        precision=cfg.precision,
        max_epochs=cfg.max_epochs,
        max_steps=cfg.max_steps,
        accumulate_grad_batches=cfg.accumulate_grad_batches,
        gradient_clip_val=cfg.gradient_clip_val,
        sync_batchnorm=cfg.sync_batchnorm,
        log_every_n_steps=cfg.log_every_n_steps,
        default_root_dir=str(folder),
        callbacks=callbacks,
        logger=loggers,
        plugins=plugins,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    # With several processes Lightning asks in every step, by a broadcast that the host waits for, whether rank 0 got a
    # SIGTERM. StopSignals and Checkpoints do that every few steps.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    return trainer


def build_loggers(cfg: DictConfig, folder: Path, about: dict[str, Any], seed: int) -> list[Logger]:
    """The chosen loggers beside metrics.csv; only rank 0 has any.

    Raises:
        ValueError: a logger cannot start (not installed, not logged in).
    """
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))):
        return []
    loggers = []
    for node in cfg.values():
        try:
            logger = build(node)
            logger.experiment  # noqa: B018  starts it now: a missing login must not surface after an hour
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"logger: {node._target_.rsplit('.', 1)[-1]} cannot start: {reason} (logger=csv always works)"
            ) from error
        loggers.append(logger)
    return loggers


def size_of(sample: Sequence[int]) -> str:
    """What the samples are called in a sentence, by the shape of one: pictures are three-dimensional."""
    if len(sample) == 3:
        channels, height, width = sample
        return f"images {height}x{width}x{channels}"
    return f"samples of {' x '.join(map(str, sample)) or 'one number'}"


def say_what_runs(
    console: Console,
    cfg: DictConfig,
    about: dict[str, Any],
    module: torch.nn.Module,
    shape: Sequence[int],
    trainer: Any,
) -> None:
    """One line: method, data, size of the model, device."""
    where = device_name(trainer.strategy.root_device)
    where += f" x {trainer.world_size}" if trainer.world_size > 1 else ""
    console.print(
        f"{about['method']} on {about['data']}: {shape[0]:,} {size_of(shape[1:])}, "
        f"batch {cfg.data.batch_size}, "
        f"{count_parameters(module) / 1e6:.2f} M trainable parameters, {where}",
        highlight=False,
        soft_wrap=True,
    )


def main(folder: Path) -> None:
    """One rank of a run whose folder is prepared; what it refuses lies in ``.refused.<rank>`` for the parent to say."""
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    about = json.loads((folder / "run.json").read_text())
    try:
        stopped_by = run(cfg, folder, about, about["resume"])
    except (ValueError, FileNotFoundError) as error:
        (folder / f".refused.{os.environ['RANK']}").write_text(str(error))
        os._exit(2)  # at once: an orderly end would wait for the other ranks
    if stopped_by is not None:
        sys.exit(STOPPED + signal.Signals[stopped_by])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
