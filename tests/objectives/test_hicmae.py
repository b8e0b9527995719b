import pytest
import torch

from ssl_framework.models.fusion import MutualFusion
from ssl_framework.models.patch_heads import PatchDecoder
from ssl_framework.models.skip_decoder import SkipDecoder
from ssl_framework.objectives.hicmae import HiCMAE, LayerContrast
from ssl_framework.types import Batch
from tests.golden import golden, mix_rows
from tests.objectives import loops
from tests.test_wiring import refused

SMALL = ("backbone.options.patch_size=8", "backbone.options.embed_dim=24")
"""Towers of sixteen patches."""


def test_golden() -> None:
    """Two layers of one patch each."""
    film, sound = (torch.stack([mix_rows(v), mix_rows(v + 2)], dim=1)[:, :, None] for v in range(2))
    out = LayerContrast(0.07)([{"layers": film}, {"layers": sound}], None, loops.batch(6), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(
        golden("hicmae: layer-wise contrast summed over two layers, before the weight 0.1")
    )


def test_equals_the_loop_over_mean_patches() -> None:
    layers = [torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(v)).double() for v in range(2)]
    total = 0.0
    for number in range(3):
        z = [[row / row.norm() for row in x[:, number].mean(dim=1)] for x in layers]
        for a, b in (z, z[::-1]):
            for i in range(4):
                scores = [loops.dot(a[i], row) / 0.2 for row in b]
                total += (loops.log_sum_exp(scores) - scores[i]) / 8
    out = LayerContrast(0.2)([{"layers": x} for x in layers], None, loops.batch(4), loops.CLOCK)
    assert out["loss"].item() == pytest.approx(total)


class Says(torch.nn.Module):
    """A decoder that says the same whatever it reads, which it keeps."""

    def __init__(self, said: torch.Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, *read: torch.Tensor) -> torch.Tensor:
        self.read = read
        return self.said


