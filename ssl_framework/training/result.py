"""What a run that came to its end has found, and at what cost: ``result.json``."""

import time
from collections.abc import Mapping
from typing import Any

from ssl_framework.build import modalities_of
from ssl_framework.data.base import SPLITS
from ssl_framework.data.labels import told
from ssl_framework.device import cpu_name, device_name
from ssl_framework.evaluation.protocol import protocol_of
from ssl_framework.runs.config import config_hash
from ssl_framework.runs.provenance import versions
from ssl_framework.training.flops import FlopCount, shares
from ssl_framework.training.parts import Parts
from ssl_framework.training.time_limit import TimeLimit


def result_of(parts: Parts, resumed_at: int, skipped: Mapping[str, str]) -> dict[str, Any]:
    """The content of ``result.json``.

    Args:
        parts: of a run that has descended.
        resumed_at: the step it went on from, 0 for a new run.
        skipped: files that could not be read, and why, as ``DataModule.unread`` has them of all ranks.
    """
    left_out = {"num_skipped_files": len(skipped), "skipped_files": dict(skipped)} if skipped else {}
    return {**scores(parts), **identity(parts), **left_out, **cost(parts, resumed_at)}


def scores(parts: Parts) -> dict[str, Any]:
    """The numbers that the run is about: of the last evaluation, if that was made after the last step."""
    evaluation = parts.evaluation
    is_own = evaluation.evaluated_at == parts.trainer.global_step
    assert is_own or not evaluation.wanted, "the run has ended without its evaluation"
    protocol = protocol_of(parts.cfg.evaluation, parts.about["overrides"])
    if evaluation.after is not None:
        protocol["images"] = evaluation.after.images_shown
    return {
        "metrics": evaluation.metrics if is_own else {},
        "intervals": evaluation.intervals if is_own else {},
        "baselines": evaluation.baselines,
        "protocol": protocol,
    }


def identity(parts: Parts) -> dict[str, Any]:
    """What has run, and where."""
    return {
        "method": parts.about["method"],
        "choices": parts.about.get("choices", {}),
        "data": parts.about["data"],
        "seed": parts.cfg.seed,
        "config_hash": config_hash(parts.cfg),
        "versions": versions(),
        "commit": parts.source,
        "precision": parts.cfg.trainer.precision,
        "device": device_name(parts.trainer.strategy.root_device),
        "cpu": cpu_name(),
        "processes": parts.trainer.world_size,
        "sample": modalities_of(parts.cfg.data)[0],
        "images": {name: getattr(parts.data, name).shape[0] for name in SPLITS},
        **({} if parts.data.labels is None else {"labels": told(parts.data.pretrain)}),  # type: ignore[arg-type]
    }


def ended_by(parts: Parts) -> str:
    """What has decided that the run is at its end: a key of ``trainer``."""
    step, best, keys = parts.trainer.global_step, parts.checkpoints.best, parts.cfg.trainer
    if best is not None and best.ended_at == step:
        return best.reason
    if any(limit.ended_at == step for limit in parts.trainer.callbacks if isinstance(limit, TimeLimit)):  # type: ignore[attr-defined]
        return f"trainer.max_minutes={keys.max_minutes:g}"
    return f"trainer.max_steps={step}" if step == keys.max_steps else f"trainer.max_epochs={keys.max_epochs}"


def best_of(parts: Parts) -> dict[str, Any]:
    """The states that were kept as the best ones, the best first, if any were."""
    best = parts.checkpoints.best
    return {} if best is None else {"best": [{"step": step, best.name: value} for value, step in best.found]}


def cost(parts: Parts, resumed_at: int) -> dict[str, Any]:
    """Steps and time, and the command that repeats it."""
    return {
        "steps": parts.trainer.global_step,
        "ended_by": ended_by(parts),
        **best_of(parts),
        "resumed_at": resumed_at,
        "wall_seconds": round(time.perf_counter() - parts.started, 2),
        "training_seconds": round(parts.progress.seconds, 2),
        "evaluation_seconds": round(parts.evaluation.seconds, 2),
        "images_per_second": round(parts.progress.images_per_second, 1),
        **computed(parts),
        "command": parts.about["command"],
        "overrides": parts.about["overrides"],
    }


def computed(parts: Parts) -> dict[str, Any]:
    """What a step computes, and how much of what the device can that is."""
    counts = [each.flops for each in parts.trainer.callbacks if isinstance(each, FlopCount)]  # type: ignore[attr-defined]
    device = device_name(parts.trainer.strategy.root_device)
    return shares(
        counts[0] if counts else None, parts.cfg, parts.trainer.world_size, parts.progress.images_per_second, device
    )
