"""Every method takes three steps in which each trainable parameter moves and the teacher follows without gradient, and
goes on from what a checkpoint holds as if it had not been interrupted."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch

from ssl_framework.build import build_data, build_module
from ssl_framework.data.base import Split
from ssl_framework.data.loader import take
from ssl_framework.models.backbone import Backbone
from ssl_framework.models.encoder import Encoder
from ssl_framework.models.frozen_teacher import FrozenTeacher
from ssl_framework.module import SSLModule
from ssl_framework.types import Clock, Samples
from ssl_framework.views.base import ViewMaker
from tests.small_runs import METHODS, small
from tests.test_device import WAITS, Reads
from tests.training.test_resume import assert_identical

ENDS_OF_ROUNDS = {"wad": 11}
"""Likewise ``WAITS`` of a step that ends a round of choosing samples, as each of these three does."""


class Run(NamedTuple):
    """A method in training, without a trainer."""

    data: Split
    module: SSLModule
    optimizer: torch.optim.Optimizer

    def step(self, number: int, reads: AbstractContextManager[Any] = nullcontext()) -> float:  # noqa: B008
        """A step as ``SSLModule.training_step`` makes it, and the teacher's behind it: the loss; ``reads`` sees what
        is behind the views."""
        torch.manual_seed(number)
        clock = Clock(number, 0, 3)
        samples = take(self.data, torch.arange(8 * number, 8 * (number + 1)))
        with seen_before(self.module.views, samples), reads:
            self.optimizer.zero_grad()
            out = self.module.losses(samples, clock)
            out["loss"].backward()
            self.optimizer.step()
            if self.module.teacher is not None:
                self.module.teacher.update(self.module.student, clock)
        assert all(value.dtype == torch.float32 and value.ndim == 0 for value in out.values())
        missing = [name for name, p in self.module.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, f"without gradient: {missing}"
        if self.module.teacher is not None and not self.module.teacher.learns:
            assert all(p.grad is None and not p.requires_grad for p in self.module.teacher.parameters())
        return out["loss"].item()

    def state(self) -> Any:
        """What a checkpoint holds of it, which the next step changes."""
        return self.module.state_dict(), self.optimizer.state_dict()


@contextmanager
def seen_before(views: ViewMaker, samples: Samples) -> Iterator[None]:
    """Meanwhile a view maker gives what it has made of these samples at the beginning."""
    batch = views(samples)
    with mock.patch.object(views, "forward", lambda samples: batch):
        yield


def begun(method: str, *overrides: str, seed: int = 0, data: Split | None = None) -> Run:
    cfg = small(method, "optimizer.warmup=0.0", *overrides)
    data = data or build_data(cfg).pretrain
    torch.manual_seed(seed)
    module = build_module(cfg, True, data.shape[0])
    return Run(data, module, module.recipe.build(module, global_batch=256, total_steps=3)[0])


@pytest.fixture(scope="module", params=METHODS)
def other(request: pytest.FixtureRequest) -> Run:
    """A method's run that has begun with other weights, for all tests of the method one after another."""
    return begun(request.param, seed=1)


def plain_state(module: torch.nn.Module) -> dict[str, Any]:
    """What a module and its parts hold beside buffers and parameters: numbers, texts, tensors and lists of them."""
    kinds = (int, float, str, tuple, list, torch.Tensor)
    return {
        f"{where}.{name}": value
        for where, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, kinds) and not name.startswith("_")
    }


def test_bf16_autocast_stays_near_float32(other: Run) -> None:
    samples = take(other.data, torch.arange(8))
    before = copy.deepcopy(other.module.state_dict())
    values = []
    for autocast in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            values.append(other.module.losses(samples, Clock(0, 0, 3))["loss"].detach())
        other.module.load_state_dict(before)
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[0], values[1], rtol=0.05, atol=0.05)


