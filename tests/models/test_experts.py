"""Feed-forward parts of a text's own domain, beside the net of one part for all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_framework.models.text import PADDING, TextNet, TextTransformer
from ssl_framework.models.weights import begin

SIZES = {"vocabulary": 20, "length": 7, "width": 16, "depth": 2, "num_heads": 4}


def transformer(**options: object) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(**{**SIZES, **options})  # type: ignore[arg-type]


def texts(*domains: int) -> Tensor:
    """[B, 7] of six tokens; the domains' are 17, 18 and 19."""
    x = torch.randint(3, 17, (len(domains), 7), generator=torch.Generator().manual_seed(0))
    x[:, 0], x[:, 6] = 17 + torch.tensor(domains), PADDING
    return x


def moved(net: TextTransformer) -> TextTransformer:
    """The same with other experts."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "linear" in name:
                p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name)))
    return net


@pytest.mark.parametrize("mode", [True, False])
def test_experts_begin_as_the_net_without(mode: bool) -> None:
    one, several = (transformer(experts=count).train(mode) for count in (0, 3))
    torch.testing.assert_close(several(texts(0, 2, 1))["tokens"], one(texts(0, 2, 1))["tokens"], rtol=1e-5, atol=1e-6)


def test_a_text_is_served_by_the_expert_of_its_domain() -> None:
    net, x = moved(transformer(experts=3)), texts(0, 2, 1, 2)
    for row, expert in enumerate((0, 2, 1, 2)):
        alone = transformer()
        state = {
            name: p[expert] if ".linear" in name else p for name, p in net.net.state_dict().items()
        }  # that expert's, in a net of one
        alone.net.load_state_dict(state)
        torch.testing.assert_close(net(x)["pooled"][row], alone(x[row : row + 1])["pooled"][0], rtol=1e-5, atol=1e-6)


def test_only_the_experts_of_the_batch_have_a_gradient_other_than_zero() -> None:
    net = moved(transformer(experts=3))
    net(texts(0, 2))["pooled"][:, 0].sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        if ".linear" in name:
            assert [bool(g.any()) for g in p.grad] == [True, False, True], name


def test_a_text_without_a_domain_is_served_by_the_first_expert() -> None:
    net, x = moved(transformer(experts=3)), texts(0)
    plain = x.clone()
    plain[:, 0] = 1
    with torch.no_grad():
        net.net.tokens.weight[1] = net.net.tokens.weight[17]
    torch.testing.assert_close(net(plain)["pooled"], net(x)["pooled"])


def test_chosen_blocks_alone_have_experts() -> None:
    net = transformer(experts=3, expert_layers=[1])
    assert [block.linear1.weight.shape for block in net.net.blocks] == [(64, 16), (3, 64, 16)]
    with pytest.raises(ValueError, match="expert_layers names 2, but the blocks are numbered 0 to 1"):
        transformer(experts=3, expert_layers=[2])
    with pytest.raises(ValueError, match=r"experts of a text backbone is 1, .* such as data=caption_domains, or"):
        transformer(experts=1)


def test_weights_of_a_net_without_experts_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    save_file(moved(transformer()).net.state_dict(), path)
    net = transformer(experts=3, weights=str(path))
    net.net.tokens.weight.data.normal_()
    assert begin(net)
    torch.testing.assert_close(net(texts(2, 1))["pooled"], moved(transformer())(texts(2, 1))["pooled"])
    wrong = transformer(experts=3, width=8, weights=str(path))
    with pytest.raises(ValueError, match="does not fit"):
        begin(wrong)


def test_exported_weights_are_loaded_by_the_line_that_is_printed(tmp_path: Path) -> None:
    own, path = moved(transformer(experts=3, expert_layers=[0])), tmp_path / "text.safetensors"
    save_file(own.net.state_dict(), path)
    found: dict[str, nn.Module] = {}
    exec(own.load_line(path), found)
    assert isinstance(found["net"], TextNet)
    torch.testing.assert_close(found["net"].eval()(texts(1, 2)), own.eval()(texts(1, 2))["tokens"])
