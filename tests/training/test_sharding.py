"""Two gloo ranks that divide the weights equal two that each hold all: losses, weights, files, evaluation."""

import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from ssl_framework.build import build_module
from ssl_framework.data.images.layout import Layout
from ssl_framework.exporting import export
from ssl_framework.loading import load_run
from ssl_framework.models.weights import SHARDS, load_checkpoint, load_without_shards, newest_checkpoint
from ssl_framework.runs.folder import RunFolder, read_json, read_metrics
from ssl_framework.runs.stopping import stop
from ssl_framework.training.parts import Parts
from ssl_framework.training.run import run
from ssl_framework.training.sharding import check_sharding
from ssl_framework.training.trainer import strategy_of
from tests.data.test_bands import broken
from tests.forked import CONTEXT
from tests.small_runs import config, small

FIVE_STEPS = ("trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.max_steps=5")
CASES: dict[str, tuple[str, ...]] = {
    "simclr": ("evaluation=frozen", "trainer.gradient_clip_val=1"),
    "mocov2": ("teacher.shuffle_bn=2",),
    "swav": (),  # prototypes are parameters of the objective
    "byol": ("optimizer=lars", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2"),
    "mocov3": ("backbone=vit_tiny", "backbone.options.depth=2", "backbone.checkpoint_activations=true"),  # AdamW
    "distill": ("teacher.backbone.weights=simclr_ddp", "student.heads.projector.hidden=[16]"),  # of the run above
}


BEST = (
    *("trainer.devices=2", "trainer.accelerator=cpu", "data.source.num_train=16", "trainer.max_epochs=9"),
    *("trainer.keep_best=train/loss", "trainer.keep_best_k=2", "trainer.stop_early=2", "optimizer.lr_per_256=30"),
)
"""Two steps an epoch at a rate with which the loss falls and rises."""


PHOTOS = (
    *("method=simclr", "data=files", "data.root=photos", "data.image_size=16", "data.batch_size=10", "trainer=cpu"),
    *("data.test_fraction=0.15", "data.num_workers=0", "data.on_error=skip", "trainer.devices=2"),
    *("trainer.max_epochs=1", "evaluation=none", "report=none"),
)
"""One step of all files, of which two are broken."""


def of(method: str, strategy: str) -> DictConfig:
    return small(method, *FIVE_STEPS, f"trainer.strategy={strategy}", *CASES[method])


class At(L.Callback):
    """Does something after an optimizer step."""

    def __init__(self, step: int, do: Callable[[L.LightningModule], None]) -> None:
        self.step, self.do = step, do

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.do(pl_module)


def stop_at_3(parts: Parts) -> None:
    def ask(module: L.LightningModule) -> None:
        stop.asked = signal.SIGTERM

    parts.trainer.callbacks.insert(0, At(3, ask))  # type: ignore[attr-defined]


def holding(found: dict[str, list[int]]) -> Callable[[Parts], None]:
    """Notes how many numbers this rank holds of weights, gradients' moments and memories, and how many there are."""

    def look(module: Any) -> None:
        encoders = [*module.student.parameters(), *module.teacher.parameters()]
        moments = [x["momentum_buffer"] for x in module.optimizers().optimizer.state.values()]
        for name, tensors in {"weights": encoders, "moments": moments}.items():
            mine = [x.to_local().numel() if isinstance(x, DTensor) else x.numel() for x in tensors]
            found[name] = [sum(mine), sum(x.numel() for x in tensors)]
        found["queue"] = [module.objective.queue.rows.numel()]

    return lambda parts: parts.trainer.callbacks.append(At(5, look))  # type: ignore[attr-defined]


def settings() -> dict[str, Any]:
    """Name of a run -> its config, of all runs below."""
    both = ("ddp", "fsdp")
    found = {f"{name}_{strategy}": of(name, strategy) for name in CASES for strategy in both}
    found |= {f"best_{strategy}": small("simclr", *BEST, f"trainer.strategy={strategy}") for strategy in both}
    found["photos_ddp"] = config(*PHOTOS)
    return {name: OmegaConf.to_container(cfg) for name, cfg in found.items()}


def work(process: int, port: int, folder: str, settings: dict[str, Any]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(process), LOCAL_RANK=str(process))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    torch.set_num_threads(1)
    os.chdir(folder)
    found: dict[str, list[int]] = {}

    def go(where: str, resume: bool = False, change: Any = None, like: str | None = None) -> None:
        path, cfg = Path(folder) / where, OmegaConf.create(settings[like or where])
        path.mkdir(exist_ok=True)
        if process == 0:
            (path / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        run(cfg, path, {"method": "test", "data": "shapes", "overrides": [], "command": ""}, resume, change)

    for name in CASES:
        for strategy in ("ddp", "fsdp"):
            go(f"{name}_{strategy}", change=holding(found) if name == "mocov2" else None)
    for before, after in (("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")):
        go(f"{before}_then_{after}", change=stop_at_3, like=f"mocov2_{before}")
        if process == 0:
            shutil.copytree(Path(folder) / f"{before}_then_{after}", Path(folder) / f"{before}_before_{after}")
        go(f"{before}_then_{after}", resume=True, like=f"mocov2_{after}")
    for strategy in ("ddp", "fsdp"):
        go(f"best_{strategy}")
    go("photos_ddp")
    torch.save(found, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    broken(folder / "photos")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work, (port, str(folder), settings()), nprocs=2, start_method=CONTEXT.get_start_method())
    return folder


def last(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")


def losses(folder: Path) -> list[float]:
    return logged(folder, "train/loss")


def logged(folder: Path, name: str) -> list[float]:
    return [value for _, value in read_metrics(folder / "metrics.csv")[name]]


@pytest.mark.parametrize("method", CASES)
def test_losses_and_weights_are_those_of_ddp(method: str, folder: Path) -> None:
    ddp, fsdp = folder / f"{method}_ddp", folder / f"{method}_fsdp"
    assert len(losses(ddp)) == 5
    assert losses(fsdp) == pytest.approx(losses(ddp), rel=1e-5)
    assert logged(fsdp, "train/grad_norm") == pytest.approx(logged(ddp, "train/grad_norm"), rel=1e-3)
    before, after = last(ddp)["state_dict"], last(fsdp)["state_dict"]
    assert list(before) == list(after) or before.keys() == after.keys()
    torch.testing.assert_close(dict(after), dict(before), rtol=1e-4, atol=1e-5)


def test_a_frozen_teacher_is_divided_and_stays_as_it_was(folder: Path) -> None:
    student = last(folder / "simclr_ddp")["state_dict"]
    for strategy in ("ddp", "fsdp"):
        found = last(folder / f"distill_{strategy}")["state_dict"]
        teacher = {name: x for name, x in found.items() if name.startswith("teacher.encoder.")}
        assert len(teacher) > 20
        for name, x in teacher.items():
            assert torch.equal(x, student[name.replace("teacher.encoder", "student")]), name


def test_a_rank_holds_half_of_weights_and_moments_and_all_of_the_queue(folder: Path) -> None:
    ranks = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    for what in ("weights", "moments"):
        (first, whole), (second, _) = (each[what] for each in ranks)
        assert first + second == whole
        assert abs(first - second) < 0.02 * whole
    assert ranks[0]["queue"] == ranks[1]["queue"] == [24 * 128]


@pytest.mark.parametrize("how", ["fsdp_then_fsdp", "fsdp_then_ddp", "ddp_then_fsdp"])
def test_resumed_run_ends_as_one_without_interruption(how: str, folder: Path) -> None:
    assert losses(folder / how) == pytest.approx(losses(folder / "mocov2_ddp"), rel=1e-5)
    whole, parts = last(folder / "mocov2_fsdp"), last(folder / how)
    assert whole["global_step"] == parts["global_step"] == 5
    exact = {"rtol": 0.0, "atol": 0.0} if how == "fsdp_then_fsdp" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(dict(parts["state_dict"]), dict(whole["state_dict"]), **exact)
    moments = [state["optimizer_states"][0]["state"] for state in (parts, whole)]
    torch.testing.assert_close(*moments, **exact)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_agree_on_the_best_states_and_on_an_early_end(strategy: str, folder: Path) -> None:
    run = RunFolder(folder / f"best_{strategy}")
    steps = losses(run.path)
    means = [sum(steps[i : i + 2]) / 2 for i in range(0, len(steps), 2)]
    order = sorted(range(len(means)), key=means.__getitem__)[:2]
    result = run.read_result()
    assert result["ended_by"].startswith("trainer.stop_early=2: train/loss was ") and result["processes"] == 2
    assert result["steps"] == 2 * len(means) == 2 * (order[0] + 3) < 18, means
    assert [each["step"] for each in result["best"]] == [2 * (epoch + 1) for epoch in order]
    assert [each["train/loss"] for each in result["best"]] == pytest.approx([means[e] for e in order], rel=1e-6)
    assert {path.name for path in run.best_checkpoint_files} == {f"best_{2 * (epoch + 1)}.ckpt" for epoch in order}
    for path in (*run.best_checkpoint_files, run.best_checkpoint_file):
        found = load_checkpoint(path)  # with its tensors, wherever they lie
        expected = 2 * (order[0] + 1) if path == run.best_checkpoint_file else int(path.stem.removeprefix("best_"))
        assert found["global_step"] == expected and len(found["state_dict"]) > 20


def test_a_checkpoint_names_the_broken_files_that_all_ranks_have_met(folder: Path) -> None:
    named = last(folder / "photos_ddp")["DataModule"]["unread"]
    assert named == read_json(folder / "photos_ddp" / "result.json")["skipped_files"]
    trained = {path.name for path in Layout(folder / "photos", 0.15, 0).split("train").paths}
    assert len(trained) == 10 and {Path(name).name for name in named} == trained & {"02.png", "03.png"} != set()


def test_tensors_lie_beside_the_checkpoint_in_a_file_a_rank_and_those_of_before_are_gone(folder: Path) -> None:
    path = folder / "fsdp_then_fsdp" / "checkpoints"
    found = load_without_shards(path / "last.ckpt")
    assert found["state_dict"] == {} and found[SHARDS] == "last-5"
    assert sorted(item.name for item in path.iterdir()) == ["before.ckpt", "last-3", "last-5", "last.ckpt"]
    assert len(list((path / "last-5").glob("*.safetensors"))) == 2
    assert (folder / "fsdp_before_fsdp" / "checkpoints" / "last-3").is_dir()


def test_a_missing_share_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "mocov2_fsdp" / "checkpoints", tmp_path / "checkpoints")
    file = next((tmp_path / "checkpoints" / "last-5").glob("shard-00002*"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"tensors in .*last-5 are damaged: the checksum of shard-00002.* is another"):
        load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    shutil.rmtree(tmp_path / "checkpoints" / "last-5")
    with pytest.raises(ValueError, match=r"tensors in .*last-5 are damaged: shard-00001.* is missing"):
        load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")


def test_of_a_damaged_share_the_checkpoint_before_is_taken(folder: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    shutil.copytree(folder / "fsdp_then_fsdp" / "checkpoints", run.checkpoints)
    file = next((run.checkpoints / "last-5").glob("shard-00001*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = newest_checkpoint(run)
    assert found.note.startswith("last.ckpt is damaged (the checksum of shard-00001")
    assert found.note.endswith("is another): going on with before.ckpt, step 3")
    assert found.content["state_dict"].keys() == last(folder / "mocov2_fsdp")["state_dict"].keys()


def test_a_finished_run_is_evaluated_loaded_and_exported(folder: Path, tmp_path: Path) -> None:
    one, two = (read_json(folder / f"simclr_{strategy}" / "result.json") for strategy in ("fsdp", "ddp"))
    assert one["baselines"] == two["baselines"]
    assert len(one["metrics"]) == 2 and one["metrics"].keys() == two["metrics"].keys()
    _, module = load_run(folder / "simclr_fsdp", [])
    _, expected = load_run(folder / "simclr_ddp", [])
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module.eval().student.embed(x), expected.eval().student.embed(x), rtol=1e-4, atol=1e-5)
    export(folder / "simclr_fsdp", tmp_path / "backbone.safetensors")
    written = load_file(tmp_path / "backbone.safetensors")
    own = module.student.backbone.net.state_dict()
    assert written.keys() == own.keys()
    assert all(torch.equal(written[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("simclr", ("trainer.compile=true",), "does not go with trainer.compile=true: set one of them back"),
        ("simclr", ("optimizer=muon",), "does not go with optimizer=muon, which needs whole matrices"),
        ("simclr", ("data.micro_batch_size=4",), "does not go with data.micro_batch_size=4: set that to null, or"),
        ("simclr", ("trainer.precision=16-mixed",), "does not go with trainer.precision=16-mixed: choose"),
        ("simclr", ("mixer=manifold_mixup",), "which reaches into the student: choose another mixer"),
        ("mae", (), "RandomMask, which reaches into the student: choose a method without"),
        ("swav", ("trainer.gradient_clip_val=1",), r"gradient_clip_val=1 where the objective has parameters .*SwAV"),
    ],
)
def test_what_does_not_go_with_divided_weights_is_refused(
    method: str, overrides: tuple[str, ...], message: str
) -> None:
    cfg = small(method, *FIVE_STEPS, "trainer.strategy=fsdp", *overrides)
    module = build_module(cfg, has_labels=True, num_samples=48)
    with pytest.raises(ValueError, match=f"trainer.strategy is fsdp, which does not go with|{message}") as refused:
        check_sharding(cfg, module)
    assert refused.match(message)
    cfg.trainer.strategy = "ddp"
    check_sharding(cfg, module)


def test_a_weight_of_one_number_is_refused_by_name() -> None:
    cfg = small("simclr", "trainer.strategy=fsdp")
    module = build_module(cfg, has_labels=True, num_samples=48)
    module.student.heads["projector"].b = torch.nn.Parameter(torch.zeros(()))
    with pytest.raises(ValueError, match=r"a weight that is a single number \(heads.projector.b of the student\)"):
        check_sharding(cfg, module)


def test_a_strategy_that_is_none_and_a_process_alone_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer.strategy is zero: choose ddp"):
        strategy_of(small("simclr", "trainer.strategy=zero").trainer, 2)
    with pytest.raises(ValueError, match=r"trainer.strategy is fsdp, which divides .* but this run has only one"):
        strategy_of(small("simclr", "trainer.strategy=fsdp").trainer, 1)
    stored = small("simclr").trainer
    del stored.strategy  # a run folder of an earlier version
    assert strategy_of(stored, 1) == "auto" and isinstance(strategy_of(stored, 2), DDPStrategy)