def test_every_trainable_parameter_moves_and_a_step_repeats_itself_from_what_was_saved(
    other: Run, request: pytest.FixtureRequest
) -> None:
    """The third step of a run and that of another one, begun with other weights, that has loaded the first one's state:
    equal bit for bit in loss, weights, optimizer, memories, centres, prototypes and counters. Meanwhile nothing behind
    the views asks the device for a value, once the optimizer has its state."""
    method = request.node.callspec.params["other"]
    run = begun(method, seed=0, data=other.data)
    module = run.module
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    first, second = run.step(0), run.step(1, reads := Reads())
    assert len(reads.seen) <= (WAITS | ENDS_OF_ROUNDS).get(method, 0), reads
    state, steps = copy.deepcopy(run.state())
    third = run.step(2)
    losses = [first, second, third]
    assert all(torch.isfinite(torch.tensor(losses))) and len(set(losses)) == 3
    for name, p in module.named_parameters():
        moved = not torch.equal(p, before[name])
        frozen = isinstance(module.teacher, FrozenTeacher) and name.startswith("teacher.")
        frozen |= name.startswith(("student.towers.", "student.backbone.", "student.heads.")) and not p.requires_grad
        still = frozen or name.startswith("student.earlier.")
        assert moved != still, f"{name} did {'' if moved else 'not '}move"
    if module.teacher is not None:
        student = dict(module.student.named_parameters())
        for name, p in module.teacher.encoder.named_parameters():
            assert name not in student or not torch.equal(p, student[name]), f"{name} of the teacher is the student's"
    other.module.load_state_dict(state)
    other.optimizer.load_state_dict(steps)
    assert other.step(2) == third
    assert_identical(run.state(), other.state())
    assert_identical(plain_state(module.objective), plain_state(other.module.objective))


def test_joined_views_share_batch_statistics_and_separate_ones_do_not() -> None:
    torch.manual_seed(0)
    backbone = Backbone("ssl_tiny", None, image_size=16, channels=3)
    x = [torch.randn(4, 3, 16, 16), 5 + torch.randn(4, 3, 16, 16)]
    joint = Encoder(backbone, {}, join_views=True)(x)
    apart = Encoder(backbone, {}, join_views=False)(x)
    both = backbone(torch.cat(x))["pooled"]
    torch.testing.assert_close(torch.cat([view["pooled"] for view in joint if view]), both)
    torch.testing.assert_close(apart[0]["pooled"], backbone(x[0])["pooled"])  # type: ignore[index]
    assert (joint[0]["pooled"] - apart[0]["pooled"]).abs().max() > 0.01  # type: ignore[index]


def test_views_of_different_sizes_are_encoded_and_left_out_ones_are_none() -> None:
    backbone = Backbone("ssl_tiny", None, image_size=32, channels=3)
    views = [torch.randn(2, 3, 32, 32), torch.randn(2, 3, 16, 16), torch.randn(2, 3, 32, 32)]
    out = Encoder(backbone, {})(views, which=[0, 1])
    assert out[2] is None and out[0] is not None and out[1] is not None
    assert out[0]["map"].shape == (2, 192, 4, 4) and out[1]["map"].shape == (2, 192, 2, 2)


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_tiny_backbone_takes_small_images(size: int) -> None:
    backbone = Backbone("ssl_tiny", None, image_size=size, channels=1)
    assert backbone(torch.zeros(2, 1, size, size))["pooled"].shape == (2, 192) and backbone.dim == 192


def test_a_vit_gives_tokens() -> None:
    options = {"img_size": 32, "patch_size": 8}
    backbone = Backbone("vit_tiny_patch16_224", None, image_size=32, channels=3, options=options)
    out = backbone(torch.zeros(2, 3, 32, 32))
    assert out["tokens"].shape == (2, 17, 192) and out["pooled"].shape == (2, 192)


def test_shuffled_batch_normalisation_uses_small_groups() -> None:
    """Keys of one batch are normalised in random groups: equal images get different keys."""
    cfg = small("mocov2", "teacher.shuffle_bn=4")
    module = build_module(cfg, has_labels=True)
    assert module.teacher is not None
    view = torch.randn(1, 3, 32, 32).repeat(16, 1, 1, 1) * torch.linspace(0.5, 2, 16)[:, None, None, None]
    view[1] = view[0]
    keys = [module.teacher([view], [0], Clock(step, 0, 9))[0]["projector"] for step in range(6)]  # type: ignore[index]
    assert any((k[0] - k[1]).abs().max() > 1e-4 for k in keys)
    module.teacher.shuffle_bn = None
    whole = module.teacher([view], [0], Clock(0, 0, 9))[0]["projector"]  # type: ignore[index]
    torch.testing.assert_close(whole[0], whole[1])
