"""Views: every operation against torchvision's, the distributions, the geometry, and what is refused."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from ssl_framework.build import build_module
from ssl_framework.types import Batch, Clock, Samples
from ssl_framework.views import crops, drawing, image_ops
from ssl_framework.views import image as views
from ssl_framework.views.image import Views
from ssl_framework.views.making import Graph
from ssl_framework.views.reading import Group
from tests.small_runs import small

SIMCLR = {"scale": [0.2, 1.0], "flip": 0.5, "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_p": 0.8, "gray": 0.2}
EVERYTHING = {**SIMCLR, "blur": 0.5, "solarize": 0.3}
CPU = torch.device("cpu")


def photos(batch: int, channels: int = 3, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Uint8 images with smooth regions, noise, exact grays, black and white: [batch, channels, height, width]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = torch.rand(batch, channels, height, width, generator=generator)
    images = (255 * (0.8 * smooth + 0.2 * noise)).round()
    images[:, :, :2] = images[:, :1, :2]  # gray pixels have no hue
    images[:, :, 2, :4], images[:, :, 2, 4:8] = 0, 255
    return images.to(torch.uint8)


def floats(batch: int, channels: int = 3) -> Tensor:
    return photos(batch, channels).float() / 255


def samples(images: Tensor) -> Samples:
    return Samples(images, torch.arange(len(images)))


def plain(groups: list[dict], image_size: int = 32, channels: int = 3, **options: bool) -> Views:
    """Views whose normalisation does nothing, so that they stay in 0..1."""
    return Views(groups, image_size, channels, [0.0] * channels, [1.0] * channels, **options)


def seeded(module: Views, images: Tensor, seed: int = 0) -> Batch:
    return module(samples(images), torch.Generator().manual_seed(seed))


def draw_parameters(
    group: Group, rows: int, height: int, width: int, device: torch.device, generator: torch.Generator
) -> drawing.Parameters:
    return drawing.parameters(drawing.draw(group, rows, 3, device, generator), group, rows, height, width, device)


def draw_jitter(
    rows: int, strengths: tuple[float, float, float, float], device: torch.device, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    return drawing.jitter_of(torch.rand(rows, 8, generator=generator, device=device), strengths)


def torchvision_jitter(image: Tensor, factors: list[float], order: list[int]) -> Tensor:
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for operation in order:
        image = operations[operation](image, factors[operation])
    return image


# Operations with given parameters


@pytest.mark.parametrize(
    ("height", "width", "size", "box"),
    [
        (32, 32, 32, (3, 5, 17, 20)),  # up
        (32, 32, 32, (0, 0, 32, 32)),  # the same
        (40, 56, 24, (2, 7, 36, 48)),  # down by 1.5 and 2
        (40, 56, 24, (10, 20, 30, 9)),  # down and up
        (64, 48, 8, (1, 0, 63, 48)),  # down by 8
        (9, 9, 16, (4, 8, 1, 1)),  # one pixel
    ],
)
@pytest.mark.parametrize("mirror", [False, True])
def test_crop_equals_torchvision(height: int, width: int, size: int, box: tuple, mirror: bool) -> None:
    images = photos(2, 3, height, width)
    expected = F.resized_crop(images.float() / 255, *box, size=[size, size], antialias=True)
    expected = F.horizontal_flip(expected) if mirror else expected
    result = image_ops.resized_crop(images, torch.tensor([box, box]), size, torch.tensor([mirror, mirror]))
    assert (result - expected).abs().max() < 1e-5


def test_crop_takes_a_box_and_a_flip_per_sample() -> None:
    images, boxes, flip = photos(3), torch.tensor([(0, 0, 8, 9), (5, 6, 20, 20), (31, 0, 1, 32)]), [True, False, True]
    result = image_ops.resized_crop(images, boxes, 32, torch.tensor(flip))
    for i in range(3):
        one = F.resized_crop(images[i].float() / 255, *boxes[i].tolist(), size=[32, 32], antialias=True)
        assert (result[i] - (F.horizontal_flip(one) if flip[i] else one)).abs().max() < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("column", "factors"),
    [
        (0, (0.0, 0.6, 1.0, 1.7)),
        (1, (0.0, 0.6, 1.0, 1.7)),
        (2, (0.0, 0.6, 1.0, 1.7)),
        (3, (-0.5, -0.13, 0.0, 0.31, 0.5)),
    ],
)
def test_each_jitter_operation_equals_torchvision(channels: int, column: int, factors: tuple) -> None:
    images = floats(len(factors), channels)
    given = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(len(factors), 1)
    given[:, column] = torch.tensor(factors)
    if channels == 1:
        given[:, 2:] = torch.tensor([1.0, 0.0])  # identities, as in torchvision
    order = torch.arange(4).expand(len(factors), 4)
    everywhere = torch.ones(len(factors), dtype=torch.bool)
    result = image_ops.color_jitter_(images.clone(), given, order, everywhere, hue=channels == 3)
    for i in range(len(factors)):
        assert (result[i] - torchvision_jitter(images[i], given[i].tolist(), [0, 1, 2, 3])).abs().max() < 1e-5


def test_all_orders_equal_torchvision() -> None:
    orders = list(itertools.permutations(range(4))) * 2
    images = floats(len(orders))
    factors, _ = draw_jitter(len(orders), (0.8, 0.8, 0.8, 0.2), CPU, torch.Generator().manual_seed(1))
    active = torch.arange(len(orders)) % 7 != 3
    result = image_ops.color_jitter_(images.clone(), factors, torch.tensor(orders), active)
    for i, order in enumerate(orders):
        expected = torchvision_jitter(images[i], factors[i].tolist(), list(order)) if active[i] else images[i]
        # near gray a rounding error of 1e-7 is a large share of the chroma, and the hue turns with it
        assert (result[i] - expected).abs().max() < 1e-4, order
    wrong = torchvision_jitter(images[0], factors[0].tolist(), [3, 2, 1, 0])
    assert (result[0] - wrong).abs().max() > 2 / 255  # so the order can be seen


def test_narrow_and_wide_passes_agree() -> None:
    """The CPU works on slices of samples, the GPU on all of them; run the latter here too."""
    images = floats(64)
    generator = torch.Generator().manual_seed(2)
    factors, order = draw_jitter(64, (0.4, 0.4, 0.4, 0.1), CPU, generator)
    active = torch.rand(64, generator=generator) < 0.8
    before = (order == image_ops.HUE).int().argmax(1)
    blends = order[order != image_ops.HUE].view(64, 3)
    wide = image_ops._jitter_(images.clone(), factors, blends, before, active, [slice(0, 64)] * 7, True)
    narrow = image_ops.color_jitter_(images.clone(), factors, order, active)
    assert (wide - narrow).abs().max() < 1e-6
    assert torch.equal(narrow[~active], images[~active])


def test_gray_blur_and_solarize_equal_torchvision() -> None:
    images = floats(4)
    half = torch.tensor([True, False, True, False])
    gray = image_ops.on_selected_(images.clone(), half, image_ops.grayscale)
    solarized = image_ops.on_selected_(images.clone(), half, image_ops.solarize)
    for i in range(4):
        wanted = F.rgb_to_grayscale(images[i], num_output_channels=3) if half[i] else images[i]
        assert (gray[i] - wanted).abs().max() < 1e-6
        wanted = F.solarize(photos(4)[i], threshold=128).float() / 255 if half[i] else images[i]
        assert (solarized[i] - wanted).abs().max() < 1e-6


@pytest.mark.parametrize("kernel_size", [3, 9, 23])
def test_blur_equals_torchvision(kernel_size: int) -> None:
    images, sigma = floats(3, channels=5), [0.1, 0.8, 2.0]
    result = image_ops.gaussian_blur(images, torch.tensor(sigma), image_ops.reflected_taps(32, kernel_size))
    for i in range(3):
        assert (result[i] - F.gaussian_blur(images[i], [kernel_size, kernel_size], [sigma[i]] * 2)).abs().max() < 1e-5


def test_blur_kernel_is_a_tenth_of_the_view() -> None:
    assert [image_ops.blur_kernel_size(size) for size in (8, 32, 96, 224)] == [3, 3, 9, 23]


# Distributions


def quantiles(values: Tensor) -> Tensor:
    return torch.quantile(values, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 160)])
def test_crops_have_torchvision_distribution(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    wanted = torch.tensor([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(5000)])
    boxes = crops.draw_crops(100_000, height, width, (0.2, 1.0), (3 / 4, 4 / 3), CPU, torch.Generator().manual_seed(0))
    top, left, h, w = boxes.unbind(1)
    assert top.min() >= 0 and left.min() >= 0 and h.min() >= 1 and w.min() >= 1
    assert (top + h).max() == height and (left + w).max() == width  # inside, and the border is reached
    for name, value in {
        "area": lambda box: box[:, 2] * box[:, 3] / (height * width),
        "log aspect": lambda box: torch.log(box[:, 3] / box[:, 2]),
        "middle y": lambda box: (box[:, 0] + box[:, 2] / 2) / height,
        "middle x": lambda box: (box[:, 1] + box[:, 3] / 2) / width,
    }.items():
        ours, theirs = value(boxes.float()), value(wanted.float())
        # 4 standard errors of the median of 5000 draws, at a density like that of the uniform over the range
        tolerance = 4 * 0.5 / math.sqrt(5000) * (theirs.max() - theirs.min())
        assert (quantiles(ours) - quantiles(theirs)).abs().max() < tolerance + 1e-6, name
        assert abs(ours.mean() - theirs.mean()) < 4 * theirs.std() / math.sqrt(5000) + 1e-6, name


def test_crop_that_never_fits_falls_back_to_the_centre() -> None:
    boxes = crops.draw_crops(50, 10, 100, (0.9, 1.0), (3 / 4, 4 / 3), CPU, None)
    image = torch.empty(3, 10, 100)
    assert boxes.unique(dim=0).tolist() == [list(RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3]))]


def test_jitter_has_torchvision_distribution() -> None:
    strengths = (0.4, 0.3, 1.5, 0.1)
    reference = ColorJitter(*strengths)
    torch.manual_seed(0)
    ranges = (reference.brightness, reference.contrast, reference.saturation, reference.hue)
    drawn = [ColorJitter.get_params(*ranges) for _ in range(5000)]
    wanted = torch.tensor([one[1:] for one in drawn])  # [5000, 4]
    factors, order = draw_jitter(100_000, strengths, CPU, torch.Generator().manual_seed(0))
    for column, (low, high) in enumerate(ranges):
        ours = factors[:, column]
        assert low - 1e-6 <= ours.min() < low + 0.001 * (high - low)
        assert high - 0.001 * (high - low) < ours.max() <= high + 1e-6
        difference = (quantiles(ours) - quantiles(wanted[:, column])).abs().max()
        assert difference < 4 * 0.5 / math.sqrt(5000) * (high - low)
    codes = (order * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24  # every order, equally often
    assert (counts / 1e5 - 1 / 24).abs().max() < 4 * math.sqrt(1 / 24 * 23 / 24 / 1e5)


def test_sigma_is_uniform_in_its_range() -> None:
    sigma = drawing.sigma_of(torch.rand(100_000, generator=torch.Generator().manual_seed(0)), (0.1, 2.0))
    assert 0.1 <= sigma.min() < 0.102 and 1.998 < sigma.max() <= 2.0
    assert abs(sigma.mean() - 1.05) < 4 * 1.9 / math.sqrt(12 * 1e5)


def test_probabilities() -> None:
    group = Group(
        num_views=1, size=32, scale=None, ratio=(0.75, 4 / 3), flip=0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8,
        band_jitter=0.0, gray=0.2, blur=0.35, blur_sigma=(0.1, 2.0), solarize=0.1,
    )  # fmt: skip
    drawn = draw_parameters(group, 100_000, 32, 32, CPU, torch.Generator().manual_seed(0))
    wanted = {"flip": 0.5, "jitter": 0.8, "gray": 0.2, "blur": 0.35, "solarize": 0.1}
    masks = {name: getattr(drawn, name).float() for name in wanted}
    for name, p in wanted.items():
        assert abs(masks[name].mean() - p) < 4 * math.sqrt(p * (1 - p) / 1e5), name
    for one, other in itertools.combinations(wanted, 2):  # independent of each other
        assert abs(torch.corrcoef(torch.stack((masks[one], masks[other])))[0, 1]) < 4 / math.sqrt(1e5), (one, other)


def test_probability_zero_and_one() -> None:
    images = photos(16)
    assert torch.allclose(seeded(plain([{}]), images).views[0], images / 255, atol=1e-6)
    flipped = seeded(plain([{"flip": 1}]), images).views[0]
    assert torch.allclose(flipped, images.flip(3) / 255, atol=1e-6)
    gray = seeded(plain([{"gray": 1.0}]), images).views[0]
    assert torch.allclose(gray, F.rgb_to_grayscale(images / 255, 3), atol=1e-6)


# The module


def test_operations_come_in_the_order_of_simclr() -> None:
    images = photos(24)
    drawn_from = torch.Generator().manual_seed(3)
    group = {
        "scale": [0.2, 0.9],
        "flip": 1,
        "jitter": [0.4, 0.4, 0.4, 0.1],
        "jitter_p": 1,
        "gray": 0.5,
        "blur": 1,
        "solarize": 1,
    }
    module = Views([group], 32, 3, [0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    drawn = draw_parameters(module.groups[0], 24, 32, 32, CPU, drawn_from)
    view = seeded(module, images, seed=3).views[0]
    close = []
    for i in range(24):
        image = F.resized_crop(images[i].float() / 255, *drawn.box[i].tolist(), size=[32, 32], antialias=True)
        image = torchvision_jitter(F.horizontal_flip(image), drawn.factors[i].tolist(), drawn.order[i].tolist())
        image = F.rgb_to_grayscale(image, 3) if drawn.gray[i] else image
        image = F.gaussian_blur(image, [3, 3], [drawn.sigma[i].item()] * 2)
        image = F.normalize(F.solarize(image, 128 / 255), [0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
        close.append((view[i] - image).abs() < 2 / 255)
    # solarize jumps at its threshold, so a rounding error may turn a pixel that lies on it
    assert torch.stack(close).float().mean() > 0.9995


def test_box_and_flip_reproduce_the_view() -> None:
    images = photos(20, 3, 40, 56)
    batch = seeded(plain([{"count": 2, "scale": [0.2, 1.0], "flip": 0.5}], image_size=24, geometry=True), images)
    assert batch.geometry is not None and len(batch.geometry) == 2
    assert not torch.equal(batch.geometry[0].box, batch.geometry[1].box)
    for view, (box, flip) in zip(batch.views, batch.geometry, strict=True):
        assert box.shape == (20, 4) and box.dtype == torch.float32 and flip.dtype == torch.bool
        assert flip.any() and not flip.all()
        for i in range(20):
            x0, y0, x1, y1 = (box[i] * torch.tensor([56, 40, 56, 40])).round().int().tolist()
            image = F.resize(images[i, :, y0:y1, x0:x1].float() / 255, [24, 24], antialias=True)
            image = F.horizontal_flip(image) if flip[i] else image
            assert (view[i] - image).abs().max() < 1e-5
    assert seeded(plain([{}]), photos(2)).geometry is None


def test_same_seed_same_views() -> None:
    module, images = plain([{"count": 2, **EVERYTHING}], geometry=True), photos(16)
    one, again, other = (seeded(module, images, seed) for seed in (5, 5, 6))
    for v in range(2):
        assert torch.equal(one.views[v], again.views[v]) and torch.equal(one.geometry[v].box, again.geometry[v].box)
        assert not torch.allclose(one.views[v], other.views[v])
    torch.manual_seed(5)
    assert torch.equal(module(samples(images)).views[1], one.views[1])  # the default generator


@pytest.mark.parametrize("images_at_once", [1, 3, 16])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, images_at_once: int) -> None:
    module, images = plain([{"count": 2, **SIMCLR, "blur": 0.5}]), photos(37)
    whole, clean = seeded(module, images), module.clean(images)
    monkeypatch.setattr(views, "CHUNK_PIXELS", images_at_once * 32 * 32)
    assert len(views.chunks(37, 32 * 32, CPU)) == math.ceil(37 / images_at_once)
    parts = seeded(module, images)
    for v in range(2):
        assert torch.allclose(whole.views[v], parts.views[v], atol=1e-6, rtol=0)
    assert torch.equal(module.clean(images), clean)


def test_samples_and_views_differ() -> None:
    images = photos(1).expand(8, -1, -1, -1)
    batch = seeded(plain([{"count": 2, **SIMCLR}]), images)
    every = torch.cat(batch.views)
    for one, other in itertools.combinations(range(16), 2):
        assert (every[one] - every[other]).abs().max() > 0.01, (one, other)


def test_groups_sizes_and_passengers() -> None:
    module = Views([{"count": 2, **EVERYTHING}, {"count": 4, **EVERYTHING, "size": 16}], 32, 3, [0.5] * 3, [0.25] * 3)
    given = Samples(photos(5), torch.arange(5) + 7, torch.arange(5))
    batch = module(given)
    assert module.num_views == 6
    assert [tuple(view.shape) for view in batch.views] == [(5, 3, 32, 32)] * 2 + [(5, 3, 16, 16)] * 4
    assert all(view.dtype == torch.float32 and view.min() > -2.001 and view.max() < 2.001 for view in batch.views)
    assert torch.equal(batch.index, given.index) and torch.equal(batch.label, given.label)
    assert list(module.state_dict()) == []


@pytest.mark.parametrize("channels", [1, 5, 16])
def test_other_channel_counts(channels: int) -> None:
    images = photos(12, channels)
    group = {"scale": [0.2, 1], "flip": 0.5, "jitter": [0.4, 0.4, 0, 0], "jitter_p": 1, "blur": 0.5, "solarize": 0.5}
    module = plain([group], channels=channels)
    drawn = draw_parameters(module.groups[0], 12, 32, 32, CPU, torch.Generator().manual_seed(0))
    view = views.make_view(images, drawn._replace(blur=None, solarize=None), 32, None, hue=False)
    for i in range(12):
        image = F.resized_crop(images[i].float() / 255, *drawn.box[i].tolist(), size=[32, 32], antialias=True)
        image = F.horizontal_flip(image) if drawn.flip[i] else image
        for operation in drawn.order[i].tolist():
            factor = drawn.factors[i, operation]
            if operation == 0:
                image = (image * factor).clamp(0, 1)
            elif operation == 1:  # torchvision knows one and three channels only
                image = (image * factor + image.mean() * (1 - factor)).clamp(0, 1)
        assert (view[i] - image).abs().max() < 1e-5
    assert seeded(module, images).views[0].shape == (12, channels, 32, 32)


def test_one_channel_ignores_colour() -> None:
    images = photos(8, 1)
    view = seeded(plain([{"jitter": [0, 0, 0.4, 0.1], "jitter_p": 1, "gray": 1}], channels=1), images).views[0]
    assert torch.allclose(view, images / 255, atol=1e-6)


def test_digits() -> None:
    images = photos(6, 1, 8, 8)
    module = Views([{"count": 2, **EVERYTHING}], 8, 1, [0.3], [0.4], blur=False)
    assert [tuple(view.shape) for view in seeded(module, images).views] == [(6, 1, 8, 8)] * 2
    assert torch.allclose(module.clean(images), (images / 255 - 0.3) / 0.4, atol=1e-6)


def test_blur_can_be_switched_off() -> None:
    images = photos(4)
    off, on = (
        seeded(plain([{"blur": 1.0, "blur_sigma": [1, 1]}], blur=blur), images).views[0] for blur in (False, True)
    )
    assert torch.allclose(off, images / 255, atol=1e-6)
    assert torch.allclose(on, F.gaussian_blur(images / 255, [3, 3], [1.0, 1.0]), atol=1e-5)


def test_without_scale_the_central_square_is_taken() -> None:
    images = photos(2, 3, 32, 48)
    assert torch.allclose(seeded(plain([{}]), images).views[0], images[..., 8:40] / 255, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 70), (71, 40), (20, 33)])
def test_clean(height: int, width: int) -> None:
    images, mean, std = photos(3, 3, height, width), [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    wanted = images.float() / 255
    if (height, width) != (32, 32):
        wanted = F.center_crop(F.resize(wanted, [32], antialias=True), [32, 32])
    module = Views([SIMCLR], 32, 3, mean, std)
    assert torch.allclose(module.clean(images), F.normalize(wanted, mean, std), atol=1e-5)


def test_autocast_does_not_round_positions() -> None:
    module, images = plain([SIMCLR]), photos(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = seeded(module, images).views[0]
    assert torch.equal(view, seeded(module, images).views[0])


# Refusals


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"flipp": 0.5}, r"views\.groups\[1\]\.flipp is unknown, did you mean 'flip'\? Known keys: count, size"),
        ({"flip": 1.5}, r"views\.groups\[1\]\.flip is 1\.5: give a probability in \[0, 1\]"),
        ({"gray": -0.1}, r"views\.groups\[1\]\.gray is -0\.1"),
        ({"solarize": "often"}, r"views\.groups\[1\]\.solarize is 'often'"),
        ({"blur": True}, r"views\.groups\[1\]\.blur is True"),
        ({"flip": math.nan}, r"views\.groups\[1\]\.flip is nan"),
        ({"scale": [0.0, 1.0]}, r"views\.groups\[1\]\.scale is \[0\.0, 1\.0\]: give two area shares"),
        ({"scale": [0.8, 0.2]}, r"views\.groups\[1\]\.scale"),
        ({"scale": [0.2, 1.1]}, r"views\.groups\[1\]\.scale"),
        ({"scale": 0.2}, r"views\.groups\[1\]\.scale is 0\.2"),
        ({"scale": [0.2, 1.0], "ratio": [2.0, 1.0]}, r"views\.groups\[1\]\.ratio"),
        ({"ratio": [0.5, 1.0]}, r"views\.groups\[1\]\.ratio .* no effect without scale"),
        ({"jitter": [0.4, 0.4, 0.4], "jitter_p": 1}, r"views\.groups\[1\]\.jitter .* four strengths"),
        ({"jitter": [0.4, 0.4, 0.4, 0.6], "jitter_p": 1}, r"views\.groups\[1\]\.jitter .* hue at most 0\.5"),
        ({"jitter": [-0.4, 0.4, 0.4, 0.1], "jitter_p": 1}, r"views\.groups\[1\]\.jitter"),
        ({"jitter": [0.4, 0.4, 0.4, 0.1]}, r"views\.groups\[1\]\.jitter .* add jitter_p"),
        ({"jitter_p": 0.8}, r"views\.groups\[1\]\.jitter_p .* add jitter"),
        ({"blur": 0.5, "blur_sigma": [0.0, 2.0]}, r"views\.groups\[1\]\.blur_sigma"),
        ({"count": 0}, r"views\.groups\[1\]\.count is 0: give an integer of at least 1"),
        ({"count": 1.0}, r"views\.groups\[1\]\.count"),
        ({"size": 1}, r"views\.groups\[1\]\.size"),
        ("simclr", r"groups is \[\{\}, 'simclr'\]: it must be a list of entries"),
    ],
)
def test_refused_groups(group: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain([{}, group])


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(
    ("group", "key"),
    [
        ({"gray": 0.2}, "gray"),
        ({"jitter": [0, 0, 0.1, 0], "jitter_p": 1}, "jitter"),
        ({"jitter": [0, 0, 0, 0.1], "jitter_p": 1}, "jitter"),
    ],
)
def test_colour_is_refused_without_rgb(channels: int, group: dict, key: str) -> None:
    with pytest.raises(ValueError, match=rf"views\.groups\[0\]\.{key} .* views\.channels is {channels}"):
        plain([group], channels=channels)


def test_refused_module_arguments() -> None:
    with pytest.raises(ValueError, match=r"views\.groups"):
        plain([])
    with pytest.raises(ValueError, match=r"views\.mean is \[0\.5\]: give one number per channel"):
        Views([{}], 32, 3, [0.5], [0.25] * 3)
    with pytest.raises(ValueError, match=r"in \[0, 1\], of grey images data\.mean=\[0\.449\]\.$"):
        Views([{}], 32, 1, [0.485, 0.456, 0.406], [0.25])
    with pytest.raises(ValueError, match=r"mean is \[125\.0, 125\.0, 125\.0\]: it must be a list of one or more"):
        Views([{}], 32, 3, [125.0] * 3, [0.25] * 3)
    with pytest.raises(ValueError, match=r"std is \[0\.0, 0\.0, 0\.0\]: it must be a list"):
        Views([{}], 32, 3, [0.5] * 3, [0.0] * 3)
    with pytest.raises(ValueError, match="image_size is 0: it must be between 2 and 65536"):
        plain([{}], image_size=0)


def test_refused_images() -> None:
    with pytest.raises(ValueError, match=r"uint8"):
        plain([{}])(samples(floats(2)))
    with pytest.raises(ValueError, match=r"views\.channels is 3, but the images have 1"):
        plain([{}])(samples(photos(2, 1)))


def test_plain_images_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"made of a tensor uint8 \[B, C, H, W\], but this is a list"):
        plain([{}]).of([0, 1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Views take uint8 images \[B, C, H, W\]"):
        plain([{}]).of(photos(2)[0])


def test_null_is_missing() -> None:
    assert plain([{"scale": None, "blur": None}]).groups == plain([{}]).groups


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu_and_never_waits() -> None:
    module, images = plain([{"count": 2, **SIMCLR, "blur": 0.5}], geometry=True), photos(64)
    on_cpu = seeded(module, images)
    module, images = module.cuda(), images.cuda()
    on_gpu = module(samples(images), torch.Generator().manual_seed(0))  # a CPU generator draws the same everywhere
    for v in range(2):
        assert (on_gpu.views[v].cpu() - on_cpu.views[v]).abs().max() < 2 / 255
        assert torch.equal(on_gpu.geometry[v].box.cpu(), on_cpu.geometry[v].box)
    generator = torch.Generator("cuda").manual_seed(0)
    given = Samples(images, torch.arange(64, device="cuda"))
    module(given, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(given, generator)
        module.clean(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_views_on_a_gpu_are_the_same_and_never_wait() -> None:
    """One graph for two steps of two groups, recorded kernels included; earlier views stay as they were."""
    groups = [{**EVERYTHING, "count": 2}, {**SIMCLR, "size": 16}]
    module = Views(groups, 32, 3, [0.5] * 3, [0.25] * 3, geometry=True).cuda()
    batches = [Samples(photos(64, seed=seed).cuda(), torch.arange(64, device="cuda")) for seed in range(6)]
    expected = [module(batch, torch.Generator("cuda").manual_seed(0)) for batch in batches]
    module.compile_parts()
    generators = [torch.Generator("cuda").manual_seed(0) for _ in batches]
    got = []
    for number, (batch, generator) in enumerate(zip(batches, generators, strict=True)):
        torch.cuda.set_sync_debug_mode("error" if number > 3 else "default")  # the first calls compile and record
        try:
            got.append(module(batch, generator))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert module.graph is not None
    for ours, theirs in zip(got, expected, strict=True):
        for one, other in zip(ours.views, theirs.views, strict=True):
            assert ((one - other).abs() > 1e-3).float().mean() < 1e-3  # solarize jumps at its threshold
        torch.testing.assert_close(ours.geometry, theirs.geometry)


@pytest.mark.parametrize("count, size", [(64, 32), (2048, 32), (64, 96), (40, 224)])
def test_transient_memory_is_bounded(count: int, size: int) -> None:
    """The profiler's record of every allocation: at its worst the output and five times what is made at once."""
    group = {**SIMCLR, "count": 2, "blur": 0.5, "solarize": 0.2}
    module = views.Views([group], size, 3, [0.5] * 3, [0.25] * 3)
    samples = Samples(torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.arange(count))
    module(samples)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        made = module(samples).views
    kineto = profile.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in kineto.events() if e.name() == "[memory]")
    in_use = torch.tensor([change for _, change in changes]).cumsum(0)
    output = sum(4 * view.numel() for view in made)
    at_once = min(output, 4 * 3 * max(views.CHUNK_PIXELS, size * size))
    assert output + at_once < in_use.max() < output + 5 * at_once


