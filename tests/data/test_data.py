"""Sources of images: what they return, bit for bit where it is known, and the sentence each bad input gets."""

import pickle
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor

from ssl_framework.data.base import Split, holdout, subset
from ssl_framework.data.images.arrays import Digits, TorchvisionSource
from ssl_framework.data.images.decoding import read_image
from ssl_framework.data.images.folder import FolderSource
from ssl_framework.data.images.shapes import FACTORS, SHAPES, Shapes
from ssl_framework.runs.groups import CONFIGS

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def data_config(name: str, *overrides: str) -> Any:
    """The node ``data`` of a shipped data set, resolved."""
    cfg = OmegaConf.create({"data": OmegaConf.load(CONFIGS / "data" / f"{name}.yaml")})
    cfg.merge_with_dotlist(list(overrides))
    OmegaConf.resolve(cfg)
    return cfg.data


def statistics(images: Split) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, in [0, 1]."""
    values = images.rows.double().div(255).transpose(0, 1).flatten(1)  # [C, N * H * W]
    return values.mean(dim=1), values.std(dim=1)


# --- shapes


def shapes(num_train: int = 400, num_test: int = 200, seed: int = 0, **changes: Any) -> Shapes:
    plain: dict[str, Any] = {
        "image_size": 32,
        "label": "shape",
        "scale": [0.5, 0.8],
        "position": 0.2,
        "rotation": 180,
        "contrast": 0.25,
        "saturation": 0.6,
        "texture_contrast": 0.08,
        "num_distractors": 3,
    }
    return Shapes(num_train, num_test, seed=seed, **{**plain, **changes})


@pytest.mark.parametrize("name", ["shapes", "digits"])
def test_the_configured_statistics_are_those_of_the_training_pixels(name: str) -> None:
    cfg = data_config(name)
    mean, std = statistics(instantiate(cfg.source).load("pretrain"))
    torch.testing.assert_close(mean, torch.tensor(list(cfg.mean), dtype=torch.float64), atol=6e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor(list(cfg.std), dtype=torch.float64), atol=6e-5, rtol=0)


def test_shapes_are_a_function_of_the_seed() -> None:
    source = shapes()
    train, test = source.load("train"), source.load("test")
    assert train.rows.shape == (400, 3, 32, 32) and test.rows.shape == (200, 3, 32, 32)
    assert train.rows.dtype == torch.uint8 and train.label is not None and train.label.dtype == torch.int64
    assert source.load("pretrain").rows is train.rows
    assert train.classes == tuple(SHAPES) and len(SHAPES) == 10
    again = shapes().load("train")
    assert torch.equal(again.rows, train.rows) and torch.equal(again.label, train.label)
    other = shapes(seed=1).load("train").rows
    assert (other != train.rows).flatten(1).any(dim=1).all()
    seen = {image.numpy().tobytes() for image in train.rows}
    assert len(seen) == 400 and not seen & {image.numpy().tobytes() for image in test.rows}


def test_shapes_have_equal_classes_and_every_factor_occurs() -> None:
    factors = shapes(num_train=1003).factors("train")
    assert sorted(factors["shape"].bincount().tolist()) == [100] * 7 + [101] * 3
    for name, classes in FACTORS.items():
        counts = factors[name].bincount(minlength=len(classes))
        assert len(counts) == len(classes) and int(counts.min()) > 0.6 * 1003 / len(classes), name


@pytest.mark.parametrize("label", FACTORS)
def test_any_factor_can_be_the_label(label: str) -> None:
    source, plain = shapes(label=label), shapes()
    assert torch.equal(source.load("test").label, plain.factors("test")[label])
    assert torch.equal(source.load("test").rows, plain.load("test").rows)  # the choice does not change the drawing
    assert source.load("test").classes == FACTORS[label]


def drawn(**changes: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Images without texture or dots, the share of each pixel that the shape covers [N, S, S], and the factors."""
    source = shapes(texture_contrast=0, num_distractors=0, **changes)
    pixels = source.load("train").rows.double()
    corners = torch.stack([pixels[..., 0, 0], pixels[..., 0, -1], pixels[..., -1, 0], pixels[..., -1, -1]])
    background = corners.median(dim=0).values[..., None, None]  # [N, 3, 1, 1], a corner may lie under the shape
    difference = (pixels - background).mean(dim=1).abs()  # [N, S, S]
    return pixels, difference / difference.amax(dim=(1, 2), keepdim=True), source.factors("train")


