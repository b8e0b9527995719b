"""Files decoded when they are needed: the crops are torchvision's, and nothing but (seed, epoch, sample, view) decides
which."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ssl_framework.data.images.decoding import open_image, read_crops, read_image
from ssl_framework.data.images.files import Cutter, Files, FilesLoader, FilesSource, Paths
from ssl_framework.types import Samples
from ssl_framework.views.crops import central_box, draw_crops, place_crops
from ssl_framework.views.image import Views
from tests.data.test_data import RED, data_config, folder_source
from tests.small_runs import config, run_in
from tests.training.test_resume import assert_identical, interrupt_at, last, sigterm

CPU = torch.device("cpu")


def smooth(height: int, width: int, seed: int) -> Image.Image:
    """A picture with structure at several scales, none as fine as a pixel."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for step in (8, 24, 80):
        coarse = generator.integers(0, 256, (height // step + 2, width // step + 2, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((total / 3).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pictures of several sizes and formats in two classes."""
    root = tmp_path_factory.mktemp("files")
    for number in range(14):
        path = root / "ab"[number % 2] / f"{number:02d}.{'png' if number % 3 == 0 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        picture = smooth(60 + 13 * number, 200 - 7 * number, number)
        (picture.convert("L") if number == 4 else picture).save(path, quality=95)
    return root


def files(folder: Path, num_workers: int = 0, channels: int = 3) -> Files:
    return Files(sorted(folder.rglob("*.*")), 24, channels, num_workers)


def views(**changes: Any) -> Views:
    """Two random crops of 24 pixels and a small one; nothing else happens to them."""
    groups = [{"count": 2, "scale": [0.2, 1.0], **changes}, {"size": 16, "scale": [0.05, 0.3], **changes}]
    return Views(groups, 24, 3, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4], geometry=True)


def loader(folder: Path, num_workers: int = 0, seed: int = 0, served: int = 0, batch: int = 4) -> FilesLoader:
    given = files(folder, num_workers)
    return FilesLoader(given, torch.arange(14) % 2, views().groups, CPU, batch, seed, served)


def epoch_of(given: FilesLoader, epoch: int) -> list[Samples]:
    given.set_epoch(epoch)
    return list(given)


def assert_same(a: list[Samples], b: list[Samples]) -> None:
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.index, y.index) and torch.equal(x.label, y.label)
        for p, q in zip([*x.inputs, *x.box], [*y.inputs, *y.box], strict=True):
            assert torch.equal(p, q)


