"""What is logged of an update: the norm of the gradient and the rates, the same on two ranks as on one."""

import math
import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ssl_framework.build import build_module
from ssl_framework.optim import warmup_cosine
from ssl_framework.runs.folder import read_metrics
from ssl_framework.training import step_log
from ssl_framework.training.step_log import StepLog, gradient_norm, rates
from tests.forked import CONTEXT
from tests.small_runs import run_in, small
from tests.training.test_resume import interrupt_at, sigterm


def by_loop(parameters: Any) -> float:
    """Number by number, in float64."""
    return math.sqrt(sum(x * x for p in parameters if p.grad is not None for x in p.grad.double().flatten().tolist()))


def net() -> nn.Sequential:
    """With a gradient everywhere but in one weight."""
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2), nn.Linear(2, 2))
    found[3].requires_grad_(False)
    return found


def test_the_norm_is_that_of_all_numbers() -> None:
    found = net()
    found(torch.arange(12.0).view(4, 3)).square().sum().backward()
    assert float(gradient_norm(found.parameters())) == pytest.approx(by_loop(found.parameters()), rel=1e-6)
    assert float(gradient_norm(net().parameters())) == 0.0
    found[0].weight.grad[0, 0] = math.inf
    assert float(gradient_norm(found.parameters())) == math.inf


def work(process: int, port: int, folder: str) -> None:
    """Half of a batch on each rank, weights whole under DDP and divided under FSDP."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(process), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    x = torch.arange(12.0).view(4, 3)[2 * process : 2 * process + 2]
    found = {}
    whole = nn.parallel.DistributedDataParallel(net())
    whole(x).square().sum().backward()
    found["ddp"] = float(gradient_norm(whole.parameters()))
    mesh, divided = init_device_mesh("cpu", (2,)), net()
    fully_shard(divided[0], mesh=mesh)
    for p in divided[2].parameters():  # every rank holds it whole
        p.register_post_accumulate_grad_hook(lambda p: dist.all_reduce(p.grad.div_(2)))  # type: ignore[union-attr]
    divided(x).square().sum().backward()
    found["fsdp"] = float(gradient_norm(divided.parameters()))
    torch.save(found, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_norm_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work, (port, str(tmp_path)), nprocs=2, start_method=CONTEXT.get_start_method())
    one = net()
    (one(torch.arange(12.0).view(4, 3)).square().sum() / 2).backward()  # the mean over ranks of their sums
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found == {name: pytest.approx(by_loop(one.parameters()), rel=1e-5) for name in ("ddp", "fsdp")}


def test_a_rate_that_is_another_has_the_number_of_its_group() -> None:
    groups = [{"initial_lr": initial, "lr": initial / 2} for initial in (0.4, 0.4, 0.1, 0.4, 0.2)]
    assert rates(groups) == {"lr": 0.2, "lr_2": 0.05, "lr_4": 0.1}


def test_a_learned_mixer_has_a_rate_of_its_own() -> None:
    module = build_module(small("simclr", "mixer=adamixup"), True, 48)
    optimizer, _ = module.recipe.build(module, 256, 10, dict.fromkeys(module.own_rates(), 0.5))
    first, own = rates(optimizer.param_groups).values()
    assert own == 0.5 * first


@pytest.mark.parametrize(("own", "scale"), [(True, 8.0), (False, 1.0)])
def test_gradients_that_an_optimizer_unscales_itself_are_too_large_by_the_scale(own: bool, scale: float) -> None:
    precision = MixedPrecision.__new__(MixedPrecision)
    precision.scaler = SimpleNamespace(get_scale=lambda: 8.0)  # type: ignore[assignment]
    optimizer = torch.optim.SGD(net()[0].parameters(), lr=0.1, fused=own)
    assert step_log.scale_of(precision, optimizer) == scale
    precision.scaler = None
    assert step_log.scale_of(precision, optimizer) == step_log.scale_of(None, optimizer) == 1.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_in(folder, small("simclr", "trainer.gradient_clip_val=0.01"))
    return folder


def test_a_run_logs_both_in_the_row_of_the_loss(whole: Path) -> None:
    curves, cfg = read_metrics(whole / "metrics.csv"), small("simclr")
    steps = [step for step, _ in curves["train/loss"]]
    for name in ("train/grad_norm", "train/lr"):
        assert [step for step, _ in curves[name]] == steps == list(range(12))
    peak = cfg.optimizer.lr_per_256 * 8 / 256
    expected = [peak * warmup_cosine(step, 12, cfg.optimizer.warmup) for step in range(12)]
    assert [value for _, value in curves["train/lr"]] == expected
    assert all(value > 0.01 for _, value in curves["train/grad_norm"])  # before it was clipped


def test_other_steps_compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=3, loggers=[], precision_plugin=None)
    monkeypatch.setattr(
        step_log, "gradient_norm", lambda parameters: asked.append(trainer.global_step) or torch.zeros(())
    )
    log, module = StepLog(SimpleNamespace()), net()  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([{"params": module.parameters(), "initial_lr": 0.1}], lr=0.1)
    for step in range(9):
        trainer.global_step = step
        log.on_before_optimizer_step(trainer, module, optimizer)  # type: ignore[arg-type]
        trainer.global_step = step + 1
        log.on_train_batch_end(trainer)
    assert asked == [2, 5, 8]


def test_a_longer_schedule_goes_on_where_it_stands_and_says_so(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    cfg = small("simclr", "trainer.max_epochs=4")
    os.system(f"cp -r {whole}/. {tmp_path}/longer")
    run_in(tmp_path / "longer", cfg, resume=True)
    peak = cfg.optimizer.lr_per_256 * 8 / 256
    now = peak * warmup_cosine(12, 24, cfg.optimizer.warmup)
    said = f"the learning rate goes on at {now:.4g}; it was 0: its schedule is of 24 steps now"
    assert said in capfd.readouterr().out
    found = dict(read_metrics(tmp_path / "longer" / "metrics.csv")["train/lr"])
    assert found[12] == now and found[23] == peak * warmup_cosine(23, 24, cfg.optimizer.warmup)
    with monkeypatch.context() as patch:  # of the same length: not a word
        interrupt_at(patch, 9, sigterm)
        run_in(tmp_path / "parts", small("simclr"))
    run_in(tmp_path / "parts", small("simclr"), resume=True)
    assert "learning rate" not in capfd.readouterr().out