class Swap(torch.nn.Module):
    def forward(self, one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 2 * other, -one


def test_the_whole_is_both_reconstructions_and_a_tenth_of_the_contrast() -> None:
    torch.manual_seed(0)
    film, sound = torch.randn(3, 3, 4, 4).double(), torch.randn(3, 1, 4, 4).double()  # four patches of 2 x 2 pixels
    mask = torch.tensor([[True, False, True, True], [False, True, True, True], [True, True, True, False]])
    layers = [torch.randn(3, 2, 1, 5).double() for _ in range(2)]
    patches = [torch.randn(3, 1, 5).double() for _ in range(2)]
    says = [Says(torch.randn(3, 4, 4 * c).double()) for c in (3, 1)]
    student = [{"patch_features": p, "mask": mask, "layers": x} for p, x in zip(patches, layers, strict=True)]
    found = HiCMAE(True, 0.1, 0.07, *says, Swap())(student, None, Batch([film, sound], torch.arange(3)), loops.CLOCK)
    errors = []
    for view, said in ((film, says[0].said), (sound, says[1].said)):
        each = []
        for b in range(3):
            for p in range(4):
                if mask[b, p]:
                    square = view[b, :, p // 2 * 2 : p // 2 * 2 + 2, p % 2 * 2 : p % 2 * 2 + 2]
                    pixels = square.permute(1, 2, 0).flatten()  # rows, columns, channels
                    pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
                    each.append(float((said[b, p] - pixels).square().mean()))
        errors.append(sum(each) / len(each))
    contrast = LayerContrast(0.07)([{"layers": x} for x in layers], None, loops.batch(3), loops.CLOCK)["loss"].item()
    assert found["reconstruction_loss"].item() == pytest.approx(sum(errors), abs=1e-6)
    assert found["loss"].item() == pytest.approx(sum(errors) + 0.1 * contrast, abs=1e-6)
    for one, read in zip(says, (2 * patches[1], -patches[0]), strict=True):  # what is decoded is fused, skips are not
        assert torch.equal(one.read[0], read) and torch.equal(one.read[2], mask)
    assert all(torch.equal(one.read[1], x) for one, x in zip(says, layers, strict=True))


def test_each_looks_at_what_the_other_was_in_front_of_the_layer() -> None:
    torch.manual_seed(0)
    fusion, one, other = MutualFusion(8, 2, 2), torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    x, y = one, other
    for first, second in zip(fusion.first, fusion.second, strict=True):
        x, y = first(x, None, None, y), second(y, None, None, x)
    found = fusion(one, other)
    torch.testing.assert_close(found, (fusion.norms[0](x), fusion.norms[1](y)))
    changed = other.clone()
    changed[1] += 1
    moved = [(a - b).abs().amax(dim=(1, 2)) > 1e-3 for a, b in zip(fusion(one, changed), found, strict=True)]
    assert [each.tolist() for each in moved] == [[False, True, False]] * 2
    with pytest.raises(ValueError, match="num_heads of a fusion is 3, which does not divide the width 8"):
        MutualFusion(8, 1, 3)


def test_a_decoder_without_skips_is_that_of_mae_and_one_with_them_reads_earlier_layers() -> None:
    torch.manual_seed(0)
    mask = torch.rand(3, 16).argsort(dim=1) < 10
    patches, layers = torch.randn(3, 6, 8), torch.randn(3, 3, 6, 8)
    plain, mae = SkipDecoder(8, 12, 2, 2, 3, 2, False), PatchDecoder("patches", 12, 2, 2)
    mae.drops, mae.out = True, 12
    mae.build(8)
    mae.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain(patches, layers, mask), mae({"patches": patches, "mask": mask}))
    for depth, read in ((1, [False, True, False]), (2, [True, True, False])):
        skipping = SkipDecoder(8, 12, depth, 2, 3, 2, True)
        found, moved = skipping(patches, layers, mask), []
        for number in range(3):
            other = layers.clone()
            other[:, number] += torch.randn(8)
            moved.append((skipping(patches, other, mask) - found).abs().max().item() > 1e-3)
        assert found.shape == (3, 16, 12) and moved == read, depth
    with pytest.raises(ValueError, match="a decoder of 2 blocks looks at as many layers in front of the last one, but"):
        skipping(patches, layers[:, 1:], mask)


def test_what_the_sound_alone_tells_is_drawn_where_the_two_are_fused() -> None:
    """Every picture is grey where it is seen; what is hidden has the sign of its sound."""
    torch.manual_seed(0)
    sign = (torch.arange(8) % 2 * 2.0 - 1)[:, None, None]
    pictures = sign[..., None] * torch.tensor([[0.0, 1.0, 1.0, 1.0]]).view(1, 1, 2, 2)  # four patches of a pixel
    mask = torch.tensor([[False, True, True, True]]).expand(8, -1)
    student = [
        {"patch_features": x, "layers": x[:, None], "mask": mask} for x in (torch.ones(8, 1, 8), sign.expand(8, 1, 8))
    ]
    objective = HiCMAE(
        False, 0.0, 0.1, *(SkipDecoder(8, 8, 1, 2, 1, 1, False) for _ in range(2)), MutualFusion(8, 1, 2)
    )
    optimizer = torch.optim.Adam(objective.parameters(), 0.03)
    for _ in range(25):
        optimizer.zero_grad()
        out = objective(student, None, Batch([pictures, 0 * pictures], torch.arange(8)), loops.CLOCK)
        out["loss"].backward()
        optimizer.step()
    assert out["reconstruction_loss"].item() < 0.2  # 1 is what the picture alone can tell
    objective.fusion = None
    alone = objective(student, None, Batch([pictures, 0 * pictures], torch.arange(8)), loops.CLOCK)
    assert alone["reconstruction_loss"].item() >= 1


def test_it_wants_masks_and_sounds() -> None:
    assert refused("method=hicmae", "masker=none", "backbone.masked_tokens=null").startswith("HiCMAE needs masks")
    assert refused("method=hicmae", "backbone.masked_tokens=replace").startswith(
        "HiCMAE needs backbone.masked_tokens=drop"
    )
    assert refused("method=hicmae", "data=captioned_shapes").startswith("captioned_shapes has no sound: choose")
