"""Pictures of mixers show the mixer's own record; what cannot be drawn is said."""

from pathlib import Path

import pytest
import torch

from ssl_framework.commands.show import main
from ssl_framework.data.base import Split
from ssl_framework.mixers.mixing import Mixing
from ssl_framework.report.pictures import mixtures
from ssl_framework.report.pictures.mixtures import first_of_each_class, framed, mix_images, ownership, rgb
from tests.small_runs import config

FEW = ("data.source.num_train=40", "data.source.num_test=20")


def test_what_is_drawn_is_what_was_mixed() -> None:
    """Own images first, and in every pixel the sources by their weights, in the colours of the images."""
    label = torch.arange(12) % 3
    pixels = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name, num in (("cutmix", 2), ("patchmix", 3), ("smoothmix", 2)):
        found = mix_images(config(f"mixer={name}"), Split(pixels, label), name, count=5)
        assert found.sources.shape == (5, num, 3, 32, 32)
        torch.testing.assert_close(found.sources[:, 0], pixels[[0, 1, 2, 3, 4]] / 255)
        expected = (found.owner[:, :, None] * found.sources).sum(dim=1)
        torch.testing.assert_close(found.mixed, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.owner.mean(dim=(2, 3)), found.share)


def test_classes_take_turns() -> None:
    pixels = torch.empty(6, 1, 2, 2)
    assert first_of_each_class(Split(pixels, torch.tensor([1, 1, 0, 1, 0, 5])), 5).tolist() == [2, 0, 5, 4, 1]
    assert first_of_each_class(Split(pixels), 3).tolist() == [0, 1, 2]


def test_colours_and_frames() -> None:
    grey = torch.rand(4, 1, 3, 3)
    assert torch.equal(rgb(grey), grey.expand(4, 3, 3, 3)) and rgb(torch.rand(2, 5, 3, 3)).shape == (2, 3, 3, 3)
    whole = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4, 4)
    assert torch.equal(ownership(whole)[:, 0, 0], torch.tensor(mixtures.to_rgb(mixtures.COLOURS[1])))
    image = framed(torch.zeros(3, 16, 32), "white")
    assert (
        image.shape == (3, 4 * (16 + 2), 4 * (32 + 2)) and image[:, 4:-4, 8:-8].sum() == 0 and (image[:, 0] == 1).all()
    )


def test_the_command_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(mixtures, "mixer_names", lambda: ["patchmix"])
    for words, name in (
        (["mixer=fmix", *FEW], "fmix_shapes"),
        (["mixers", *FEW], "mixers"),
        (["gallery", *FEW], "mixer_gallery"),
        (["views", *FEW], "views_shapes"),
    ):
        main([*words, "--out", str(tmp_path)])
        path = Path(capsys.readouterr().out.strip())
        assert path == tmp_path / f"{name}.png" and path.read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=simclr", *FEW], "mixer=none, which leaves images as they are: choose one with mixer=<name>"),
        (["mixer=cutmax"], "there is no mixer=cutmax"),
        (["pictures"], "'pictures' is neither key=value nor one of mixers, gallery, views, report"),
    ],
)
def test_what_cannot_be_drawn_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert said in f"{ended.value} {capsys.readouterr().err}"


def test_mixing_inside_the_network_has_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """It is left out of the picture of all."""
    mixed = Mixing.mixed

    def hidden(self: Mixing, *given: object) -> object:
        x, mix = mixed(self, *given)  # type: ignore[arg-type]
        return x, mix._replace(owner=None) if type(self.rule).__name__ == "CutMix" else mix

    monkeypatch.setattr(Mixing, "mixed", hidden)
    monkeypatch.setattr(mixtures, "mixer_names", lambda: ["cutmix", "mixup"])
    main(["mixers", *FEW, "--out", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "left out cutmix: mixer=cutmix mixes inside the network: it makes no images to draw"
    assert Path(said[1]).is_file()


@pytest.mark.parametrize("words", [["mixer=cutmix"], ["views"]])
def test_series_are_no_pictures_to_draw(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "data=waves", "data.source.num_train=16", "data.source.num_test=8", f"--out={tmp_path}"])
    assert f"error: {words[0]} can be drawn of pictures only, but the samples are of modality series: " in str(
        ended.value
    )
    assert list(tmp_path.iterdir()) == []
