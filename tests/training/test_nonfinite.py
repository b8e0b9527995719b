"""Numbers that are not finite stop a run before they are saved, and the step can be made again."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from ssl_framework.loading import load_run_config
from ssl_framework.models.weights import load_checkpoint
from ssl_framework.runs.folder import RunFolder
from ssl_framework.training import nonfinite, replay
from ssl_framework.training.nonfinite import NonFinite, norms, refuse_non_finite_state
from ssl_framework.types import Samples
from tests.small_runs import run_in, small

NAN, INF = float("nan"), float("inf")


def poisoned(monkeypatch: pytest.MonkeyPatch, at: int, value: float = NAN) -> None:
    """The backward pass of step ``at`` leaves one number in the first weight's gradient."""
    before = nonfinite.NonFiniteWatch.on_after_backward

    def poison(self: Any, trainer: L.Trainer, module: Any) -> None:
        if trainer.global_step == at:
            grad = next(p.grad for p in module.parameters() if p.grad is not None)
            grad[(0,) * grad.ndim] = value
        before(self, trainer, module)

    monkeypatch.setattr(nonfinite.NonFiniteWatch, "on_after_backward", poison)


@pytest.mark.parametrize(("step", "value"), [(11, NAN), (5, INF), (0, NAN)])
def test_a_gradient_that_is_not_finite_is_never_saved(
    step: int, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, step, value)
    with pytest.raises(NonFinite, match=rf"the gradient of student\.\S+ is not finite at step {step} on rank 0 \(loss="):
        run_in(tmp_path, small("simclr"))
    run = RunFolder(tmp_path)
    assert not run.result_file.is_file() and run.has_trained
    if step < 6:
        assert not run.checkpoint_file.is_file()
        return
    kept = load_checkpoint(run.checkpoint_file)  # of the epoch before
    assert kept["global_step"] == 6 and all(x.isfinite().all() for x in kept["state_dict"].values())