def test_factors_say_what_is_drawn() -> None:
    pixels, cover, factors = drawn(position=0.15, num_train=2000)
    is_disc = factors["shape"] == list(SHAPES).index("circle")

    area = cover[is_disc].sum(dim=(1, 2))  # pi (0.85 scale / 2 x 32)^2
    scale = (area / torch.pi).sqrt() * 2 / 32 / 0.85
    assert (scale - (0.5375 + 0.075 * factors["scale"][is_disc])).abs().max() < 0.06  # half a bin, and the pixels

    steps = torch.arange(32) + 0.5
    centre_x = (cover[is_disc] * steps).sum(dim=(1, 2)) / area / 32 - 0.5
    centre_y = (cover[is_disc] * steps[:, None]).sum(dim=(1, 2)) / area / 32 - 0.5
    row, column = factors["position"][is_disc] // 3, factors["position"][is_disc] % 3
    assert (centre_x - (column - 1) * 0.1).abs().max() < 0.07 and (centre_y - (row - 1) * 0.1).abs().max() < 0.07

    inside = (cover[is_disc] > 0.98).double().flatten(1)
    colour = (pixels[is_disc].flatten(2) * inside[:, None]).sum(dim=2) / inside.sum(dim=1, keepdim=True)  # [n, 3]
    r, g, b = colour.unbind(dim=1)
    hue = torch.atan2(3**0.5 * (g - b), 2 * r - g - b) % (2 * torch.pi)  # 0 red, 2 pi / 3 green
    saturated = (colour.amax(dim=1) - colour.amin(dim=1)) > 12
    distance = (hue / (2 * torch.pi) * 6 - factors["colour"][is_disc] + 3) % 6 - 3  # in bins
    assert int(saturated.sum()) > 100 and distance[saturated].abs().max() < 0.55


def test_masks_are_where_the_shapes_are_drawn() -> None:
    source = shapes(num_train=1500, texture_contrast=0, num_distractors=0)  # two chunks
    images, factors = source.load("train"), source.factors("train")
    assert images.masks is not None
    mask = images.masks()
    assert mask.dtype == torch.uint8 and mask.shape == (1500, 32, 32)
    shape = (factors["shape"] + 1)[:, None, None]
    assert ((mask == 0) | (mask == shape)).all()
    _, cover, _ = drawn(num_train=1500)
    inside, sure, clear = mask > 0, cover > 0.75, cover < 0.25
    assert inside[sure].all() and not inside[clear].any()
    assert inside.flatten(1).any(dim=1).all()
    # One colour an image inside, but for the edge's pixels, which the background shows through.
    pixels = images.rows.permute(0, 2, 3, 1)  # [N, S, S, 3]
    for image, where, full in zip(pixels[:50], inside[:50], (cover > 0.999)[:50], strict=True):
        assert len(image[where & full].unique(dim=0)) == 1


def test_masks_have_the_seed_of_the_images_whatever_the_label() -> None:
    first, second = shapes(label="colour"), shapes(label="scale_value")
    second.load("test")  # images drawn before change nothing
    assert torch.equal(first.masks("test"), second.masks("test"))
    assert torch.equal(first.masks("train"), first.load("pretrain").masks())  # type: ignore[misc]
    assert not torch.equal(first.masks("train")[:200], first.masks("test"))
    assert not torch.equal(first.masks("train"), shapes(seed=1).masks("train"))
    assert Digits(0.2, 0).load("train").masks is None
    with pytest.raises(ValueError, match="There is no split 'val'"):
        first.masks("val")


def test_the_arrow_turns_counter_clockwise_with_the_rotation() -> None:
    _, cover, factors = drawn(position=0, scale=[0.8, 0.8], num_train=1000)
    is_arrow = factors["shape"] == list(SHAPES).index("arrow")
    steps = torch.arange(32) - 15.5
    x, y = (cover[is_arrow] * steps).sum(dim=(1, 2)), (cover[is_arrow] * steps[:, None]).sum(dim=(1, 2))
    angle = torch.atan2(-x, -y)  # the head outweighs the shaft: 0 up, counter-clockwise
    middle = ((factors["rotation"][is_arrow] + 0.5) / 8 * 2 - 1) * torch.pi
    away = ((angle - middle + torch.pi) % (2 * torch.pi) - torch.pi).abs()
    assert away.max() < 0.42  # half a bin is 0.39


def test_a_small_rotation_range_keeps_shapes_upright() -> None:
    _, cover, factors = drawn(position=0, scale=[0.8, 0.8], rotation=0)
    arrows = cover[factors["shape"] == list(SHAPES).index("arrow")]
    assert len(arrows) == 40 and (arrows - arrows[:1]).abs().max() < 0.03  # rounding to 8 bits
    assert (arrows - arrows.flip(2)).abs().max() < 0.03 and (arrows - arrows.flip(1)).abs().max() > 0.9


def test_shape_and_background_differ_by_the_contrast() -> None:
    pixels, _, factors = drawn(position=0, contrast=0.3, saturation=1)
    filled = torch.isin(factors["shape"], torch.tensor([list(SHAPES).index(n) for n in ("circle", "square", "star")]))
    grey = pixels[filled].mean(dim=1) / 255  # [n, S, S]
    assert (grey[:, 16, 16] - grey[:, 0, 0]).abs().min() > 0.3 - 0.005


