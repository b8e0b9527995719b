from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssl_framework.models.text import PADDING, TextTransformer


def texts(lengths: list[int], total: int, seed: int = 0) -> torch.Tensor:
    x = torch.randint(1, 20, (len(lengths), total), generator=torch.Generator().manual_seed(seed))
    return x.masked_fill(torch.arange(total) >= torch.tensor(lengths)[:, None], PADDING)


def transformer(**options: object) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer(**{"vocabulary": 20, "length": 9, "width": 16, "depth": 2, "num_heads": 4, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["mean", "first"])
@pytest.mark.parametrize("mode", [True, False])
def test_padding_never_changes_a_text(pool: str, mode: bool) -> None:
    net = transformer(pool=pool).train(mode)
    x = texts([3, 5], 5)
    short, longer = net(x), net(nn.functional.pad(x, (0, 4), value=PADDING))
    torch.testing.assert_close(longer["pooled"], short["pooled"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(longer["tokens"][:, :5], short["tokens"], rtol=1e-5, atol=1e-6)
    assert not longer["tokens"][:, 5:].any() and not longer["tokens"][0, 3:].any()
    alone = net(x[:1, :3])  # without the text beside it and without padding
    torch.testing.assert_close(alone["pooled"][0], short["pooled"][0], rtol=1e-5, atol=1e-6)


def test_gradients_do_not_reach_padding() -> None:
    net = transformer()
    net(texts([3, 5], 9))["pooled"].sum().backward()
    assert not net.net.tokens.weight.grad[PADDING].any()  # type: ignore[union-attr, index]
    assert not net.net.places.grad[5:].any() and net.net.places.grad[4].any()  # type: ignore[index]


def test_pooling() -> None:
    x = texts([3, 5], 6)
    out = transformer(pool="mean")(x)
    for row, length in enumerate((3, 5)):
        torch.testing.assert_close(out["pooled"][row], out["tokens"][row, :length].mean(dim=0))
    out = transformer(pool="first")(x)
    assert torch.equal(out["pooled"], out["tokens"][:, 0])


@pytest.mark.parametrize(("depth", "block"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_the_middle_is_pooled_behind_the_middle_block(depth: int, block: int) -> None:
    net, x = transformer(depth=depth), texts([3, 5], 6)
    seen: list[torch.Tensor] = []
    net.net.blocks[block].register_forward_hook(lambda module, inputs, output: seen.append(output))
    middle = net(x)["middle"]
    for row, length in enumerate((3, 5)):
        torch.testing.assert_close(middle[row], seen[0][row, :length].mean(dim=0))


def test_the_order_of_words_counts() -> None:
    net = transformer()
    x = texts([5], 5)
    assert (net(x)["pooled"] - net(x.flip(1))["pooled"]).abs().max() > 1e-3


def test_blocks_begin_with_weights_of_their_own() -> None:
    first, second = (block.linear1.weight for block in transformer(depth=2).net.blocks)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "num_heads of a text backbone is 3, which does not divide the width 16"),
        ({"pool": "middle"}, "pool of a text backbone is middle: choose one of mean, first, last"),
        ({"depth": 0}, "depth is 0: it must be at least 1"),
    ],
)
def test_bad_values(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        transformer(**options)


def test_a_text_that_is_too_long() -> None:
    with pytest.raises(ValueError, match=r"up to 9 tokens a text, but the views have torch\.int64 samples of 10"):
        transformer()(texts([4], 10))


def test_exported_weights_are_loaded_by_the_line_that_is_printed(tmp_path: Path) -> None:
    own, path = transformer(), tmp_path / "text.safetensors"
    save_file(own.net.state_dict(), str(path))
    scope: dict = {}
    exec(own.load_line(path), scope)
    x = texts([3, 5], 6)
    assert torch.equal(scope["net"](x), own(x)["tokens"])
