"""The dilated network: what a point sees, shifts, and the export."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv1d, gelu

from ssl_framework.models.series import DilatedNet, OfSeries, SeriesBackbone
from ssl_framework.models.series_nets import SeriesLSTM, SeriesTransformer, positions


def backbone(**changed: int) -> SeriesBackbone:
    torch.manual_seed(0)
    return SeriesBackbone(**{"channels": 2, "width": 6, "depth": 2, "dim": 8, **changed})


def test_it_is_the_network_of_the_paper_written_out() -> None:
    x, made = torch.randn(3, 2, 20), backbone()
    own = dict(made.net.named_parameters())
    h = conv1d(x, own["read.weight"], own["read.bias"])
    for i in range(3):
        weights = [(own[f"blocks.{i}.{part}.weight"], own[f"blocks.{i}.{part}.bias"]) for part in ("first", "second")]
        new = h
        for weight, bias in weights:
            new = conv1d(gelu(new), weight, bias, padding=2**i, dilation=2**i)
        skip = f"blocks.{i}.skip.weight"
        h = new + (conv1d(h, own[skip], own[f"blocks.{i}.skip.bias"]) if skip in own else h)
    outputs = made(x)
    torch.testing.assert_close(outputs["tokens"], h.transpose(1, 2))
    torch.testing.assert_close(outputs["pooled"], h.max(dim=2).values)
    assert outputs["pooled"].shape == (3, made.dim) and outputs["tokens"].shape == (3, 20, 8)


def test_a_point_sees_as_far_as_is_said() -> None:
    x = torch.zeros(1, 2, 101, requires_grad=True)
    backbone()(x)["tokens"][0, 50].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero().flatten()  # type: ignore[union-attr]
    reach = 2 * (1 + 2 + 4)  # two convolutions of reach 1, 2 and 4
    assert (seen.min().item(), seen.max().item()) == (50 - reach, 50 + reach)


def test_a_shifted_series_has_the_same_pooled_features() -> None:
    bump = torch.zeros(2, 2, 200)
    shape = torch.randn(2, 10)
    bump[0, :, 60:70] = bump[1, :, 95:105] = shape
    first, second = backbone()(bump)["pooled"]
    torch.testing.assert_close(first, second)


def others() -> list[OfSeries]:
    torch.manual_seed(0)
    return [SeriesLSTM(2, 6, 2, 8), SeriesTransformer(2, 6, 2, 3, 8)]


def test_points_are_hidden_behind_the_first_layer_in_training_alone() -> None:
    for made in (backbone(), *others()):
        made.hidden, x = 0.5, torch.randn(64, 2, 20)
        whole = made.eval()(x)["tokens"]
        torch.testing.assert_close(whole, made.net(x).transpose(1, 2))
        made.train()
        torch.manual_seed(0)
        hidden = made(x)["tokens"]
        torch.manual_seed(0)
        gone = torch.rand(64, 1, 20) < 0.5
        torch.testing.assert_close(hidden, made.net.blocks(made.net.read(x).masked_fill(gone, 0.0)).transpose(1, 2))
        assert not torch.equal(hidden, whole)


def test_a_recurrent_net_sees_the_past_and_a_transformer_all() -> None:
    for made, first, last in zip(others(), (0, 0), (12, 19), strict=True):
        x = torch.zeros(1, 2, 20, requires_grad=True)
        made(x)["tokens"][0, 12].sum().backward()
        seen = x.grad.abs().sum((0, 1)).nonzero().flatten()  # type: ignore[union-attr]
        assert (seen.min().item(), seen.max().item()) == (first, last)
    angle = torch.tensor([3.0, 3.0 * 10000.0**-0.5])
    torch.testing.assert_close(positions(5, 4, angle)[3], torch.cat([angle.sin(), angle.cos()]))
    with pytest.raises(ValueError, match=r"backbone\.width is 6: make it even and a multiple of backbone\.heads=4"):
        SeriesTransformer(2, 6, 2, 4, 8)


def test_exports_of_the_others_load(tmp_path: Path) -> None:
    for made in others():
        path, x, found = tmp_path / "net.safetensors", torch.randn(2, 2, 30), {}  # type: ignore[var-annotated]
        save_file(made.net.state_dict(), str(path), metadata=made.about())
        exec(made.load_line(path), found)
        assert torch.equal(found["net"].eval()(x), made.eval().net(x))


def test_an_export_loads_outside_a_run(tmp_path: Path) -> None:
    made = backbone()
    path = tmp_path / "net.safetensors"
    save_file(made.net.state_dict(), str(path), metadata=made.about())
    found: dict = {}
    exec(made.load_line(path), found)
    x = torch.randn(2, 2, 30)
    assert isinstance(found["net"], DilatedNet) and torch.equal(found["net"](x), made.net(x))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes series of 2 channel\(s\), but the views have samples of 3 x 8 x 8"):
        backbone()(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="depth is 0: it must be at least 1"):
        backbone(depth=0)
    with pytest.raises(ValueError, match=r"backbone\.kernel is 4: it must be odd"):
        backbone(kernel=4)
