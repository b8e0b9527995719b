"""Precision chosen by measuring, memory layout by device, and a step in which the host never reads a number back."""

import contextlib
import functools
import platform
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_framework import device
from ssl_framework.build import build_data, build_module
from ssl_framework.data.loader import take
from ssl_framework.models.backbone import Backbone
from ssl_framework.runs.folder import read_json
from ssl_framework.training.parts import compiles_views
from ssl_framework.training.precision import settle_precision
from ssl_framework.types import Clock, Samples
from tests.small_runs import METHODS, config, run_in, small


@functools.cache
def name_of(function: torch._ops.OpOverload) -> str:
    """As ``aten.index``."""
    return str(function).rsplit(".", 1)[0]


class Reads(TorchDispatchMode):
    """Counts the operations that make the host wait for a device: a number read back, a size that depends on values."""

    waits = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = name_of(function)
        masked = name == "aten.index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.waits or masked:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))

    def __repr__(self) -> str:
        return str(self.seen)


def test_the_counter_counts() -> None:
    x = torch.arange(3.0)
    with Reads() as reads:
        x.sum().item(), x[x > 1], bool((x > 0).all()), x * 2
    assert sorted(reads.seen) == ["aten._local_scalar_dense"] * 2 + ["aten.index"]


MIXED = [("simclr", "mixer=resizemix"), ("mocov2", "mixer=mixup_cutmix_switch"), ("byol", "mixer=mixup")]
MIXED += [("mocov3", "mixer=cutmix")]
MIXED += [("byol", "mixer=manifold_mixup"), ("simclr", "mixer=alignmix")]  # inside the student
MIXED += [("mocov2", "mixer=automix"), ("byol", "mixer=samix"), ("simclr", "mixer=adamixup")]  # learned


WAITS = {
    **dict.fromkeys(("mae", "msn", "pmsn"), 2),  # how many patches are left, and of which row
    "hicmae": 4,  # likewise, in both towers
    "ijepa": 3,  # likewise, and the smallest context of the batch
    "dinov2": 4,  # Sinkhorn's balance takes the hidden patches alone, or none: all would be several times the memory
    "slotcon": 4,  # the slots that are in a picture
    "proto_triplet": 4,  # the classes that came
    "debcse": 1,  # how many words there are
    "pamc": 3,  # the edges among the nodes of the batch
    "wad": 2,  # how often samples were chosen
}
"""Methods that ask the device for sizes in a step, and how often at most. All others never do (test_methods.py)."""


@pytest.mark.parametrize(("method", "mixer"), [*MIXED, ("wad", "mixer=none")])  # wad within a round
def test_nothing_after_the_views_waits_for_the_device_where_a_mixer_is_added(method: str, mixer: str) -> None:
    """Mixers, encoders, objective, backward pass, optimizer and teacher; every method as it is: test_methods.py. The
    views have their own GPU test."""
    cfg = small(method, mixer)
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0])
    optimizer, schedule = module.recipe.build(module, 8, 10)
    index = torch.arange(8)
    samples = take(data, index)
    batch = module.views(samples)
    module.views.forward = lambda samples: batch  # type: ignore[method-assign]
    for step in range(2):  # the first makes the optimizer's state, and nothing is counted
        with Reads() if step else contextlib.nullcontext() as reads:
            losses = module.losses(samples, Clock(step + 5, 0, 10))
            losses["loss"].backward()
            optimizer.step()
            schedule.step()
            if module.teacher is not None:
                module.teacher.update(module.student, Clock(step + 5, 0, 10))
    assert reads is not None and len(reads.seen) <= WAITS.get(method, 0), reads


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", [method for method in METHODS if method not in WAITS])
def test_a_whole_step_on_a_gpu_never_waits(method: str) -> None:
    """The driver's own count: an operation that synchronises is an error."""
    cfg = small(method)
    data = build_data(cfg).pretrain
    module = build_module(cfg, True, data.shape[0]).cuda()
    optimizer, _ = module.recipe.build(module, 8, 10)
    label = None if data.label is None else data.label[:8].cuda()
    samples = Samples(data.rows[:8].cuda(), torch.arange(8).cuda(), label)
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step sets libraries up
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = module.losses(samples, Clock(step + 5, 0, 10))["loss"]
            loss.backward()
            optimizer.step()
            if module.teacher is not None:
                module.teacher.update(module.student, Clock(step + 5, 0, 10))
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_layout_follows_the_device() -> None:
    images = torch.randn(2, 3, 32, 32)
    both = [Backbone("ssl_tiny", None, 32, 3, channels_last=where) for where in (["cpu"], ["cuda"])]
    both[1].load_state_dict(both[0].state_dict())
    weights = [backbone.net.features[3].weight for backbone in both]
    assert weights[0].is_contiguous(memory_format=torch.channels_last) and not weights[0].is_contiguous()
    assert weights[1].is_contiguous()
    torch.testing.assert_close(both[0](images)["pooled"], both[1](images)["pooled"])
    moved = both[0].to("meta")
    assert moved.net.features[3].weight.is_contiguous()
    with pytest.raises(ValueError, match="channels_last is 'cpu': it must be a list of texts"):
        Backbone("ssl_tiny", None, 32, 3, channels_last="cpu")


