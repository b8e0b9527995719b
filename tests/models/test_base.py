"""What a backbone offers, and what is refused where one does not."""

from pathlib import Path

import pytest
import torch

from ssl_framework.models.backbone import Backbone
from ssl_framework.models.base import deep, layered, spatial


class Plain(torch.nn.Module):
    """A backbone without capabilities: the first three numbers of a vector."""

    dim, name, weights, net = 3, "plain", None, torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooled": x[:, :3]}


def test_timm_models_can_all_of_it() -> None:
    backbone = Backbone("ssl_tiny", None, 16, 3)
    assert layered(backbone, "mixer.rule.layers") is backbone
    assert spatial(backbone, "evaluation") is backbone and deep(backbone, "evaluation.layer_decay") is backbone


@pytest.mark.parametrize(
    ("capability", "what"),
    [(layered, "blocks that can be named"), (spatial, "a map of the picture"), (deep, "the depth of every parameter")],
)
def test_what_a_backbone_has_not_is_refused_by_the_key_that_asks_for_it(capability: object, what: str) -> None:
    with pytest.raises(ValueError, match=f"^some.key needs {what}, which plain has not: choose another backbone"):
        capability(Plain(), "some.key")  # type: ignore[operator]


def test_an_export_says_how_to_load_it() -> None:
    backbone = Backbone("vit_tiny_patch16_224", None, 32, 1, {"img_size": 32})
    assert backbone.about() == {"timm_name": "vit_tiny_patch16_224", "in_chans": "1"}
    assert backbone.load_line(Path("x.safetensors")) == (
        "timm.create_model('vit_tiny_patch16_224', num_classes=0, in_chans=1, img_size=32, "
        "checkpoint_path='x.safetensors')"
    )
