"""Feed-forward parts of a text's own domain, and those that a router chooses, beside the net of one part for all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_framework.models.experts import ExpertBlock
from ssl_framework.models.text import PADDING, TextNet, TextTransformer, checkpoint_filter_fn
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


@pytest.mark.parametrize("options", [{"expert_layers": [0]}, {"routing": "token", "top_k": 2}])
def test_exported_weights_are_loaded_by_the_line_that_is_printed(options: dict, tmp_path: Path) -> None:
    own, path = moved(transformer(experts=3, **options)), tmp_path / "text.safetensors"
    save_file(own.net.state_dict(), path)
    found: dict[str, nn.Module] = {}
    exec(own.load_line(path), found)
    assert isinstance(found["net"], TextNet)
    torch.testing.assert_close(found["net"].eval()(texts(1, 2)), own.eval()(texts(1, 2))["tokens"])


# Routers.


def block(routing: str, top_k: int, experts: int = 3) -> ExpertBlock:
    """In float64, with experts that differ."""
    torch.manual_seed(0)
    found = ExpertBlock(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), experts, routing, top_k).double()
    with torch.no_grad():
        for linear in (found.linear1, found.linear2):
            linear.weight += torch.randn_like(linear.weight)
            linear.bias += torch.randn_like(linear.bias)
    return found


def tokens() -> tuple[Tensor, Tensor]:
    """[2, 4, 8] float64 and where there are none, [2, 4]: the last of the second text."""
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.tensor([[False] * 4, [False] * 3 + [True]])


def by_hand(own: ExpertBlock, seen: Tensor, expert: int) -> Tensor:
    """What one expert adds to a token [D]."""
    inner = nn.functional.gelu(own.linear1.weight[expert] @ seen + own.linear1.bias[expert])
    return own.linear2.weight[expert] @ inner + own.linear2.bias[expert]


def attended(own: ExpertBlock, x: Tensor, padding: Tensor) -> Tensor:
    """[B, L, D] behind the attention."""
    y = own.norm1(x)
    return x + own.self_attn(y, y, y, key_padding_mask=padding, need_weights=False)[0]


@pytest.mark.parametrize("routing", ["token", "mean", "first", "last"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_best_experts_are_weighed_by_their_softmax(routing: str, top_k: int) -> None:
    own = block(routing, top_k)
    x, padding = tokens()
    found, routes = own(x, None, padding, torch.zeros(2).long())
    before = attended(own, x, padding)
    assert own.router is not None and routes is not None
    for b, count in enumerate((4, 3)):
        seen = [own.norm2(before[b, i]) for i in range(count)]
        chosen = {"mean": sum(seen) / count, "first": seen[0], "last": seen[-1]}
        likely = []
        for i in range(count):
            logits = own.router.gate.weight @ chosen.get(routing, seen[i])
            p = logits.softmax(dim=0).tolist()
            likely.append(p)
            best = sorted(range(3), key=lambda e: -p[e])[:top_k]
            wanted = before[b, i] + sum(p[e] * by_hand(own, seen[i], e) for e in best)
            torch.testing.assert_close(found[b, i], wanted)
        torch.testing.assert_close(routes[b].tolist(), [sum(p[e] for p in likely) / count for e in range(3)])


def test_a_one_hot_router_is_the_routing_by_domain() -> None:
    x, padding = tokens()
    domain = torch.tensor([2, 0])
    enforced, learnt = block("domain", 1), block("mean", 1)
    weight = nn.functional.one_hot(domain, 3).double()[:, None]  # [B, 1, E]
    learnt.load_state_dict(enforced.state_dict(), strict=False)
    assert learnt.router is not None
    learnt.router.forward = lambda x, there: (weight, weight[:, 0])  # type: ignore[method-assign]
    wanted, none = enforced(x, None, padding, domain)
    assert none is None
    torch.testing.assert_close(learnt(x, None, padding, domain)[0], wanted)


@pytest.mark.parametrize("routing", ["token", "mean"])
def test_all_experts_chosen_are_a_dense_mixture_and_copies_of_one_are_that_one(routing: str) -> None:
    one = transformer()
    several = transformer(experts=3, routing=routing, top_k=3)
    several.net.load_state_dict(checkpoint_filter_fn(one.net.state_dict(), several.net))
    x = texts(0, 2, 1)
    torch.testing.assert_close(several(x)["tokens"], one(x)["tokens"], rtol=1e-4, atol=1e-5)
    fewer = transformer(experts=3, routing=routing, top_k=2)
    fewer.load_state_dict(several.state_dict())
    assert not torch.allclose(fewer(x)["tokens"], one(x)["tokens"], atol=1e-3)


def test_a_router_of_one_expert_learns_and_experts_that_are_not_chosen_do_not() -> None:
    own = block("first", 1)
    x, padding = tokens()
    found, routes = own(x[:1], None, padding[:1], torch.zeros(1).long())
    found.sum().backward()
    assert own.router is not None and routes is not None and own.router.gate.weight.grad is not None
    assert own.router.gate.weight.grad.any()
    chosen = int(routes.argmax())
    assert own.linear1.weight.grad is not None
    assert [bool(g.any()) for g in own.linear1.weight.grad] == [e == chosen for e in range(3)]


def test_routes_are_the_mean_over_blocks_and_padding_changes_nothing() -> None:
    net = moved(transformer(experts=3, routing="token", top_k=2))
    assert net.dense_dims["routes"] == 3 and "routes" not in transformer(experts=3)(texts(1))
    x = texts(0, 2, 1, 0)
    found, shorter = net(x), net(x[:, :6])
    torch.testing.assert_close(found["pooled"], shorter["pooled"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["routes"], shorter["routes"])
    each: list[Tensor] = []
    for own in net.net.blocks:
        own.router.register_forward_hook(lambda module, given, out: each.append(out[1]))
    torch.testing.assert_close(net(x)["routes"], sum(each) / 2)
    torch.testing.assert_close(found["routes"].sum(dim=1), torch.ones(4))


def test_weights_of_a_net_without_a_router_begin_one_with_a_router(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    save_file(moved(transformer()).net.state_dict(), path)
    net = transformer(experts=3, routing="mean", top_k=3, weights=str(path))
    assert begin(net)
    torch.testing.assert_close(net(texts(2))["pooled"], moved(transformer())(texts(2))["pooled"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"routing": "word"}, "routing of a text backbone is word: choose one of domain, token, mean, first, last"),
        ({"experts": 3, "top_k": 2}, "top_k of a text backbone is 2, but routing=domain gives a text one expert"),
        (
            {"experts": 1, "routing": "mean"},
            "routing of a text backbone is mean, but experts is 1: set it to 2 or more",
        ),
        (
            {"experts": 3, "routing": "mean", "top_k": 4},
            "top_k of a text backbone is 4, but experts is 3: set top_k to",
        ),
    ],
)
def test_routings_without_a_choice_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        transformer(**options)