def test_texture_and_distractors_are_what_the_arguments_say() -> None:
    silent = shapes(texture_contrast=0, num_distractors=0, scale=[0.3, 0.3], position=0).load("train").rows
    assert torch.equal(silent[:, :, 0, :], silent[:, :, :1, 0].expand(-1, -1, 32))  # plain border
    family = shapes().factors("train")["background"]
    textured = shapes(texture_contrast=0.1, num_distractors=0, scale=[0.3, 0.3], position=0).load("train").rows
    spread = textured[:, 0, 0, :].double().std(dim=1) / 255
    assert spread[family == 0].max() == 0 and spread[family == 2].median() > 0.03
    dots = shapes(texture_contrast=0, num_distractors=4, scale=[0.3, 0.3], position=0).load("train").rows
    without = (dots[:, :, 0, :] == dots[:, :, :1, 0]).all(dim=2).all(dim=1)
    assert 0.2 < without.double().mean() < 0.9  # some images have no dot at the upper border, some do


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "size"}, "data.source.label=size.*colour, background, scale"),
        ({"scale": [0.5, 1.5]}, r"scale is \[0.5, 1.5\]: it must be a list of 2 numbers, each between 0.1 and 1"),
        ({"scale": [0.8, 0.5]}, r"data.source.scale is \[0.8, 0.5\]: give two numbers, lo <= hi"),
        ({"contrast": 0.6}, "contrast is 0.6: it must be between 0.01 and 0.45"),
        ({"rotation": 200}, "rotation is 200: it must be between 0 and 180"),
        ({"num_train": 0}, "num_train is 0: it must be at least 1"),
    ],
)
def test_shapes_refuse_arguments_outside_their_range(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        shapes(**change)


def test_an_unknown_split_is_refused() -> None:
    for source in (shapes(), Digits(0.2, 0)):
        with pytest.raises(ValueError, match=r"no split 'val'.*pretrain, train, test"):
            source.load("val")


# --- digits, and the held-out share


def test_digits_are_scikit_learns() -> None:
    source = Digits(0.2, 0)
    train, test = source.load("train"), source.load("test")
    assert source.load("pretrain") is train
    expected = load_digits()
    pixels, label = torch.cat([train.rows, test.rows])[:, 0], torch.cat([train.label, test.label])
    held_out = holdout(torch.from_numpy(expected.target), 1797, 0.2, 0)
    order = torch.cat([(~held_out).nonzero(), held_out.nonzero()]).flatten()
    assert pixels.max() == 255
    assert np.abs(pixels.numpy() / 255 * 16 - expected.images[order]).max() < 0.5 / 255 * 16 + 1e-9
    assert np.array_equal(label.numpy(), expected.target[order])
    assert len(test.rows) == 359 and (test.label.bincount() - label.bincount() * 0.2).abs().max() <= 0.5


def test_holdout_is_seeded_stratified_and_leaves_something() -> None:
    label = torch.tensor([0] * 10 + [1] * 100 + [2] + [3] * 2)
    first = holdout(label, 113, 0.2, 0)
    assert [int(first[label == value].sum()) for value in range(4)] == [2, 20, 0, 1]
    assert torch.equal(first, holdout(label, 113, 0.2, 0)) and not torch.equal(first, holdout(label, 113, 0.2, 1))
    assert int(holdout(None, 50, 0.1, 0).sum()) == 5 and int(holdout(label, 113, 0.0, 0).sum()) == 0


# --- torchvision sets


def torchvision_source(root: Path, **changes: Any) -> TorchvisionSource:
    plain: dict[str, Any] = {
        "name": "cifar10",
        "dataset": "CIFAR10",
        "download": False,
        "channels": 3,
        "splits": {"pretrain": {"train": True}, "train": {"train": True}, "test": {"train": False}},
    }
    return TorchvisionSource(root=str(root), **{**plain, **changes})


def arrays(num: int, seed: int, channels: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (num, 6, 5, channels) if channels == 3 else (num, 6, 5)
    images = generator.integers(0, 256, shape, dtype=np.uint8)
    return {"images": images, "labels": generator.integers(0, 10, num)}


def write(path: Path, content: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        save_file({key: torch.from_numpy(value) for key, value in content.items()}, path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("folder", ["", "cifar10"])
def test_prepared_arrays_come_back(tmp_path: Path, folder: str, suffix: str, channels: int) -> None:
    train, test = arrays(7, 0, channels), arrays(4, 1, channels)
    write(tmp_path / folder / f"train{suffix}", train)
    write(tmp_path / folder / f"test{suffix}", test)
    source = torchvision_source(tmp_path, channels=channels, classes=list("abcdefghij"))
    for split, stored in (("pretrain", train), ("train", train), ("test", test)):
        images = source.load(split)
        assert np.array_equal(images.rows.permute(0, 2, 3, 1).numpy(), stored["images"].reshape(-1, 6, 5, channels))
        assert np.array_equal(images.label.numpy(), stored["labels"]) and images.label.dtype == torch.int64
        assert images.classes == tuple("abcdefghij")
    assert source.load("pretrain") is source.load("train")


def test_a_subset_takes_every_class_equally_often(tmp_path: Path) -> None:
    """As far as there are enough of a class: 2, 3 and 5 of them give 2, 3 and 3."""
    train, test = arrays(10, 0), arrays(7, 1)
    train["labels"] = np.array([2, 1, 0, 2, 2, 1, 2, 0, 1, 2])
    write(tmp_path / "train.npz", train)
    write(tmp_path / "test.npz", test)
    source = torchvision_source(tmp_path, num_train=8, num_test=3)
    images = source.load("train")
    assert images.label.bincount().tolist() == [2, 3, 3] and len(source.load("test").rows) == 3
    assert source.load("pretrain") is images
    stored = torch.from_numpy(train["images"]).permute(0, 3, 1, 2)
    where = [int((stored == image).flatten(1).all(dim=1).nonzero()) for image in images.rows]
    assert where == sorted(where) and train["labels"][where].tolist() == images.label.tolist()
    again = torchvision_source(tmp_path, num_train=8).load("train")
    assert torch.equal(again.rows, images.rows)
    drawn = {
        tuple(torchvision_source(tmp_path, num_train=6, seed=s).load("train").rows.flatten().tolist()) for s in range(9)
    }
    assert len(drawn) > 1
    for key, split, count in (("num_train", "train", 10), ("num_test", "test", 7)):
        for wrong in (0, count + 1):
            with pytest.raises(
                ValueError, match=f"{key} is {wrong}(, but there are {count} samples|: it must be at least 1, or null)"
            ):
                torchvision_source(tmp_path, **{key: wrong}).load(split)


def test_a_subset_without_labels_is_one_draw_over_all() -> None:
    images = subset(Split(torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)), 20, 0, "num")
    assert images.label is None and len(images.rows.unique()) == 20
    assert images.rows.flatten().tolist() != list(range(20))


def test_cifar10_10k_is_a_part_of_cifar10() -> None:
    whole, part = (OmegaConf.to_container(data_config(name)) for name in ("cifar10", "cifar10_10k"))
    assert isinstance(whole, dict) and isinstance(part, dict)
    assert part.pop("source") == {**whole.pop("source"), "num_train": 10000, "num_test": 2000}
    assert part == {**whole, "name": "cifar10_10k"}


def test_unlabelled_arrays_join_the_pretraining_split_alone(tmp_path: Path) -> None:
    train, extra = arrays(5, 0), {"images": arrays(8, 2)["images"]}
    write(tmp_path / "stl10" / "train.npz", train)
    source = instantiate(data_config("stl10", f"data.root={tmp_path}").source)
    with pytest.raises(FileNotFoundError, match=r"has train.npz but no unlabelled.npz.*data.source.unlabelled=false"):
        source.load("pretrain")
    write(tmp_path / "stl10" / "unlabelled.npz", extra)
    pretrain = source.load("pretrain")
    both = np.concatenate([train["images"], extra["images"]])
    assert np.array_equal(pretrain.rows.permute(0, 2, 3, 1).numpy(), both) and pretrain.label is None
    assert np.array_equal(source.load("train").label.numpy(), train["labels"])
    with pytest.raises(FileNotFoundError, match=r"no test.npz or .safetensors"):
        source.load("test")
    alone = instantiate(data_config("stl10", f"data.root={tmp_path}", "data.source.unlabelled=false").source)
    assert np.array_equal(alone.load("pretrain").label.numpy(), train["labels"])


GOOD = arrays(4, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": GOOD["images"] / 255}, "train.npz: 'images' is torch.float64, expected uint8"),
        ({"images": GOOD["images"].transpose(0, 3, 1, 2)}, r"has shape \[4, 3, 6, 5\], expected \[N, H, W, C\]"),
        ({"images": GOOD["images"][:0]}, r"has shape \[0, 6, 5, 3\].*none empty"),
        ({"images": GOOD["images"][..., 0]}, r"have 1 channel\(s\) but data.channels=3: set it to 1"),
        ({"labels": GOOD["labels"] * 1.0}, "'labels' is torch.float64"),
        ({"labels": GOOD["labels"][:, None]}, r"'labels' is torch.int64 \[4, 1\]"),
        ({"labels": GOOD["labels"][:3]}, "4 images but 3 labels"),
        ({"labels": np.array([0, 1, 2, -1])}, "labels run from -1 to 2, expected 0..9"),
        ({"labels": np.array([0, 1, 2, 10])}, "labels run from 0 to 10, expected 0..9"),
        ({"labels": np.array([None, {}, 1, 2], dtype=object)}, r"train.npz cannot be read as .npz \(.*allow_pickle"),
        (
            {"labels": np.array(["a", "b", "c", "d"])},
            r"train.npz cannot be read as .npz \('labels' is text: num",
        ),
        ({"labels": None}, r"has no array 'labels' \(it has images\)"),
        ({"images": None}, r"has no array 'images' \(it has labels\)"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    np.savez(tmp_path / "train.npz", **content)
    with pytest.raises(ValueError, match=words) as caught:
        torchvision_source(tmp_path, classes=list("abcdefghij")).load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 10, 200, 400])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"train{suffix}"
    write(path, GOOD)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"train{suffix} cannot be read as {suffix} .*write the file again") as caught:
        torchvision_source(tmp_path).load("train")
    assert "\n" not in str(caught.value)


def test_a_damaged_or_disguised_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.npz"
    np.savez_compressed(path, images=np.zeros((4, 6, 5, 3), np.uint8), labels=np.zeros(4, np.int64))
    content = bytearray(path.read_bytes())
    content[60:70] = b"\xff" * 10  # inside the compressed pixels
    for damaged in (bytes(content), b"PK\x03\x04 not a zip", b"plain text"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train.npz cannot be read as .npz"):
            torchvision_source(tmp_path).load("train")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"train.npz cannot be read as .npz"):
        torchvision_source(tmp_path).load("train")


def test_two_formats_of_one_split_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.npz", GOOD)
    write(tmp_path / "train.safetensors", GOOD)
    with pytest.raises(ValueError, match=r"both train.npz and train.safetensors"):
        torchvision_source(tmp_path).load("train")


def test_missing_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar10: no usable files.*data.download=true.*cifar10$|cifar10\.$"):
        torchvision_source(tmp_path).load("train")
    with pytest.raises(ValueError, match=r"dataset is .CIFAR11.: choose one of CIFAR10, "):
        torchvision_source(tmp_path, dataset="CIFAR11").load("train")
    with pytest.raises(ValueError, match=r"data.source.splits has test, train: give it pretrain, train, test"):
        torchvision_source(tmp_path, splits={"train": {}, "test": {}})


def test_torchvisions_own_cifar_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real files in the layout of the download, through torchvision's real reader, but for its checksums."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    stored = {}
    for name in [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]:
        stored[name] = {
            "data": generator.integers(0, 256, (2, 3072), dtype=np.uint8),
            "labels": generator.integers(0, 10, 2).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(stored[name]))
    cfg = data_config("cifar10", f"data.root={tmp_path}")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cfg.source.classes)}))
    source = instantiate(cfg.source)
    with pytest.raises(FileNotFoundError, match=r"data\.download=true"):  # the checksums are wrong
        source.load("train")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    train, test = source.load("train"), source.load("test")
    pixels = np.concatenate([stored[f"data_batch_{index}"]["data"] for index in range(1, 6)])
    assert np.array_equal(train.rows.numpy(), pixels.reshape(10, 3, 32, 32))
    assert train.label.tolist() == [label for index in range(1, 6) for label in stored[f"data_batch_{index}"]["labels"]]
    assert np.array_equal(test.rows.numpy(), stored["test_batch"]["data"].reshape(2, 3, 32, 32))
    assert test.label.tolist() == stored["test_batch"]["labels"]
    assert source.load("pretrain") is train


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10", "fashion_mnist", "svhn"])
@pytest.mark.parametrize("download", [False, True])
def test_the_configs_call_torchvision_as_it_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, download: bool
) -> None:
    cfg = data_config(name, f"data.root={tmp_path}", f"data.download={download}")
    real = getattr(torchvision.datasets, cfg.source.dataset)
    calls: list[dict[str, Any]] = []
    side, mode = cfg.image_size, "L" if cfg.channels == 1 else "RGB"

    class Fake:
        def __init__(self, **arguments: Any) -> None:
            calls.append(arguments)
            self.first = -1 if arguments.get("split") == "train+unlabeled" else 3

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            colour = 10 + index if mode == "L" else (10 + index, 20, 30)
            return Image.new(mode, (side, side), colour), (self.first, 1)[index]

    monkeypatch.setattr(torchvision.datasets, cfg.source.dataset, Fake)
    source = instantiate(cfg.source)
    images = {split: source.load(split) for split in ("pretrain", "train", "test")}
    assert len(calls) == (3 if name == "stl10" else 2)
    for call in calls:
        assert call["download"] is download and call["root"] == str(tmp_path)
        assert not set(call) - set(real.__init__.__annotations__)  # keywords the real class has
    choice = [call.get("split", call.get("train")) for call in calls]
    assert choice in ([True, False], ["train", "test"], ["train+unlabeled", "train", "test"])
    assert images["train"].rows.shape == (2, cfg.channels, side, side)
    assert images["train"].rows[:, 0, 0, 0].tolist() == [10, 11] and images["train"].label.tolist() == [3, 1]
    assert (images["pretrain"].label is None) == (name == "stl10")
    assert len(images["test"].classes) == (100 if name == "cifar100" else 10)
    assert len(cfg.mean) == len(cfg.std) == cfg.channels


