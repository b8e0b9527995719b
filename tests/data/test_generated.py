"""Generated images join the real ones for pretraining only, red first, without copies of what lies on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_framework.build import build_data
from ssl_framework.data.base import Split
from ssl_framework.data.images.files import Files
from ssl_framework.data.images.generated import Joined, WithGenerated, join
from ssl_framework.data.images.store import Mapped
from ssl_framework.data.loader import resident
from ssl_framework.runs.config import config_hash
from tests.small_runs import SMALL, config


def images(n: int, start: int = 0, size: int = 2) -> Split:
    number = torch.arange(start, start + n).to(torch.uint8)
    return Split(number[:, None, None, None].expand(n, 3, size, size).contiguous(), number.long() % 2)


class Given:
    """A source of one set."""

    def __init__(self, pretrain: Split, test: Split | None = None) -> None:
        self.pretrain, self.test = pretrain, test or pretrain

    def load(self, split: str) -> Split:
        return self.test if split == "test" else self.pretrain


def test_real_images_come_first_and_evaluators_see_them_alone() -> None:
    real, test = images(5), images(3, 100)
    source = WithGenerated(Given(real, test), Given(images(4, 50)))
    joined, train = source.load("pretrain"), source.load("train")
    assert joined.real == 5 and joined.label is None and not joined.labelled
    assert joined.rows[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 50, 51, 52, 53]
    assert torch.equal(train.rows, real.rows) and train.real is None and train.label is real.label
    assert train.rows.data_ptr() == joined.rows.data_ptr()  # the same memory
    assert source.load("test") is test and source.load("pretrain") is joined


def test_sets_on_disk_are_joined_without_being_read(tmp_path: Path) -> None:
    np.save(tmp_path / "real.npy", images(5).rows.numpy())
    real = images(5)._replace(rows=Mapped(tmp_path / "real.npy"))
    for first, second in ((real, images(4, 50)), (images(5), real), (real, real)):
        joined = join(first, second).rows
        assert isinstance(joined, Joined)
        numbers = [*range(5), *second.rows[torch.arange(len(second.rows))][:, 0, 0, 0].tolist()]
        assert joined.shape == (len(numbers), 3, 2, 2) == (len(joined), 3, 2, 2)
        for index in ([7, 0, 4, 5, 0], [1], [8]):
            at = torch.tensor(index) % len(numbers)
            assert joined[at][:, 0, 0, 0].tolist() == [numbers[i] for i in at.tolist()]
        whole = resident(joined, torch.device("cpu"), 1.0)
        assert whole is not None and whole[:, 2, 1, 1].tolist() == numbers


def test_what_cannot_lie_side_by_side_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 2, 2\] .* the generated ones \[3, 4, 4\]: store both at one size"):
        join(images(3), images(3, size=4))
    files = images(2)._replace(rows=Files([Path("a"), Path("b")], 2, 3, 0))
    for pair in ((files, images(2)), (images(2), files)):
        with pytest.raises(ValueError, match="choose data=folder or data=store, or generated=none"):
            join(*pair)


def test_files_and_arrays_are_read_red_first(tmp_path: Path) -> None:
    red = np.zeros((4, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    np.savez(tmp_path / "red.npz", images=red)
    (tmp_path / "red").mkdir()
    for i, image in enumerate(red):
        Image.fromarray(image).save(tmp_path / "red" / f"{i}.png")
    for choice in (f"arrays generated.path={tmp_path / 'red.npz'}", f"folder generated.root={tmp_path / 'red'}"):
        cfg = config("method=adainf", *SMALL, *f"generated={choice}".split())
        pretrain = build_data(cfg).pretrain
        assert pretrain.shape == (48 + 4, 3, 32, 32) and pretrain.real == 48
        assert pretrain.rows[48:, 0].eq(255).all() and pretrain.rows[48:, 1:].eq(0).all()


def test_further_shapes_are_drawn_as_the_data_set_is() -> None:
    few = ("generated.source.num_train=30", "data.source.saturation=0")
    data = build_data(config("method=adainf", *SMALL, *few))
    generated = data.pretrain.rows[48:]
    assert len(generated) == 30 and torch.equal(generated[:, 0], generated[:, 2])  # grey, too
    assert not any(torch.equal(image, real) for image in generated for real in data.pretrain.rows[:48])
    assert data.num_batches() == 48 // 8  # steps of an epoch without them
    plain = build_data(config("method=simclr", "generated=shapes", *SMALL, *few))
    assert plain.num_batches() == 78 // 8


def test_the_place_of_generated_images_does_not_change_what_a_run_is() -> None:
    plain = config_hash(config("method=adainf", "generated=folder"))
    assert config_hash(config("method=adainf", "generated=folder", "generated.root=elsewhere")) == plain
    assert config_hash(config("method=adainf", "generated=arrays", "generated.path=a.npz")) != plain


def test_generated_images_of_another_data_set_are_refused() -> None:
    with pytest.raises(ValueError, match=r"are of data=shapes, but the run is on data=digits: choose generated=folder"):
        build_data(config("method=adainf", "data=digits"))
    with pytest.raises(FileNotFoundError, match=r"generated images: generated\.root=.*nowhere does not exist"):
        build_data(config("method=adainf", "generated=folder", "generated.root=nowhere", *SMALL))
    with pytest.raises(FileNotFoundError, match=r"generated\.path=.*nowhere\.npz is no \.npz or \.safetensors file"):
        build_data(config("method=adainf", "generated=arrays", "generated.path=nowhere.npz", *SMALL))
