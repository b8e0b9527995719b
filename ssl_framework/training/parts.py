"""Everything that a run is made of, prepared: after this comes nothing but the descent."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ssl_framework.build import build, build_data, build_module, check_data, check_labels, modalities_of
from ssl_framework.data.base import Split
from ssl_framework.data.datamodule import DataModule
from ssl_framework.device import accelerator_of
from ssl_framework.evaluation.after_training.base import AfterRun
from ssl_framework.evaluation.during_training.alarm import CollapseAlarm
from ssl_framework.evaluation.during_training.causes import known_cause, likely_cause
from ssl_framework.evaluation.frozen import FrozenEvaluation, copied
from ssl_framework.models.base import BackboneProtocol
from ssl_framework.models.frozen_teacher import FrozenTeacher
from ssl_framework.models.towers import Towers
from ssl_framework.models.weights import begin, has_weights
from ssl_framework.module import SSLModule
from ssl_framework.runs.folder import RunFolder
from ssl_framework.runs.numbers import several
from ssl_framework.runs.provenance import commit
from ssl_framework.training.best import Best
from ssl_framework.training.checkpoints import Checkpoints, Intervals
from ssl_framework.training.flops import FlopCount
from ssl_framework.training.live_page import LivePage
from ssl_framework.training.metrics_log import MetricsCSV, build_loggers
from ssl_framework.training.nonfinite import NonFiniteWatch
from ssl_framework.training.place import is_first
from ssl_framework.training.precision import settle_precision
from ssl_framework.training.progress import EvaluationLines, Progress
from ssl_framework.training.sharding import check_sharding
from ssl_framework.training.signals import StopSignals, Terminal
from ssl_framework.training.step_log import StepLog
from ssl_framework.training.time_limit import TimeLimit
from ssl_framework.training.trainer import build_trainer
from ssl_framework.training.vocabulary import keep_vocabulary
from ssl_framework.training.watchdog import Watchdog


class Parts(NamedTuple):
    """A run that is ready to descend."""

    cfg: DictConfig
    folder: Path
    about: dict[str, Any]  # names of the choices, the overrides, the command
    resumed: bool
    data: DataModule
    module: SSLModule
    evaluation: FrozenEvaluation
    report: Any  # writes a page of a folder and its loggers, or None
    console: Console
    csv: MetricsCSV
    progress: Progress
    checkpoints: Checkpoints
    trainer: L.Trainer
    source: str | None  # the commit that runs
    started: float  # time.perf_counter() at the start


UNCOMPILED = (
    "note: trainer.compile=true leaves an encoder as it is: its backbone is tuned (tuning=), or the objective reads "
    "its layers one by one"
)


def prepare(cfg: DictConfig, folder: Path, about: dict[str, Any], resume: bool) -> Parts:
    """Builds every part of a run; arguments as of ``run``."""
    started, source = time.perf_counter(), commit()  # now: the tree may move on while the run goes
    console, csv = Terminal(), MetricsCSV(folder)
    data, module = build_data_and_module(cfg, folder, resume)
    settle_precision(cfg, folder)
    check_sharding(cfg, module)
    if cfg.trainer.compile and not module.compile_parts() and is_first():
        console.print(UNCOMPILED, highlight=False, markup=False, soft_wrap=True)
    if compiles_views(cfg.trainer):
        module.views.compile_parts()
    evaluation = build_evaluation(cfg)
    if not resume:
        evaluation.initial = copied(module.student)  # the untrained backbone is one without weights from elsewhere
        said = begin_with_weights(module)
        evaluation.from_weights = any(map(has_weights, module.student.backbones))
        if is_first():
            keep_vocabulary(module.views, folder)
        if said and is_first():
            console.print(*said, sep="\n", highlight=False, markup=False, soft_wrap=True)
    progress, signals = Progress(console, several(modalities_of(cfg.data)[0])), StopSignals()
    checkpoints = build_checkpoints(cfg.trainer, RunFolder(folder), signals, evaluation)
    watch, watchdog = NonFiniteWatch(RunFolder(folder)), Watchdog(OmegaConf.select(cfg, "trainer.hang_after_minutes"))
    lines = EvaluationLines(console, evaluation)
    beside = [*alarms(cfg), StepLog(console), FlopCount(cfg.trainer.compile), *evaluation.beside]
    ends = [*time_limits(cfg.trainer), *([] if checkpoints.best is None else [checkpoints.best])]
    watching = [watchdog, watch, *ends, progress, *beside]
    report = build(OmegaConf.select(cfg, "report"))  # a run folder of an earlier version has no such key
    live = [] if report is None else [LivePage(RunFolder(folder), cfg, about, evaluation, console)]
    callbacks = [signals, *watching, evaluation, lines, *live, checkpoints]
    trainer = build_trainer(cfg.trainer, folder, callbacks, [csv])
    trainer.loggers = [csv, *build_loggers(cfg, RunFolder(folder), resume)]  # last: what is refused has begun none
    return Parts(
        cfg=cfg,
        folder=folder,
        about=about,
        resumed=resume,
        data=data,
        module=module,
        evaluation=evaluation,
        report=report,
        console=console,
        csv=csv,
        progress=progress,
        checkpoints=checkpoints,
        trainer=trainer,
        source=source,
        started=started,
    )


def build_data_and_module(cfg: DictConfig, folder: Path, resume: bool) -> tuple[DataModule, SSLModule]:
    """What is learnt from, and what learns."""
    check_data(cfg)
    data = build_data(cfg, folder, resume)
    module = build_module(cfg, data.pretrain.labelled, data.pretrain.shape[0])
    check_labels(module.objective, data.pretrain.label if isinstance(data.pretrain, Split) else None)
    return data, module


def compiles_views(cfg: DictConfig) -> bool:
    """Whether the views are made by a compiled graph, as ``trainer`` says."""
    chosen = OmegaConf.select(cfg, "compile_views")
    if chosen is None:  # a run folder of an earlier version has no such key
        return cfg.compile
    return cfg.compile or accelerator_of(cfg) == "gpu" if chosen == "auto" else chosen


def build_evaluation(cfg: DictConfig) -> FrozenEvaluation:
    """What scores the run.

    Raises:
        ValueError: it is one of finished runs, and no training may wait for it.
    """
    evaluation: FrozenEvaluation | AfterRun = build(cfg.evaluation)
    if isinstance(evaluation, AfterRun) and evaluation.at_the_end:
        return FrozenEvaluation({}, every_n_epochs=0, protocol=evaluation.protocol, after=evaluation)
    if isinstance(evaluation, AfterRun):
        raise ValueError(
            f"evaluation={evaluation.name} is of finished runs: choose evaluation=frozen for this one, and then "
            f"python scripts/evaluate.py run=<folder> evaluation={evaluation.name}"
        )
    return evaluation


def build_checkpoints(
    cfg: DictConfig, run: RunFolder, signals: StopSignals, evaluation: FrozenEvaluation
) -> Checkpoints:
    """What saves the run, as ``trainer`` says."""
    return Checkpoints(run.checkpoint_file, Intervals.read(cfg), signals, evaluation, Best.of(cfg, evaluation))


def time_limits(cfg: DictConfig) -> list[L.Callback]:
    """What ends the run by time, if ``trainer`` says so."""
    minutes = OmegaConf.select(cfg, "max_minutes")
    return [] if minutes is None else [TimeLimit(minutes)]


def alarms(cfg: DictConfig) -> list[L.Callback]:
    """What warns while the run goes."""
    below = OmegaConf.select(cfg, "trainer.collapse_below")  # a run folder of an earlier version has no such key
    return [] if below is None else [CollapseAlarm(below, likely_cause(cfg), known_cause(cfg) is not None)]


def begin_with_weights(module: SSLModule) -> list[str]:
    """Gives every backbone of student and teacher the weights that its config names; what is to be said of it.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it cannot be read safely, or does not fit, or what never learns has none.
    """
    if isinstance(module.teacher, FrozenTeacher):
        for key, backbone in zip(("backbone", "second"), module.teacher.encoder.backbones, strict=False):
            if not has_weights(backbone):
                raise ValueError(
                    "the teacher stays as it begins, but no weights are named for it: set "
                    f"teacher.{key}.weights=<run folder or file>, or teacher.{key}.pretrained=true"
                )
    student: Any = module.student
    for backbone in student.backbones:
        if getattr(backbone, "tuning", None) is not None and not has_weights(backbone):
            raise ValueError(
                f"student.tuning keeps the weights of {backbone.name} as they begin, but none are named for it: set "
                "backbone.weights=<run folder or file> (of a second tower text_backbone.weights), or tuning=none"
            )
    for name in student.frozen if isinstance(student, Towers) else ():
        if not has_weights(student.tower(name).backbone):
            key = "backbone" if name == student.main else f"{name}_backbone"
            raise ValueError(
                f"student.frozen names {name}, whose tower stays as it begins, but no weights are named for it: set "
                f"{key}.weights=<run folder or file>, or student.frozen=[]"
            )
    encoders = [module.student] if module.teacher is None else [module.student, module.teacher.encoder]
    said = [begin(backbone, modality) for encoder in encoders for modality, backbone in backbones_of(encoder)]
    towers = [tower for encoder in encoders for tower, _ in encoder.encoders()]
    said += [line for tower in towers for head in tower.heads.values() for line in begun(head)]
    return [line for line in dict.fromkeys(said) if line]


def begun(head: Any) -> list[str]:
    """Gives a head the weights that its config names; the lines that say so."""
    return head.begin().splitlines()


def backbones_of(encoder: Any) -> list[tuple[str | None, BackboneProtocol]]:
    """Every backbone of a student or teacher, with the modality of its tower where there are several."""
    if not isinstance(encoder, Towers):
        return [(None, backbone) for backbone in encoder.backbones]
    return [(names[0], backbone) for tower, names in encoder.encoders() for backbone in tower.backbones]