# --- decoding and cutting


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_crop_is_torchvisions_resized_crop(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"picture.{suffix}"
    smooth(150, 200, 0).save(path, quality=90)
    decoded = torch.from_numpy(np.array(Image.open(path).convert("L" if channels == 1 else "RGB")))
    decoded = decoded.reshape(150, 200, channels).permute(2, 0, 1)
    boxes = [(10, 20, 60, 90), (0, 0, 150, 200), (100, 150, 50, 50), (3, 5, 40, 33)]
    sizes = [64, 80, 24, 48] if suffix == "png" else [64, 80, 48, 48]  # at no more than half a box the JPEG is reduced
    crops = read_crops(open_image(path), boxes, sizes, channels)
    for crop, box, size in zip(crops, boxes, sizes, strict=True):
        expected = tv.resized_crop(decoded, *box, [size, size], antialias=True)
        assert crop.shape == (channels, size, size) and crop.dtype == torch.uint8
        assert (crop.int() - expected.int()).abs().max() <= 2, (box, size)


@pytest.mark.parametrize(("size", "divisor"), [(70, 2), (35, 4), (17, 8), (9, 8)])
def test_a_jpeg_decoded_at_a_fraction_gives_nearly_the_same_crops(tmp_path: Path, size: int, divisor: int) -> None:
    picture = smooth(303, 401, 1)
    picture.save(tmp_path / "picture.jpg", quality=95)
    picture.save(tmp_path / "picture.png")  # never reduced
    boxes = [(100, 33, 151, 147), (0, 0, 290, 390), (140, 245, 150, 146)]

    def crops(suffix: str, moved: int) -> Tensor:
        opened = open_image(tmp_path / f"picture.{suffix}")
        made = read_crops(opened, [(top + moved, left + moved, h, w) for top, left, h, w in boxes], [size] * 3, 3)
        assert opened.image.size == ((-(-401 // divisor), -(-303 // divisor)) if suffix == "jpg" else (401, 303))
        return torch.stack(made).float()

    exact, half_a_pixel = crops("png", 0), round(150 / size / 2)
    near = (crops("jpg", 0) - exact).abs()
    assert near.mean() < 3 and near.mean() < (crops("png", half_a_pixel) - exact).abs().mean() / 3
    assert near.max() <= 16


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_exif_orientation_is_applied_before_the_cut(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    smooth(160, 120, 2).save(path, exif=exif, quality=95)
    upright = tmp_path / "upright.png"
    from PIL import ImageOps

    ImageOps.exif_transpose(Image.open(path)).save(upright)
    for size in (50, 20):  # for JPEG: decoded whole and at a half
        boxes = [(30, 10, 60, 70), (0, 50, 120, 70)]
        opened, expected = open_image(path), open_image(upright)
        assert (opened.height, opened.width) == (expected.height, expected.width)
        crops = torch.stack(read_crops(opened, boxes, [size] * 2, 3)).int()
        difference = crops - torch.stack(read_crops(expected, boxes, [size] * 2, 3)).int()
        assert difference.abs().max() <= (2 if size == 50 or suffix == "png" else 10)


def test_grey_and_transparent_and_deep_pictures_are_cut_as_they_are_read(tmp_path: Path) -> None:
    def colour(path: Path, channels: int = 3) -> list[int]:
        (crop,) = read_crops(open_image(path), [(2, 2, 8, 8)], [8], channels)
        assert crop[:, 4, 4].tolist() == read_image(path, 8, channels)[:, 4, 4].tolist()
        return crop[:, 4, 4].tolist()

    for name, picture, expected in (
        ("grey.png", Image.new("L", (12, 10), 77), [77, 77, 77]),
        ("grey.jpg", Image.new("L", (12, 10), 77), [77, 77, 77]),
        ("half.png", Image.new("RGBA", (12, 10), (255, 0, 0, 51)), [255, 204, 204]),
        ("deep.png", Image.fromarray(np.full((10, 12), 257 * 100, np.uint16)), [100, 100, 100]),
    ):
        picture.save(tmp_path / name)
        assert colour(tmp_path / name) == expected
    Image.new("RGB", (12, 10), (200, 100, 50)).save(tmp_path / "rgb.png")
    assert colour(tmp_path / "rgb.png", channels=1) == [124]
    Image.new("CMYK", (12, 10), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(np.array(colour(tmp_path / "cmyk.jpg")) - RED).max() <= 3


# --- what is drawn


def test_boxes_of_many_sizes_are_those_of_one_size_each() -> None:
    sizes = [(375, 500), (40, 400), (400, 40), (31, 33)]
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    draws = torch.rand(len(sizes), 22, generator=torch.Generator().manual_seed(0))
    height, width = (torch.tensor([[size[i]] for size in sizes]) for i in range(2))
    central = torch.tensor([central_box(*size, ratio) for size in sizes])
    together = place_crops(draws, height, width, central.split(1, dim=1), scale, ratio)
    for row, (h, w) in enumerate(sizes):
        alone = place_crops(draws[row : row + 1], h, w, central_box(h, w, ratio), scale, ratio)
        assert torch.equal(together[row], alone[0])


def test_boxes_have_the_distribution_of_the_resident_views(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    Image.new("L", (100, 80)).save(path)
    group = views().groups[:1]
    cutter = Cutter(Files([path] * 4000, 24, 3, 0), group, seed=0)
    boxes = cutter.boxes(0, range(4000), [open_image(path)] * 4000)  # [2, 4000, 4]
    expected = draw_crops(8000, 80, 100, (0.2, 1.0), (3 / 4, 4 / 3), CPU, torch.Generator().manual_seed(1)).double()
    found = boxes.flatten(0, 1).double()
    assert (found.mean(0) - expected.mean(0)).abs().max() < 0.6  # four standard errors, of pixels
    assert (found.std(0) - expected.std(0)).abs().max() < 0.6
    assert np.abs(np.corrcoef(boxes[0, :, 3].numpy(), boxes[1, :, 3].numpy())[0, 1]) < 0.06  # views are independent


def test_boxes_are_a_function_of_seed_epoch_sample_and_view(folder: Path) -> None:
    def boxes(seed: int, epoch: int, positions: list[int]) -> Tensor:
        given = files(folder)
        opened = [open_image(given.paths[position]) for position in positions]
        return Cutter(given, views().groups, seed).boxes(epoch, positions, opened)  # [V, n, 4]

    first = boxes(0, 1, [2, 5, 9])
    assert torch.equal(first[:, [1, 0]], boxes(0, 1, [5, 2]))  # not of their neighbours or order
    for other in (boxes(1, 1, [2, 5, 9]), boxes(0, 2, [2, 5, 9])):
        assert (other != first).any(-1).all()
    assert (first[0] != first[1]).any(-1).all()


def test_without_a_scale_the_central_square_is_cut(folder: Path) -> None:
    group = Views([{"size": 16}], 24, 3, [0.5] * 3, [0.5] * 3).groups
    (batch,) = FilesLoader(files(folder), None, group, CPU, 14, seed=0)
    box = batch.box[0] * torch.tensor(
        [[w, h, w, h] for w, h in (Image.open(files(folder).paths[i]).size for i in batch.index.tolist())]
    )
    assert torch.allclose(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1], atol=1e-3) and batch.label is None


# --- batches


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    given = [loader(folder, num_workers) for num_workers in (0, 1, 3)]
    for epoch in (0, 1):  # the same worker processes
        alone, *others = [epoch_of(one, epoch) for one in given]
        assert len(alone) == 3
        for other in others:
            assert_same(alone, other)
    for one in given:
        one.close()


def test_what_workers_get_can_be_sent_to_a_process_that_was_not_forked(folder: Path) -> None:
    """As Python 3.14 starts them."""
    cutter = Cutter(files(folder), views().groups, seed=0)
    sent, own = (each[1, [3, 0, 11]] for each in (pickle.loads(pickle.dumps(cutter)), cutter))
    assert_identical(sent, own)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_it_goes_on_in_the_middle_of_an_epoch(folder: Path, num_workers: int) -> None:
    whole = [epoch_of(loader(folder), epoch) for epoch in (1, 2)]
    stopped = loader(folder, num_workers)
    stopped.set_epoch(1)
    batches = iter(stopped)
    next(batches)
    assert stopped.served == 1  # though more are made by now
    batches.close()
    resumed = loader(folder, num_workers, served=stopped.served)
    assert_same(epoch_of(resumed, 1), whole[0][1:])
    assert_same(epoch_of(resumed, 2), whole[1])
    stopped.served = 0
    assert_same(epoch_of(stopped, 2), whole[1])  # what the workers had made of the other epoch is not served
    stopped.close()
    resumed.close()


def test_ranks_share_each_global_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = epoch_of(loader(folder), 0), []
    for r in range(2):
        monkeypatch.setattr("ssl_framework.data.loader.rank", lambda r=r: r)
        monkeypatch.setattr("ssl_framework.data.loader.world_size", lambda: 2)
        parts.append(epoch_of(loader(folder), 0))
    for one, *halves in zip(whole, *parts, strict=True):
        for number, crops in enumerate(one.inputs):
            assert torch.equal(crops, torch.cat([half.inputs[number] for half in halves]))


def test_views_take_the_crops_as_they_are(folder: Path) -> None:
    plain = views()
    batch = epoch_of(loader(folder), 0)[0]
    made = plain(batch)
    assert [view.shape[-1] for view in made.views] == [24, 24, 16] and torch.equal(made.index, batch.index)
    for view, crops, box, geometry in zip(made.views, batch.inputs, batch.box, made.geometry, strict=True):
        assert ((view * plain.std + plain.mean) * 255 - crops).abs().max() < 1e-3
        assert torch.equal(geometry.box, box) and not geometry.flip.any()
    flipped = views(flip=1.0)(batch)
    for view, other, geometry in zip(made.views, flipped.views, flipped.geometry, strict=True):
        assert torch.allclose(view.flip(3), other, atol=1e-6) and geometry.flip.all()
    with pytest.raises(ValueError, match=r"views.channels is 1, but the images have 3"):
        Views([{"count": 2}, {"size": 16}], 24, 1, [0.5], [0.5])(batch)


def test_the_box_is_where_the_crop_comes_from(tmp_path: Path) -> None:
    """On a ramp, the crop's mean is the middle of its box."""
    ramp = np.stack([*np.meshgrid(np.linspace(0, 255, 300), np.linspace(0, 255, 200)), np.zeros((200, 300))], -1)
    for number in range(8):
        Image.fromarray(ramp.round().astype(np.uint8)).save(tmp_path / f"{number}.jpg", quality=95)
    given = Files(sorted(tmp_path.iterdir()), 24, 3, 0)
    (batch,) = FilesLoader(given, None, views().groups, CPU, 8, seed=0)
    for crops, box in zip(batch.inputs, batch.box, strict=True):
        middle = (box[:, :2] + box[:, 2:]) / 2 * 255  # [B, 2]
        assert (crops[:, :2].float().mean((2, 3)) - middle).abs().max() < 2


def test_colour_and_blur_are_the_same_device_code(folder: Path) -> None:
    """A crop as a whole image, resized by nothing, goes through the same operations as a crop that was cut before."""
    groups = [
        {"scale": [0.2, 1.0], "flip": 0.5, "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_p": 0.8, "gray": 0.2, "blur": 0.5}
    ]
    batch = epoch_of(loader(folder), 0)[0]
    crops = batch.inputs[0]
    uncut = [{key: value for key, value in groups[0].items() if key != "scale"}]
    made = [
        Views(group, 24, 3, [0.5] * 3, [0.5] * 3)(Samples(images, batch.index), torch.Generator().manual_seed(7)).views[
            0
        ]
        for group, images in ((groups, [crops]), (uncut, crops))
    ]
    assert torch.equal(*made)


# --- evaluation, files that are broken, and the source


def test_evaluators_see_what_a_folder_in_memory_holds(folder: Path) -> None:
    lazy = FilesSource(str(folder), 3, 24, test_fraction=0.2, seed=0, num_workers=2)
    memory = folder_source(folder, image_size=24, stored_size=24)
    for split in ("pretrain", "train", "test"):
        a, b = lazy.load(split), memory.load(split)
        index = torch.tensor([1, 0, 1])
        assert a.shape == b.shape and torch.equal(a.rows[index], b.rows[index])
        assert torch.equal(a.label, b.label) and a.classes == b.classes
    assert lazy.load("pretrain") is lazy.load("train")


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_broken_file_is_named_in_one_sentence(tmp_path: Path, num_workers: int, damage: str) -> None:
    for number in range(6):
        smooth(50, 50, number).save(tmp_path / f"{number}.jpg")
    path = tmp_path / "3.jpg"
    path.write_bytes({"truncated": path.read_bytes()[:-300], "text": b"no image", "empty": b""}[damage])
    given = Files(sorted(tmp_path.iterdir()), 24, 3, num_workers)
    words = r"3\.jpg cannot be read \(.*\): repair or remove it, or set data\.on_error=skip to train without it"
    training = FilesLoader(given, None, views().groups, CPU, 2, seed=0)
    for broken in (lambda: list(training), lambda: given[torch.arange(6)]):
        message = ""
        try:
            broken()
        except ValueError as error:  # pytest.raises would keep the traceback, and with it the workers
            message = str(error)
        assert re.search(words, message) and "\n" not in message
    training.close()


def test_paths_come_back_from_one_block_of_memory() -> None:
    given = [Path("a"), Path("/x/ünï/c d.png"), Path("b\nc.jpg")]
    kept = Paths(given)
    assert [kept[index] for index in range(len(kept))] == given and isinstance(kept.text, bytes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_workers": -1}, "num_workers is -1: it must be at least 0, or null"),
        ({"channels": 17}, "data.channels=17.*between 1 and 16"),
        ({"test_fraction": 1.5}, "test_fraction is 1.5: it must be at least 0 and below 1"),
    ],
)
def test_arguments_are_checked(folder: Path, change: dict[str, Any], words: str) -> None:
    plain: dict[str, Any] = {"channels": 3, "image_size": 24, "test_fraction": 0.2, "seed": 0}
    with pytest.raises(ValueError, match=words):
        FilesSource(str(folder), **{**plain, **change})


def test_the_config_builds_a_source(folder: Path) -> None:
    source = instantiate(data_config("files", f"data.root={folder}").source)
    train = source.load("train")
    assert train.shape == (12, 3, 224, 224) and train.rows.num_workers >= 1
    with pytest.raises(FileNotFoundError, match=r"data.root=.*nowhere does not exist"):
        instantiate(data_config("files", f"data.root={folder / 'nowhere'}").source).load("train")


# --- a whole run


def test_a_run_trains_and_resumes_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of an epoch and continued with other workers; what it ends with and its scores are the
    same."""

    def run(name: str, num_workers: int, resume: bool = False) -> str | None:
        cfg = config(
            "method=mocov2",
            "data=files",
            f"data.root={folder}",
            "data.image_size=24",
            "data.batch_size=4",
            f"data.num_workers={num_workers}",
            "objective.queue.size=8",
            "trainer.max_epochs=2",
            "trainer.log_every_n_steps=1",
            "evaluation.probes.knn.k=[3]",
            "evaluation.probes.linear=null",
        )
        return run_in(tmp_path / name, cfg, resume)

    assert run("whole", 0) is None
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, sigterm)
        assert run("parts", 2) == "SIGTERM"
    assert last(tmp_path / "parts")["global_step"] == 1
    assert run("parts", 1, resume=True) is None
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert whole["global_step"] == parts["global_step"] == 6
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert_identical(whole[key], parts[key], key)
