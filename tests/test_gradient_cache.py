"""A batch that is encoded in micro-batches gives the loss and the gradient of the undivided one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ssl_framework.build import build_data, build_module
from ssl_framework.functional import nce, unit
from ssl_framework.gradient_cache import cached_losses
from ssl_framework.types import Clock, Outputs, Samples, step_seed
from tests.small_runs import run_in, small

B, WIDTH, DIM = 11, 6, 5


class Loss(nn.Module):
    """One direction of InfoNCE, with a temperature that is learned or not."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.3, dtype=torch.float64), requires_grad=learned)

    def forward(self, outputs: list[Outputs | None]) -> dict[str, Tensor]:
        q, k = (unit(view["z"]) for view in outputs if view is not None)
        return {"loss": nce(q, k, torch.arange(len(q)), self.temperature).mean(), "logged": q.mean().detach()}


def network(*extra: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), *extra, nn.Linear(8, DIM)).double()


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(B, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)]


def encode_with(net: nn.Module):  # type: ignore[no-untyped-def]
    """Encodes the first and the last of three views; the map is too large to keep."""
    return lambda parts: [{"z": net(parts[0]), "map": parts[0][..., None]}, None, {"z": net(parts[2])}]


def test_an_objective_may_use_the_heads_of_the_network_itself() -> None:
    """What it passes through them adds to their gradient, as in the undivided batch."""
    grads = []
    for size in (None, 4):
        net = network()

        def encode(parts: list[Tensor], net: nn.Sequential = net) -> list[Outputs | None]:
            features = net[:-1](parts[0])
            return [{"pooled": features, "z": net[-1](features)}]

        def objective(outputs: list[Outputs | None], net: nn.Sequential = net) -> dict[str, Tensor]:
            (view,) = [view for view in outputs if view is not None]
            mixed = net[-1]((view["pooled"] + view["pooled"].roll(1, dims=0)) / 2)
            return {"loss": nce(unit(view["z"]), unit(mixed), torch.arange(B), 0.3).mean()}

        given = views()[:1]
        losses = objective(encode(given)) if size is None else cached_losses(encode, net, given, size, objective, True)
        losses["loss"].backward()
        grads.append([losses["loss"].detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("size", [1, 4, 10])
def test_loss_and_gradient_equal_the_undivided_batch(size: int, learned: bool) -> None:
    grads = []
    for divided in (False, True):
        net, objective = network(), Loss(learned)
        encode = encode_with(net)
        losses = (
            cached_losses(encode, net, views(), size, objective, learned) if divided else objective(encode(views()))
        )
        losses["loss"].backward()
        everything = [losses["loss"].detach(), losses["logged"], *(p.grad for p in net.parameters())]
        grads.append([*everything, objective.temperature.grad] if learned else everything)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-10, atol=1e-10)


def test_half_precision() -> None:
    """The gradient that is taken within the step knows no autocast, as one taken after it."""
    grads = []
    for divided in (False, True):
        net, halves = network().float(), [view.float() for view in views()]
        with torch.autocast("cpu", torch.bfloat16):
            encode = encode_with(net)
            losses = cached_losses(encode, net, halves, 4, plain, False) if divided else plain(encode(halves))
        losses["loss"].backward()
        grads.append([losses["loss"].detach(), *(p.grad for p in net.parameters())])
    torch.testing.assert_close(grads[1], grads[0], rtol=0.02, atol=0.002)


def plain(outputs: list[Outputs | None]) -> dict[str, Tensor]:
    with torch.autocast("cpu", enabled=False):
        return Loss(False).float()(outputs)


def test_both_passes_draw_the_same_dropout() -> None:
    net, objective = network(nn.Dropout(0.5)), Loss(False)
    torch.manual_seed(7)
    cached_losses(encode_with(net), net, views(), 4, objective, False)["loss"].backward()
    got = [p.grad for p in net.parameters()]
    net.zero_grad(set_to_none=True)
    whole: dict[int, list[Tensor]] = {0: [], 2: []}
    for number in range(3):  # with one graph over all three micro-batches
        torch.manual_seed(step_seed(7, number))
        for v in whole:
            whole[v].append(net(views()[v][4 * number : 4 * number + 4]))
    objective([{"z": torch.cat(parts)} for parts in whole.values()])["loss"].backward()
    torch.testing.assert_close(got, [p.grad for p in net.parameters()], rtol=1e-10, atol=1e-10)


def test_running_statistics_move_once() -> None:
    net, other = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    cached_losses(encode_with(net), net, views(), 4, Loss(False), False)
    for number in range(3):
        for v in (0, 2):
            other(views()[v][4 * number : 4 * number + 4])
    torch.testing.assert_close(dict(net.named_buffers()), dict(other.named_buffers()))


def test_the_whole_batch_is_never_encoded_at_once() -> None:
    seen = []
    net = network()
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    cached_losses(encode_with(net), net, views(), 4, Loss(False), False)["loss"].backward()
    assert max(seen) == 4 and sum(seen) == 2 * 2 * B


NO_BATCH_STATISTICS = (
    "backbone=timm",
    "backbone.name=convnext_atto",
    *("student.heads.projector.norm=false", "student.heads.projector.last_norm=false"),
    "trainer.max_steps=2",
)


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_two_steps_of_a_run_equal_the_undivided_run(method: str, tmp_path: Path) -> None:
    extra = ("student.heads.predictor.norm=false",) if method == "byol" else ()
    weights = []
    for size in ("null", "3"):
        cfg = small(method, *NO_BATCH_STATISTICS, *extra, f"data.micro_batch_size={size}")
        run_in(tmp_path / size, cfg)
        checkpoint = torch.load(tmp_path / size / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append(checkpoint["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)


def test_a_batch_no_larger_than_a_micro_batch_is_not_divided() -> None:
    cfg = small("simclr", "data.micro_batch_size=8")
    pixels = build_data(cfg).pretrain.rows[:8]
    losses = []
    for size in (8, None):
        cfg.data.micro_batch_size = size
        torch.manual_seed(0)
        module = build_module(cfg, True)
        torch.manual_seed(1)
        losses.append(module.losses(Samples(pixels, torch.arange(8)), Clock(0, 0, 1))["loss"])
    assert torch.equal(*losses)


def test_what_scales_the_loss_afterwards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not go with trainer\.accumulate_grad_batches=2"):
        run_in(tmp_path, small("simclr", "data.micro_batch_size=4", "trainer.accumulate_grad_batches=2"))
    module = build_module(small("simclr", "data.micro_batch_size=4"), True)
    module.trainer = SimpleNamespace(accumulate_grad_batches=1, precision="16-mixed")  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"does not go with trainer\.precision=16-mixed"):
        module.on_fit_start()


def test_a_micro_batch_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.micro_batch_size is 1"):
        build_module(small("simclr", "data.micro_batch_size=1"), True)