@pytest.mark.parametrize("error", [URLError("Name or service not known"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fail)
    with pytest.raises(ValueError, match=r"cifar10: download to .* failed \(.*(not known|corrupted)") as caught:
        torchvision_source(tmp_path, download=True).load("train")
    assert "\n" not in str(caught.value) and str(tmp_path / "cifar10") in str(caught.value)


# --- folders of files


def folder_source(root: Path, **changes: Any) -> FolderSource:
    plain: dict[str, Any] = {
        "channels": 3,
        "image_size": 8,
        "stored_size": 8,
        "on_error": "refuse",
        "test_fraction": 0.2,
        "seed": 0,
    }
    return FolderSource(str(root), **{**plain, **changes})


def save(path: Path, colour: Any = RED, mode: str = "RGB", size: tuple[int, int] = (12, 10), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def truncate(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-1500])


def centre(pixels: Tensor) -> list[int]:
    return pixels[:, 4, 4].tolist()


def test_every_kind_of_pixel_is_read(tmp_path: Path) -> None:
    def colour(path: Path, channels: int = 3) -> list[int]:
        pixels = read_image(path, 8, channels)
        assert pixels.shape == (channels, 8, 8) and pixels.dtype == torch.uint8
        return centre(pixels)

    for suffix in ("png", "bmp", "webp", "tif", "tiff", "ppm", "gif"):
        options = {"lossless": True} if suffix == "webp" else {}
        assert colour(save(tmp_path / f"rgb.{suffix}", (200, 100, 50), **options)) == [200, 100, 50], suffix
    assert colour(save(tmp_path / "grey.png", 77, "L")) == [77, 77, 77]
    assert colour(tmp_path / "grey.png", channels=1) == [77]
    assert colour(tmp_path / "rgb.png", channels=1) == [124]  # 0.299 R + 0.587 G + 0.114 B
    assert colour(save(tmp_path / "clear.png", (255, 0, 0, 0), "RGBA")) == [255, 255, 255]  # laid over white
    assert colour(save(tmp_path / "half.png", (255, 0, 0, 51), "RGBA")) == [255, 204, 204]
    assert colour(save(tmp_path / "grey_alpha.png", (0, 0), "LA")) == [255, 255, 255]
    assert colour(save(tmp_path / "bits.png", 1, "1")) == [255, 255, 255]
    palette = Image.new("P", (12, 10), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "transparent.gif", transparency=1)
    assert colour(tmp_path / "palette.png") == [10, 20, 30]
    assert colour(tmp_path / "transparent.gif") == [255, 255, 255]
    for value, expected in ((0, 0), (257 * 100, 100), (65535, 255)):
        Image.fromarray(np.full((10, 12), value, np.uint16)).save(tmp_path / "deep.png")
        assert colour(tmp_path / "deep.png") == [expected] * 3
    cmyk = colour(save(tmp_path / "cmyk.jpg", (0, 255, 255, 0), "CMYK", quality=95))
    assert np.abs(np.array(cmyk) - RED).max() <= 3
    frames = [Image.new("RGB", (12, 10), shade) for shade in (GREEN, BLUE)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert colour(tmp_path / "two.gif") == list(GREEN)
    Image.fromarray(np.full((10, 12), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match="mode F has no known value range"):
        read_image(tmp_path / "float.tif", 8, 3)


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), RED)
    picture.paste(BLUE, (0, 0, 8, 16))  # blue on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: left becomes up
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = read_image(tmp_path / "turned.png", 8, 3)
    assert pixels[:, 1, 1].tolist() == pixels[:, 1, 6].tolist() == list(BLUE)
    assert pixels[:, 6, 1].tolist() == pixels[:, 6, 6].tolist() == list(RED)


def test_the_middle_square_is_kept_and_resized_with_antialiasing(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 32), GREEN)
    picture.paste(RED, (16, 0, 48, 32))  # the middle square
    picture.save(tmp_path / "wide.png")
    whole = picture.resize((16, 8), Image.Resampling.BICUBIC)
    pixels = read_image(tmp_path / "wide.png", 8, 3).permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, np.array(whole.crop((4, 0, 12, 8)))) and pixels[:, 1:-1, 0].min() == 255
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255  # finer than the stored pixels
    for suffix in ("png", "jpg"):
        Image.fromarray(stripes).save(tmp_path / f"stripes.{suffix}")
        pixels = read_image(tmp_path / f"stripes.{suffix}", 8, 1).int()
        assert (pixels - 128).abs().max() <= 8, suffix


