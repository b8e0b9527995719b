"""Generated images of every sample: from files by position, from a file, drawn again by the shapes; and their view."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_framework.build import build, build_data
from ssl_framework.data.base import Split
from ssl_framework.data.images.paired import Paired, PairedFiles, RedrawnShapes
from ssl_framework.data.images.shapes import Shapes
from ssl_framework.types import Samples
from tests.small_runs import SMALL, config

REAL = Split(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 0]))


def picture(path: Path, value: int) -> None:
    Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(path)


def files(path: Path) -> PairedFiles:
    return PairedFiles(str(path), 1, 4, 0.5)


def test_files_are_those_of_their_sample(tmp_path: Path) -> None:
    for name, value in (("2.png", 20), ("0.png", 0), ("1.png", 10)):
        picture(tmp_path / name, value)
    (tmp_path / "about.txt").write_text("made by a generator")
    assert files(tmp_path)(REAL)[:, 0, 0, 0, 0].tolist() == [0, 10, 20]
    for number in range(3):
        (tmp_path / f"{number}.png").unlink()
        for k in range(2):
            picture(tmp_path / f"{number}_{k}.png", 10 * number + k)
    assert files(tmp_path)(REAL)[:, :, 0, 0, 0].tolist() == [[0, 1], [10, 11], [20, 21]]
    (tmp_path / "1_1.png").unlink()
    with pytest.raises(ValueError, match=r"has 1 images of the training sample 1, and of 0 others of 3 another number"):
        files(tmp_path)(REAL)
    with pytest.raises(FileNotFoundError, match=r"generated\.path=.*elsewhere is no folder"):
        files(tmp_path / "elsewhere")(REAL)


def test_one_file_of_all(tmp_path: Path) -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "all.npz", images=images)
    assert files(tmp_path / "all.npz")(REAL)[:, :, 0, 0, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match=r"has 6 images for 4 training samples: give every sample as many"):
        files(tmp_path / "all.npz")(Split(torch.zeros(4, 1, 4, 4, dtype=torch.uint8)))


def shapes(**change: object) -> Shapes:
    settings = {"num_train": 120, "num_test": 8, "image_size": 16, "seed": 0, "label": "shape", "scale": [0.4, 0.8]}
    rest = {"position": 0.2, "rotation": 180, "contrast": 0.15, "saturation": 1.0}
    return Shapes(**{**settings, **rest, "texture_contrast": 0.03, "num_distractors": 1, **change})  # type: ignore[arg-type]


def test_redrawn_shapes_are_near_those_of_the_samples() -> None:
    """Without noise they are the same; with it the shape stays, and numbers move as far as is said."""
    source, real = shapes(), shapes().load("train")
    assert torch.equal(RedrawnShapes(source, 0.0, 1, 1)(real)[:, 0], real.rows)
    (_, before, _), (_, near, _), (_, far, _) = (next(source.chunks("train", noise, 7)) for noise in (0.0, 0.2, 1.0))
    for factors in (near, far):
        assert torch.equal(factors["shape"], before["shape"])
    moved = [(factors["scale_value"] - before["scale_value"]).abs() for factors in (near, far)]
    torch.testing.assert_close(moved[0], 0.2 * moved[1], rtol=1e-3, atol=1e-5)
    assert (near["background"] == before["background"]).float().mean() > 0.7
    assert (far["background"] == before["background"]).float().mean() < 0.4
    got = RedrawnShapes(source, 0.2, 2, 1)(real)
    assert got.shape == (120, 2, 3, 16, 16) and not torch.equal(got[:, 0], got[:, 1])
    assert torch.equal(got, RedrawnShapes(shapes(), 0.2, 2, 1)(real))
    apart = (got[:, 0].float() - real.rows.float()).abs().mean()
    assert apart < 0.7 * (got[:, 0].float() - real.rows.roll(1, 0).float()).abs().mean()
    assert torch.equal(shapes().load("train").rows, real.rows)  # the set itself is as it was
    with pytest.raises(ValueError, match=r"has 120 samples, but the run trains on 3"):
        RedrawnShapes(source, 0.2, 1, 1)(REAL)


def test_only_the_method_sees_them() -> None:
    cfg = config("method=genview", *SMALL)
    data = build_data(cfg)
    assert data.pretrain.beside["generated"].shape == (48, 1, 3, 32, 32)
    assert data.train is data.pretrain and data.train.label is not None and data.test.beside is None
    views = build(cfg.views)
    samples = Samples(
        data.pretrain.rows[:4], torch.arange(4), beside={"generated": data.pretrain.beside["generated"][:4]}
    )
    black = samples._replace(beside={"generated": torch.zeros(4, 3, 3, 32, 32, dtype=torch.uint8)})
    first, second = (views(each, torch.Generator().manual_seed(0)).views for each in (samples, black))
    assert len(first) == views.num_views == 2 and views.modality == ("image", "image")
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    assert second[1].flatten(1).std(dim=1).max() < 0.5  # black, but for the normalisation of channels
    assert torch.equal(views.clean(data.test.rows[:2]), build(config("method=simclr").views).clean(data.test.rows[:2]))
    with pytest.raises(
        ValueError, match=r"the data have none: choose generated=latent, generated=redrawn on data=shapes"
    ):
        views(samples._replace(beside=None))
    with pytest.raises(ValueError, match=r"generated images are of data=shapes, but the run is on data=digits"):
        build_data(config("method=genview", "data=digits"))


def test_what_is_decoded_while_it_is_read_is_refused() -> None:
    class Series:
        def load(self, split: str) -> Split:
            return Split(torch.zeros(3, 1, 16))

    with pytest.raises(ValueError, match="generated images stand beside pictures that are decoded already"):
        Paired(Series(), files(Path("nowhere"))).load("pretrain")