def settled(folder: Path, *overrides: str) -> str:
    cfg = small("simclr", *overrides)
    settle_precision(cfg, folder)
    return cfg.trainer.precision


def test_precision_is_a_function_of_the_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(tmp_path, "trainer=cpu") == settled(tmp_path, "trainer=ddp_cpu") == "32-true"
    assert OmegaConf.load(tmp_path / "config.yaml").trainer.precision == "32-true"  # a resumed run does not ask again
    assert settled(tmp_path, "trainer=cpu", "trainer.precision=64-true") == "64-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert settled(tmp_path, "trainer=auto") == precision
        assert settled(tmp_path, "trainer=cpu") == "32-true"


def test_a_run_in_bf16_says_so(tmp_path: Path) -> None:
    run_in(tmp_path, small("simclr", "trainer=cpu", "trainer.precision=bf16-mixed", "trainer.max_steps=2"))
    assert '"precision": "bf16-mixed"' in (tmp_path / "result.json").read_text()


def test_compiled_parts_keep_their_names() -> None:
    module = build_module(config("method=byol", "data=shapes"), True)
    names = list(module.state_dict())
    assert module.compile_parts()
    assert list(module.state_dict()) == names


def test_a_tuned_backbone_is_not_compiled() -> None:
    module = build_module(small("simcse", "tuning=lora"), True)
    assert not module.compile_parts()
    assert "encode" not in vars(module.student)


def test_the_number_of_threads_is_the_runs_own(tmp_path: Path) -> None:
    """One that sets it leaves the next one as many as the process was started with."""
    seen = []
    for number in ("3", "null"):
        run_in(tmp_path / number, small("simclr", f"trainer.num_threads={number}", "trainer.max_steps=1"))
        seen.append(torch.get_num_threads())
    assert seen == [3, device.THREADS]
    assert read_json(tmp_path / "3" / "result.json")["device"] == "CPU, 3 threads"
    for number in (0, 1.5):
        with pytest.raises(ValueError, match=f"trainer.num_threads is {number}: it must be a whole number above 0"):
            device.use_threads(number)  # type: ignore[arg-type]


def test_freed_memory_stays_with_the_process_where_the_allocator_is_glibc() -> None:
    assert device.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_views_are_compiled_where_a_gpu_or_the_config_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("method=simclr", "trainer=auto").trainer
    for has in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has=has: has)
        assert compiles_views(cfg) == has
        assert compiles_views(OmegaConf.merge(cfg, {"compile": True})) is True
        assert compiles_views(OmegaConf.merge(cfg, {"compile": True, "compile_views": False})) is False
        del_key = OmegaConf.create({k: v for k, v in cfg.items() if k != "compile_views"})
        assert compiles_views(del_key) is False  # a run folder of an earlier version goes on as it began


def test_a_run_in_float64_trains_scores_and_resumes(tmp_path: Path) -> None:
    cfg = small("byol", "trainer.precision=64-true", "trainer.max_epochs=1", "evaluation=online_linear")
    run_in(tmp_path, cfg)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {x.dtype for x in state.values() if x.is_floating_point()} == {torch.float64}
    assert read_json(tmp_path / "result.json")["precision"] == "64-true"