def test_class_folders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    for name, colour in (("zebra", RED), ("ant", GREEN), ("Mouse", BLUE)):
        for index in range(5):
            save(tmp_path / name / ("deep/er" if index == 3 else "") / f"{index}.PNG", colour)
    (tmp_path / "zebra" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    source = folder_source(tmp_path)
    train, test = source.load("train"), source.load("test")
    assert train.classes == test.classes == ("Mouse", "ant", "zebra")
    assert train.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and test.label.tolist() == [0, 1, 2]
    for images in (train, test):
        for pixels, label in zip(images.rows, images.label.tolist(), strict=True):
            assert centre(pixels) == list((BLUE, GREEN, RED)[label])
    assert source.load("pretrain") is train
    everything = folder_source(tmp_path, test_fraction=0)
    assert len(everything.load("pretrain").rows) == 15
    with pytest.raises(ValueError, match=r"no image for the test split with data.test_fraction=0"):
        everything.load("test")


def test_a_flat_folder_has_no_labels_and_its_splits_share_no_image(tmp_path: Path) -> None:
    for index in range(10):
        save(tmp_path / f"{index}.png", (index, 0, 0))
    source = folder_source(tmp_path, test_fraction=0.3)
    train, test = source.load("pretrain"), source.load("test")
    assert train.label is test.label is None and train.classes == ()
    found = [images.rows[:, 0, 4, 4].tolist() for images in (train, test)]
    assert len(found[0]) == 7 and sorted(found[0] + found[1]) == list(range(10))
    other = folder_source(tmp_path, test_fraction=0.3, seed=1).load("test").rows[:, 0, 4, 4].tolist()
    assert other != found[1]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    for split, colour in (("train", RED), ("val", GREEN)):
        for name in ("a", "b", "c"):
            if (split, name) != ("val", "a"):
                save(tmp_path / split / name / "0.png", colour)
    train, test = folder_source(tmp_path).load("train"), folder_source(tmp_path).load("test")
    assert train.label.tolist() == [0, 1, 2] and test.label.tolist() == [1, 2]  # numbered by the names in train
    assert centre(train.rows[0]) == list(RED) and centre(test.rows[0]) == list(GREEN)
    save(tmp_path / "test" / "a" / "0.png", BLUE)
    save(tmp_path / "test" / "b" / "0.png", BLUE)
    with pytest.raises(ValueError, match=r"both val and test: set data.test_folder"):
        folder_source(tmp_path).load("train")
    chosen = folder_source(tmp_path, test_folder="test").load("test")
    assert chosen.label.tolist() == [0, 1] and centre(chosen.rows[0]) == list(BLUE)
    save(tmp_path / "test" / "d" / "0.png")
    with pytest.raises(ValueError, match=r"test has classes that .*train lacks \(d\)"):
        folder_source(tmp_path, test_folder="test").load("train")


def test_train_alone_is_a_split_and_train_among_others_a_class(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / "train" / f"{index}.png")
    assert len(folder_source(tmp_path).load("train").rows) == 4
    save(tmp_path / "bus" / "0.png")
    assert folder_source(tmp_path).load("train").classes == ("bus", "train")
    save(tmp_path / "test" / "0.png")
    with pytest.raises(ValueError, match="has the folders bus, test, train: for fixed splits"):
        folder_source(tmp_path).load("train")


def test_a_wrong_root_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.root=.*nowhere does not exist: set data.root"):
        folder_source(tmp_path / "nowhere").load("train")
    with pytest.raises(ValueError, match=r"data.root=.*a.png is a file: set data.root"):
        folder_source(save(tmp_path / "file" / "a.png")).load("train")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"empty has no images \(1 other files\).*jpg, jpeg, jpe, jfif, png"):
        folder_source(empty).load("train")
    single = save(tmp_path / "single" / "images" / "a.png").parent.parent
    with pytest.raises(ValueError, match=r"the single class folder 'images': point data.root at that folder"):
        folder_source(single).load("train")
    (single / "cats").mkdir()
    with pytest.raises(ValueError, match=r"class folders without images \(cats\)"):
        folder_source(single).load("train")
    save(single / "loose.png")
    with pytest.raises(ValueError, match=r"both images \(loose.png\) and folders \(cats\)"):
        folder_source(single).load("train")
    mixed = save(tmp_path / "mixed" / "train" / "a" / "0.png").parents[2]
    save(mixed / "train" / "b" / "0.png")
    save(mixed / "test" / "0.png")
    with pytest.raises(ValueError, match=r"train has class folders but .*test has none"):
        folder_source(mixed).load("train")
    one = save(tmp_path / "one" / "0.png").parent
    with pytest.raises(ValueError, match="no image for the test split"):
        folder_source(one).load("test")


