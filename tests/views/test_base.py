"""What every view maker says of itself, and several of them one after another."""

import pytest
import torch
from torch import Tensor

from ssl_framework.types import Batch, Samples
from ssl_framework.views.base import PairedViews
from ssl_framework.views.image import Views, picture_views


def image_views() -> Views:
    """Two crops of 8 px and one of 6 px, of grey images."""
    return Views([{"count": 2, "scale": [0.5, 1.0]}, {"size": 6, "scale": [0.5, 1.0]}], 8, 1, [0.5], [0.25])


class Words(torch.nn.Module):
    """One view: a random one of the K texts of a sample."""

    num_views, modality, channels, crops, raw_name = 1, ("text",), None, None, "raw_input"

    def forward(self, samples: Samples, generator: torch.Generator | None = None) -> Batch:
        chosen = torch.randint(samples.inputs.shape[1], (len(samples.index),), generator=generator)  # [B]
        return Batch([samples.inputs[torch.arange(len(chosen)), chosen]], samples.index, samples.label)

    def clean(self, raw: Tensor, modality: str | None = None) -> Tensor:
        return raw[:, 0]

    def raw(self, rows: Tensor) -> Tensor:
        return rows[:, 0].float()

    def example(self, view: int) -> tuple[int, ...]:
        return (4,)

    def picture(self, view: Tensor, modality: str | None = None) -> str:
        return " ".join(map(str, view.tolist()))

    def describe(self) -> str:
        return "the first text"

    def compile_parts(self) -> None:
        pass


def pairs() -> Samples:
    pixels = torch.randint(256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    text = torch.arange(5 * 3 * 4, dtype=torch.int32).view(5, 3, 4)  # [B, K, L]
    return Samples(pixels, torch.arange(5), torch.arange(5), beside={"text": text})


def test_image_views_say_what_others_size_themselves_by() -> None:
    views = image_views()
    assert views.modality == ("image",) * 3 and views.channels == 1 and views.raw_name == "raw_pixels"
    batch = views(pairs(), torch.Generator().manual_seed(0))
    assert [views.example(v) for v in range(3)] == [tuple(view.shape[1:]) for view in batch.views]
    assert views.crops == views.groups


def test_a_picture_is_the_pixels_again() -> None:
    views, pixels = image_views(), pairs().inputs
    for clean, image in zip(views.clean(pixels), pixels, strict=True):
        torch.testing.assert_close(views.picture(clean), image / 255)
    assert torch.equal(views.raw(pixels), pixels.flatten(1) / 255)
    words = views.describe()
    assert words.startswith("short side to 8 px") and words.endswith("divided by std [0.25] of values in 0 to 1")


def test_paired_views_are_those_of_each_part_one_after_another() -> None:
    both = PairedViews([image_views(), Words()])
    assert both.num_views == 4 and both.modality == ("image", "image", "image", "text") and both.channels == 1
    given, generator, alone = pairs(), torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    batch = both(given, generator)
    images = image_views()(given, alone)
    words = Words()(given._replace(inputs=given.beside["text"]), alone)  # type: ignore[index]
    assert all(torch.equal(x, y) for x, y in zip(batch.views, [*images.views, *words.views], strict=True))
    assert batch.modality == both.modality and torch.equal(batch.label, given.label)  # type: ignore[arg-type]
    assert [both.example(v) for v in range(4)] == [(1, 8, 8), (1, 8, 8), (1, 6, 6), (4,)]
    assert torch.equal(both.clean(given.inputs), image_views().clean(given.inputs))
    assert both.clean(given.beside["text"], "text").tolist() == given.beside["text"][:, 0].tolist()  # type: ignore[index]
    assert both.picture(torch.tensor([3, 1]), "text") == "3 1" and both.describe() == image_views().describe()


def test_paired_views_refuse_what_is_missing_or_twice() -> None:
    both = PairedViews([image_views(), Words()])
    with pytest.raises(ValueError, match=r"views\.parts has text, but the data have nothing beside their samples"):
        both(pairs()._replace(beside=None))
    with pytest.raises(ValueError, match=r"views\.parts are of text, text: name each modality once"):
        PairedViews([Words(), Words()])
    with pytest.raises(ValueError, match=r"views\.parts is empty"):
        PairedViews([])
    with pytest.raises(ValueError, match=r"views\.parts has a part of image and text"):
        PairedViews([both])


def test_what_needs_pictures_refuses_other_views() -> None:
    views = image_views()
    assert picture_views(views, "evaluation=dense") is views
    with pytest.raises(ValueError, match=r"evaluation=dense needs pictures, but the samples are of modality text"):
        picture_views(Words(), "evaluation=dense")
