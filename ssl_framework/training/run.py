"""One run: everything is prepared, then it descends once. All here happens in each process of the run."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ssl_framework.build import modalities_of, refuse_wrong
from ssl_framework.device import device_name, keep_freed_memory, use_threads
from ssl_framework.distributed import alone, united
from ssl_framework.evaluation.frozen import count_parameters
from ssl_framework.models.weights import Newest, newest_checkpoint
from ssl_framework.report.tables import cost_of, run_table
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.messages import quiet
from ssl_framework.runs.numbers import several
from ssl_framework.runs.settings import refuse_settings
from ssl_framework.runs.stopping import stop
from ssl_framework.runs.system import under_way
from ssl_framework.training.loggers import Tracker
from ssl_framework.training.loops import Position
from ssl_framework.training.parts import Parts, prepare
from ssl_framework.training.place import environment
from ssl_framework.training.restored import position_in
from ssl_framework.training.result import result_of

Change = Callable[[Parts], None]
"""What is done to the parts of a run before it descends."""


def run(cfg: DictConfig, folder: Path, about: dict[str, Any], resume: bool, change: Change | None = None) -> str | None:
    """Trains and evaluates; rank 0 prints, writes ``result.json`` and returns.

    Args:
        cfg: the resolved config.
        folder: the run folder; ``config.yaml`` lies in it already.
        about: the names of the chosen method and data set, the overrides and the command.
        resume: continue from the newest whole checkpoint of the folder.
        change: called with the parts before the descent; ``None``: they stay as the config has them.

    Returns:
        Name of the signal that stopped the run, ``None`` if it ran to its end.
    """
    refuse_settings(cfg)
    refuse_wrong(OmegaConf.to_container(cfg, resolve=True), "")  # all of it, before any data are read
    settle_process(cfg)
    parts = prepare(cfg, folder, about, resume)
    with ending(parts.trainer.loggers):
        if change is not None:
            change(parts)
        say_what_runs(parts)
        newest = newest_checkpoint(RunFolder(folder)) if resume else None
        step = steps_done(parts, newest) if newest is not None else 0
        path = None if newest is None else str(newest.path)
        with under_way(), threads_as_settled(cfg):
            parts.trainer.fit(parts.module, datamodule=parts.data, ckpt_path=path)
            if parts.checkpoints.stopped_by is None:
                conclude(parts, step)
    return parts.checkpoints.stopped_by


@contextlib.contextmanager
def ending(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends what the run has at loggers: the next one of this process, a job or a stage, has its own there."""
    whole = False
    try:
        yield
        whole = True
    finally:
        for logger in loggers:
            if isinstance(logger, Tracker):
                logger.end(whole)


def settle_process(cfg: DictConfig) -> None:
    """Notes, memory, threads and seed, which are the process's and not the run's."""
    quiet()
    keep_freed_memory()
    use_threads(cfg.trainer.num_threads)
    L.seed_everything(cfg.seed, verbose=False)


def threads_as_settled(cfg: DictConfig) -> contextlib.AbstractContextManager[None]:
    """Keeps Lightning, where another launcher started this process, from computing with as many as it finds right."""
    count = cfg.trainer.num_threads
    return contextlib.nullcontext() if count is None else environment(OMP_NUM_THREADS=str(count))


def steps_done(parts: Parts, newest: Newest) -> int:
    """The step that a resumed run goes on from; the record of later ones goes, and a newer checkpoint that is damaged.

    Raises:
        ValueError: the checkpoint does not fit, or nothing is left to do.
    """
    at, step = position_in(newest.content, newest.path, parts.module), int(newest.content["global_step"])
    refuse_fewer(parts, at, step)
    lost = parts.csv.drop_after(step, at.ended, parts.trainer.log_every_n_steps)  # type: ignore[attr-defined]
    if parts.trainer.is_global_zero:
        if lost:
            parts.console.print(lost, highlight=False, soft_wrap=True)
        if newest.path != parts.checkpoints.path:
            parts.console.print(newest.note, highlight=False, markup=False, soft_wrap=True)
            parts.checkpoints.path.unlink(missing_ok=True)  # or it would become the one before, which is whole
        parts.console.print(f"resuming at step {step}", highlight=False)
    return step


def refuse_fewer(parts: Parts, at: Position, step: int) -> None:
    """Raises ValueError for a run that has its result already, or has trained longer than it now should."""
    each = -(-parts.data.num_batches() // parts.trainer.accumulate_grad_batches)
    longest, key = each * parts.cfg.trainer.max_epochs, "max_epochs"
    if 0 < parts.cfg.trainer.max_steps < longest:
        longest, key = parts.cfg.trainer.max_steps, "max_steps"
    if step > longest:
        raise ValueError(
            f"{RunFolder(parts.folder)} has trained for {step} steps, but trainer.{key}={parts.cfg.trainer[key]} "
            f"allows {longest}: leave trainer.{key} out, or raise it"
        )
    if step == longest and at.ended and RunFolder(parts.folder).read_result().get("steps") == step:
        raise ValueError(f"{parts.folder} is complete ({step} steps): raise trainer.{key} to train it further")


def conclude(parts: Parts, step: int) -> None:
    """Writes and prints the result of a run that came to its end, and then its page."""
    first = parts.trainer.is_global_zero
    skipped = united(parts.data.unread)  # each rank has met its own
    if first:
        result = result_of(parts, step, skipped)
        RunFolder(parts.folder).write_result(result)
        parts.console.print(run_table(result) if result["metrics"] else cost_of(result), highlight=False)
    parts.trainer.strategy.barrier()  # what comes next, a stage or a job, may read the result on any rank
    stop.check()  # a signal that came too late to stop the training
    if first and parts.report is not None:
        with alone():  # the other ranks have ended, or wait for the next job
            report_on(parts.report, parts.folder, parts.trainer.loggers, parts.console)


def report_on(report: Any, folder: Path, loggers: Sequence[Logger], console: Console) -> None:
    """Writes the page of a run that has ended (see ``report.page``), which nothing that goes wrong there can undo."""
    try:
        path = os.path.relpath(report.write(folder, loggers))
        console.print(f"report: {path}", highlight=False, markup=False, soft_wrap=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        console.print(f"no report: {type(error).__name__}: {reason}", highlight=False, markup=False, soft_wrap=True)


def size_of(sample: Sequence[int]) -> str:
    """The size of a sample in a sentence, by its shape: that of pictures is three-dimensional."""
    if len(sample) == 3:
        channels, height, width = sample
        return f"{height}x{width}x{channels}"
    return f"of {' x '.join(map(str, sample)) or 'one number'}"


def say_what_runs(parts: Parts) -> None:
    """One line: method, data, size of the model, device."""
    trainer = parts.trainer
    if not trainer.is_global_zero:
        return
    count, *each = parts.data.pretrain.shape
    each = each or list(parts.module.views.example(0))  # of nodes, which are numbers, their features
    samples = several(modalities_of(parts.cfg.data)[0])
    where = device_name(trainer.strategy.root_device)
    where += f" x {trainer.world_size}" if trainer.world_size > 1 else ""
    parts.console.print(
        f"{parts.about['method']} on {parts.about['data']}: {count:,} {samples} {size_of(each)}, "
        f"batch {parts.cfg.data.batch_size}, "
        f"{count_parameters(parts.module) / 1e6:.2f} M trainable parameters, {where}",
        highlight=False,
        soft_wrap=True,
    )
