"""Models of timm at the size of the images at hand, told or not."""

import pytest
import timm
import torch

from ssl_framework.build import build_module
from ssl_framework.models.backbone import Backbone
from tests.small_runs import skip_without, small

VIT = "vit_tiny_patch16_224"


def backbone(name: str, size: int = 32, **options: object) -> Backbone:
    skip_without(name)
    torch.manual_seed(0)
    return Backbone(name, None, size, 3, dict(options))


def test_a_transformer_is_told_its_size_and_begins_as_if_the_user_had_said_it() -> None:
    told, said = backbone(VIT, depth=1), backbone(VIT, depth=1, img_size=32)
    assert told.options == said.options == {"depth": 1, "img_size": 32}
    drawn = torch.rand(3)
    assert told.net.state_dict().keys() == said.net.state_dict().keys()
    assert all(torch.equal(x, said.net.state_dict()[name]) for name, x in told.net.state_dict().items())
    torch.manual_seed(0)
    timm.create_model(VIT, num_classes=0, depth=1, img_size=32)
    assert torch.equal(torch.rand(3), drawn)  # what is built next begins alike, too


def test_a_convolutional_net_is_told_nothing() -> None:
    assert backbone("test_resnet").options == {}


def test_what_the_user_says_of_the_size_is_left_alone() -> None:
    with pytest.raises(ValueError, match=r"leave backbone.options.img_size=64 out, or set it to 32"):
        backbone(VIT, depth=1, img_size=64)


def test_a_size_that_a_model_cannot_take_is_refused_with_those_that_it_can() -> None:
    with pytest.raises(ValueError, match=r"test_coatnet cannot take 3 x 40 x 40 .* such as 32, 64, 96"):
        backbone("test_coatnet", 40)


def test_features_of_several_scales_are_pooled_and_refused_where_a_map_is_needed() -> None:
    net = backbone("efficientvim_m1").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert list(net(x)) == ["pooled"]
        assert torch.equal(net(x)["pooled"], net.net.forward_head(net.net.forward_features(x), pre_logits=True))


def test_a_map_has_its_channels_first_also_where_timm_has_them_last() -> None:
    net = backbone("swin_tiny_patch4_window7_224", 64, depths=[1, 1], num_heads=[3, 6]).eval()
    with torch.no_grad():
        outputs = net(torch.rand(2, 3, 64, 64))
    assert outputs["map"].shape == (2, 192, 8, 8)
    torch.testing.assert_close(outputs["map"].mean(dim=(2, 3)), outputs["pooled"])


@pytest.mark.parametrize("name", ["gmlp_ti16_224", "efficientvim_m1"])
def test_a_map_is_found_where_tokens_alone_do_not_say_where_they_lie(name: str) -> None:
    net = backbone(name, 64).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found, last = net.spatial(x), net.net.forward_intermediates(x, indices=1, intermediates_only=True)[-1]
    assert found.shape[0] == 2 and found.shape[2] == found.shape[3] > 0
    assert torch.equal(found, last)


def test_images_of_several_sizes_make_position_embeddings_follow_and_change_no_weight() -> None:
    net = backbone(VIT, depth=1)
    before = {name: x.clone() for name, x in net.net.state_dict().items()}
    drawn = torch.get_rng_state()
    net.take_sizes([32, 48])
    assert torch.equal(torch.get_rng_state(), drawn)
    assert net.options == {"depth": 1, "img_size": 32, "dynamic_img_size": True}
    assert net(torch.rand(2, 3, 48, 48))["tokens"].shape == (2, 1 + 9, 192)
    net.take_sizes([32, 48])  # and once more, when nothing has to be told
    assert all(torch.equal(x, before[name]) for name, x in net.net.state_dict().items())


def test_views_of_several_sizes_are_refused_where_a_net_takes_one() -> None:
    skip_without("test_coatnet")
    multicrop = ("backbone=timm", "backbone.name=test_coatnet", "views=multicrop", "views.groups.1.size=64")
    with pytest.raises(ValueError, match=r"views of 64 px, which backbone.name=test_coatnet cannot take beside others"):
        build_module(small("swav", *multicrop), True)