def test_unreadable_files_are_refused_or_left_out_aloud(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(4):
            save(tmp_path / "train" / name / f"{index}.png", (index, 0, 0))
        save(tmp_path / "test" / name / "0.png")
    truncate(tmp_path / "train" / "a" / "2.jpg")
    (tmp_path / "train" / "b" / "5.png").write_text("not an image")
    (tmp_path / "train" / "b" / "6.png").write_bytes(b"")
    (tmp_path / "train" / "b" / "7.png").write_bytes((tmp_path / "train" / "b" / "0.png").read_bytes()[:45])
    words = r"4 of 12 images of the train split .* cannot be read: train/a/2.jpg \(.*truncated.*b/5.png .*and 1 more"
    with pytest.raises(ValueError, match=words + ".*data.on_error=skip") as caught:
        folder_source(tmp_path).load("train")
    assert "\n" not in str(caught.value)
    source = folder_source(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match=words + ".*left out"):
        train = source.load("train")
    assert train.rows[:, 0, 4, 4].tolist() == [0, 1, 2, 3] * 2 and train.label.tolist() == [0] * 4 + [1] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(source.load("test").rows) == 2
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_text("broken")
    with pytest.raises(ValueError, match=r"2 of 2 images of the test split .*none is left"):
        folder_source(tmp_path, on_error="skip").load("test")


def test_an_image_too_large_to_be_safe_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", size=(15, 10))
    save(tmp_path / "c.png", size=(40, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 130)  # b lies between Pillow's warning and its error, c above both
    monkeypatch.setattr("ssl_framework.data.images.decoding.MOST_PIXELS", 130)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    with pytest.raises(ValueError, match=r"2 of 3 .*b.png \(15 x 10 pixels is more.*c.png \(.*exceeds limit"):
        folder_source(tmp_path, test_fraction=0).load("train")


def test_arrays_larger_than_the_share_of_memory_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "train.npz", images=np.zeros((500, 6, 5, 3), np.uint8), labels=np.zeros(500, int))
    save_file({"images": torch.zeros(500, 6, 5, 3).byte(), "labels": torch.zeros(500)}, tmp_path / "test.safetensors")
    assert (tmp_path / "train.npz").stat().st_size < 2000  # what counts is its content
    monkeypatch.setattr("ssl_framework.data.images.arrays.free_memory", lambda: 90_000)
    monkeypatch.setattr("ssl_framework.data.images.arrays.read_arrays", lambda _: pytest.fail("read"))
    for split, name in (("train", "train.npz"), ("test", "test.safetensors")):
        with pytest.raises(
            ValueError, match=rf"{name} holds .*data\.resident_share=0\.5 .*prepare_data\.py.*data=store"
        ):
            torchvision_source(tmp_path, resident_share=0.5).load(split)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"on_error": "ignore"}, "data.on_error=ignore.*refuse, skip"),
        ({"stored_size": 4}, "data.stored_size=4 is below data.image_size=8"),
        ({"channels": 17}, "data.channels=17.*between 1 and 16"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0: it must be at least 0 and below 1"),
        ({"test_folder": "train"}, "data.test_folder=train.*val, test or null"),
    ],
)
def test_folder_arguments_are_checked(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        folder_source(tmp_path, **change)


def test_the_folder_config_builds_a_source(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(5):
            save(tmp_path / name / f"{index}.jpg", RED, size=(120, 100))
    cfg = data_config("folder", f"data.root={tmp_path}")
    images = instantiate(cfg.source).load("test")
    assert images.rows.shape == (2, 3, cfg.stored_size, cfg.stored_size) and images.label.tolist() == [0, 1]


def test_every_data_config_has_the_same_keys() -> None:
    keys = {path.stem: list(OmegaConf.load(path)) for path in sorted((CONFIGS / "data").glob("*.yaml"))}
    common = keys["cifar10"]
    assert set(keys) >= {"shapes", "digits", "cifar10", "cifar100", "stl10", "svhn", "folder", "store", "files"}
    for name, found in keys.items():
        assert OmegaConf.load(CONFIGS / "data" / f"{name}.yaml").name == name
        if "modalities" in found:  # no pictures alone: what describes a sample is another matter
            assert set(found) >= {"root", "download", "batch_size", "micro_batch_size", "resident_share", "source"}
            continue
        assert [key for key in found if key in common] == common, name
        own = set(found) - set(common)  # only sets that the user brings have keys of their own
        assert not own or name in ("folder", "files", "webdataset", "litdata", "torchvision", "hf"), name
