"""Activations that are computed again for the backward pass change no number."""

import pytest
import torch
from torch import Tensor

from ssl_framework.build import build, build_module
from ssl_framework.models.backbone import Backbone
from tests.small_runs import small


def made(name: str, small_name: str | None, checkpoint: bool, **options: object) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, small_name, 32, 3, dict(options), checkpoint_activations=checkpoint)


def trained(backbone: Backbone) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], int]:
    """Features, gradients and state after a step, and how many numbers the backward pass was left."""
    kept = 0

    def count(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel()
        return x

    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # of dropped paths
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        pooled = backbone(x)["pooled"]
    left = kept  # now: the second pass keeps some of its own
    pooled.square().mean().backward()
    grads = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    return pooled, grads, backbone.state_dict(), left


@pytest.mark.parametrize(
    ("name", "small_name", "options"),
    [
        ("resnet18", "ssl_resnet18_small", {"drop_path_rate": 0.5}),  # batch statistics, and chance
        ("vit_tiny_patch16_224", None, {"img_size": 32, "patch_size": 4, "depth": 3}),
    ],
)
def test_features_gradients_and_statistics_are_those_without(
    name: str, small_name: str | None, options: dict[str, object]
) -> None:
    own_options = {} if small_name else options  # our small ResNets take no options
    pooled, grads, state, left = trained(made(name, small_name, True, **own_options))
    plain_pooled, plain_grads, plain_state, plain_left = trained(made(name, small_name, False, **own_options))
    assert torch.equal(pooled, plain_pooled)
    assert grads.keys() == plain_grads.keys() and len(grads) > 20
    for key in grads:
        torch.testing.assert_close(grads[key], plain_grads[key], rtol=0, atol=1e-6)
    assert all(torch.equal(state[key], plain_state[key]) for key in state)
    assert left < 0.5 * plain_left


def test_a_second_step_counts_its_statistics() -> None:
    backbone = made("resnet18", "ssl_resnet18_small", True)
    for _ in range(2):
        trained(backbone)
    assert backbone.net.bn1.num_batches_tracked == backbone.net.layer3[0].bn1.num_batches_tracked == 2


@pytest.mark.parametrize("backbone", ["tiny", "mlp"])
def test_a_backbone_that_cannot_is_refused_by_name(backbone: str) -> None:
    cfg = small("simclr", f"backbone={backbone}", "backbone.checkpoint_activations=true")
    with pytest.raises(ValueError, match=f"but ssl_{backbone} cannot checkpoint its activations: set it to false or"):
        build(cfg.student)


def test_a_mixer_inside_the_student_is_refused() -> None:
    cfg = small("simclr", "backbone=resnet18", "mixer=manifold_mixup", "backbone.checkpoint_activations=true")
    with pytest.raises(ValueError, match=r"names a block of ssl_resnet18_small, but backbone.checkpoint_act"):
        build_module(cfg, has_labels=True, num_samples=48)
