"""TERA: the golden value, a loop, and each alteration by itself."""

import pytest
import torch
from torch import Tensor

from ssl_framework.objectives.tera import TERA
from ssl_framework.types import Batch, Samples
from ssl_framework.views.altered import AlteredAudio
from tests.golden import golden, mix_raw
from tests.objectives import loops

M, F = 8, 20


def loss(prediction: Tensor, target: Tensor, altered: Tensor) -> dict[str, Tensor]:
    """Of frames by bands [B, F, M]."""
    pictures = [x.transpose(1, 2)[:, None] for x in (target, altered)]
    return TERA()([{"frames": prediction}], None, Batch([], torch.arange(len(target)), targets=pictures), loops.CLOCK)


def test_golden() -> None:
    altered = torch.zeros(1, 6, 8).bool()
    altered[:, 1:3] = altered[:, :, 5] = True
    found = loss(mix_raw(1)[None], mix_raw(0)[None], altered)
    assert found["loss"].item() == pytest.approx(golden("tera: L1 at altered places"), abs=1e-7)
    assert found["altered"].item() == pytest.approx((2 * 8 + 4) / 48)


def test_equals_the_loop() -> None:
    prediction, target = mix_raw(0, 15, 4).view(3, 5, 4), mix_raw(1, 15, 4).view(3, 5, 4)
    altered = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    errors = [abs(float(prediction[i] - target[i])) for i in map(tuple, altered.nonzero().tolist())]
    assert loss(prediction, target, altered)["loss"].item() == pytest.approx(sum(errors) / len(errors), abs=1e-12)


def maker(**changed: float) -> AlteredAudio:
    sizes = {"rate": 8000, "length": 400, "mels": M, "frames": F, "mean": [-8.0], "std": [2.0]}
    off = {"time": 0.0, "block": 4, "bands": 0.0, "noisy": 0.0, "noise_std": 0.5}
    return AlteredAudio(**{**sizes, **off, **changed})  # type: ignore[arg-type]


def made(count: int = 400, **changed: float) -> tuple[Tensor, Tensor, Tensor]:
    """The view, what it was, and where it is altered: [B, M, F] each."""
    x = torch.randn(count, 400, generator=torch.Generator().manual_seed(1))
    batch = maker(**changed)(Samples(x, torch.arange(count)), torch.Generator().manual_seed(0))
    assert batch.targets is not None and torch.equal(batch.targets[0], maker(time=0.5).clean(x))
    view, clean, altered = (part[:, 0] for part in (*batch.views, *batch.targets))
    assert torch.equal(view[~altered], clean[~altered])  # the rest is as it was
    return view, clean, altered


def test_blocks_of_frames_are_hidden_exchanged_or_kept() -> None:
    view, clean, altered = made(time=0.2)  # 4 of 20 frames: one block
    assert torch.equal(altered, altered[:, :1].expand_as(altered)) and (altered[:, 0].sum(1) == 4).all()
    first = altered[:, 0].float().argmax(1)
    assert torch.equal(altered[:, 0], (torch.arange(F) >= first[:, None]) & (torch.arange(F) < first[:, None] + 4))
    assert first.unique().tolist() == list(range(17))
    kinds = [0, 0, 0]
    for one, was, start in zip(view, clean, first.tolist(), strict=True):
        shown = one[:, start : start + 4]
        same = [s for s in range(17) if torch.equal(shown, was[:, s : s + 4])]
        kinds[0 if (shown == 0).all() else 2 if start in same else 1] += 1
        assert (shown == 0).all() or same
    assert [abs(kind / 400 - share) < 0.06 for kind, share in zip(kinds, (0.8, 0.1, 0.1), strict=True)] == [True] * 3
    assert (made(time=0.6)[2][:, 0].sum(1) > 4).all()  # three blocks, which may overlap


def test_bands_are_hidden_in_one_piece_of_any_width() -> None:
    view, _, altered = made(bands=0.4)  # up to 3 of 8
    own = altered[:, :, 0]
    assert torch.equal(altered, own[:, :, None].expand_as(altered)) and (view[altered] == 0).all()
    assert own.sum(1).unique().tolist() == [0, 1, 2, 3] and own.any(0).all()
    assert (own.int().diff(dim=1) == 1).sum(1).le(1).all()


def test_noise_is_in_all_places_of_some_sounds() -> None:
    view, clean, altered = made(noisy=0.25)
    noisy = altered.flatten(1).all(1)
    assert torch.equal(altered.flatten(1).any(1), noisy) and abs(noisy.float().mean() - 0.25) < 0.06
    assert abs((view - clean)[noisy].std() - 0.5) < 0.01


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"views\.time, views\.bands and views\.noisy are 0: set one above 0"):
        maker()
    with pytest.raises(ValueError, match=r"views\.block is 21, but a sound has 20 frames"):
        maker(time=0.1, block=21)
    x = mix_raw(0, 15, 4).view(3, 5, 4)
    with pytest.raises(ValueError, match="but frames gives 5 tokens of 3 numbers: choose backbone=frames"):
        loss(x[:, :, :3], x, x > 0)
    with pytest.raises(ValueError, match="the views do not tell: choose views=tera"):
        TERA()([{"frames": x}], None, loops.batch(3), loops.CLOCK)
