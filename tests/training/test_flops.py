"""What a step computes is counted once, in its first step, and changes nothing of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from ssl_framework.build import build_module
from ssl_framework.runs.folder import read_json
from ssl_framework.runs.numbers import work_of
from ssl_framework.training import flops
from ssl_framework.types import Clock, Samples
from tests.small_runs import run_in, small


def test_a_run_says_what_its_step_computes(tmp_path: Path) -> None:
    """As torch's own counter has it of the same step without its views; half of it is one of two batches."""
    cfg = small("byol", "trainer.max_steps=2", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1")
    run_in(tmp_path, cfg)
    result = read_json(tmp_path / "result.json")
    module = build_module(cfg, True, 48)
    batch = module.views(Samples(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8)))
    module.views.forward = lambda samples: batch  # type: ignore[method-assign]
    with FlopCounterMode(display=False) as counter:
        module.losses(Samples(torch.zeros(8), torch.arange(8)), Clock(0, 0, 2))["loss"].backward()
    assert result["flops_per_step"] == 2 * counter.get_total_flops() > 1e8
    assert result["share_of_peak"] is None  # nobody says what a CPU can do
    assert work_of(result) == f"{result['flops_per_step'] / 1e12:.3g} TFLOP a step" and work_of({}) == ""


def test_a_step_that_fails_leaves_no_counter_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl_framework.objectives.simclr.SimCLR.forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_in(tmp_path, small("simclr", "trainer.max_steps=1"))
    assert torch._C._len_torch_dispatch_stack() == 0


def test_the_peak_of_a_device_is_that_of_its_datasheet_and_precision() -> None:
    assert flops.peak_of("NVIDIA H200", "bf16-mixed") == 989e12
    assert flops.peak_of("NVIDIA H100 PCIe", "bf16-mixed") == 756e12  # the longer name
    assert flops.peak_of("NVIDIA A100-SXM4-80GB", "32-true") == 19.5e12
    assert flops.peak_of("Tesla T4", "16-mixed") == 65e12 and flops.peak_of("Tesla T4", "bf16-mixed") is None
    assert flops.peak_of("CPU, 2 threads", "bf16-mixed") is None


def test_the_share_of_the_peak_is_of_all_devices() -> None:
    """Two processes with 5e12 operations each for every batch of 100 samples of both, 1,000 samples a second."""
    cfg = OmegaConf.create(
        {"data": {"batch_size": 100}, "trainer": {"accumulate_grad_batches": 4, "precision": "bf16-mixed"}}
    )
    found: Any = flops.shares(int(5e12), cfg, 2, 1000.0, "NVIDIA A100-SXM4-40GB")
    assert found == {"flops_per_step": 40e12, "share_of_peak": round(50 / 312, 4)}
    assert work_of(found) == "40 TFLOP a step, 16.0 % of the device's peak"
    assert flops.shares(None, cfg, 2, 1000.0, "NVIDIA L4") == {"flops_per_step": None, "share_of_peak": None}