def test_compiled_views_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph without a break, from the random numbers on, over one chunk, several, and crops of the loader; traced
    for a compiler the operations take the branch of a GPU, which computes all samples and keeps some."""
    groups = [{**EVERYTHING, "count": 2, "ramp": [0.62, 0.5, 4]}, {"size": 12, "flip": 0.5}]
    module = views.Views(groups, 32, 3, [0.5] * 3, [0.25] * 3, geometry=True)
    whole = Samples(photos(20), torch.arange(20))
    box = [torch.rand(20, 4) for _ in range(3)]
    cut = Samples([photos(20), photos(20, seed=1), photos(20, height=12, width=12)], torch.arange(20), box=box)
    for given, chunk in ((whole, 1024), (whole, 16), (cut, 1024)):
        monkeypatch.setattr(views, "CHUNK_PIXELS", chunk * 32 * 32)
        module.graph = None
        expected = seeded_of(module, given)
        module.graph = Graph("eager")
        got = seeded_of(module, given)
        assert module.graph is not None and [view.shape[-1] for view in got.views] == [20, 20, 12]
        torch.testing.assert_close(got.views, expected.views, rtol=0, atol=1e-5)
        torch.testing.assert_close(got.geometry, expected.geometry)


def seeded_of(module: Views, given: Samples) -> Batch:
    return module(given, torch.Generator().manual_seed(0))


def test_views_without_a_compiler_are_made_without_it() -> None:
    module, images = plain([{"count": 2, **SIMCLR}]), photos(4)
    expected = seeded(module, images).views
    module.compile_parts()
    module.graph = Graph("no such compiler")
    with pytest.warns(UserWarning, match="the views are made without a compiled graph"):
        assert all(map(torch.equal, seeded(module, images).views, expected))
    assert module.graph is None


def test_chunks_of_one_length_where_that_is_cheap() -> None:
    at_once = views.CHUNK_PIXELS // 32**2
    assert views.equal_chunks(at_once, 32**2, CPU) == [(0, at_once)]
    lengths = [last - first for first, last in views.equal_chunks(3 * 700, 32**2, CPU)]
    assert lengths == [700] * 3 and sum(lengths) == 2100
    assert [last - first for first, last in views.equal_chunks(2017, 32**2, CPU)] == [1009, 1008]  # a prime number


def test_views_grow_in_the_course_of_a_run() -> None:
    """The size is a function of the share that is done, and the last part of a run is of the whole size."""
    module = plain([{**SIMCLR, "blur": 0.5, "ramp": [0.5, 0.5, 4]}, {"size": 20}])
    sizes = []
    for module.progress in (0.0, 0.1, 0.25, 0.49, 0.5, 1.0):
        sizes.append(tuple(view.shape[-1] for view in seeded(module, photos(2)).views))
    assert sizes == [(16, 20), (20, 20), (24, 20), (32, 20), (32, 20), (32, 20)]
    assert module.example(0) == (3, 32, 32) and module.groups[0].sizes() == [16, 20, 24, 28, 32]
    seen = {module.groups[0].at(i / 1000).size for i in range(1001)}
    assert seen == set(module.groups[0].sizes())


@pytest.mark.parametrize("ramp", [[1.5, 0.5, 4], [0, 0.5, 4], [0.5, 0, 4], [0.5, 1.5, 4], [0.5, 0.5, 0], [0.5, 0.5]])
def test_a_ramp_that_is_none_is_refused(ramp: list) -> None:
    with pytest.raises(ValueError, match=r"views.groups\[0\].ramp is .*: give \[share of the size, share of"):
        plain([{**SIMCLR, "ramp": ramp}])


def test_a_module_tells_its_views_how_far_the_run_is() -> None:
    cfg = small("simclr", "+views.groups.0.ramp=[0.5,0.5,8]")
    module = build_module(cfg, True, 48)
    seen: list[torch.Size] = []
    module.student.register_forward_pre_hook(lambda _, inputs: seen.extend(view.shape for view in inputs[0]))
    for step in (0, 3, 5):
        module.losses(samples(photos(4)), Clock(step, 0, 10))["loss"].backward()
    assert [shape[-1] for shape in seen] == [16, 16, 24, 24, 32, 32]
    with pytest.raises(ValueError, match=r"views\.groups have a ramp, but RandomMask hides patches"):
        build_module(small("simmim", "+views.groups.0.ramp=[0.5,0.5,8]"), True, 48)


def test_a_run_in_float64_has_the_views_of_one_in_float32() -> None:
    group = {"count": 2, "scale": [0.2, 1.0], "flip": 0.5, "jitter": [0.4, 0.4, 0.4, 0.1], "jitter_p": 0.8, "blur": 0.5}
    views = plain([group | {"gray": 0.2, "solarize": 0.2}])
    images = photos(4)
    expected = seeded(views, images).views
    torch.set_default_dtype(torch.float64)  # as Lightning does in a step of trainer.precision=64-true
    try:
        found = seeded(views.double(), images).views
        clean = views.clean(images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found[0].dtype == clean.dtype == torch.float64
    torch.testing.assert_close(found, [view.double() for view in expected], rtol=0, atol=1e-6)
