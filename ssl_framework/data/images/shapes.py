"""The default data set: one large shape an image, drawn from a seed in a second or two, no files and no network.

Ten shapes under random position, scale, rotation, colour and background. Raw pixels say little about the class, the
class is what two crops of one image share, so a contrastive method that works is visible in minutes on a laptop.
Every factor of variation is available as a label, to ask which of them a representation keeps.

N images, S pixels a side. Coordinates are in units of half the image's side (x to the right, y down, the image is
[-1, 1]^2), inside a shape in units of its radius. A shape is a function from coordinates to (approximate) signed
distance, negative inside, which gives antialiased edges without supersampling.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor
from torch.nn.functional import interpolate

from ssl_framework.arguments import Count, Fraction, Seed, guarded
from ssl_framework.data.base import Split, check_split
from ssl_framework.types import step_seed

CHUNK = 1000  # images drawn at once: 1000 x 32 x 32 floats are 4 MB


def box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    """Signed distance to an axis-parallel rectangle around the origin (below the true distance at its corners)."""
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.85


def square(x: Tensor, y: Tensor) -> Tensor:
    return box(x, y, 0.75, 0.75)


def triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral, pointing up: three half-planes at inradius 0.52."""
    return torch.maximum(y, 0.866 * x.abs() - 0.5 * y) - 0.52


def star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: every sector is folded onto the line from a tip (radius 1.05) to the notch beside it (0.45)."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (angle - sector * (angle / sector).round()).abs()  # from the nearest tip, 0..sector / 2
    radius = torch.hypot(x, y)
    along, across = radius * angle.cos(), radius * angle.sin()
    edge_along, edge_across = 0.45 * math.cos(sector / 2) - 1.05, 0.45 * math.sin(sector / 2)
    return ((along - 1.05) * edge_across - across * edge_along) / math.hypot(edge_along, edge_across)


def cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(box(x, y, 0.95, 0.28), box(x, y, 0.28, 0.95))


def ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.72).abs() - 0.2


def heart(x: Tensor, y: Tensor) -> Tensor:
    """Two quarter-turned lobes over a square's corner, exact distance; the unit heart is 1.2 wide and 1.1 high."""
    size = 1.6
    x, y = x.abs() / size, 0.55 - y / size
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    foot = 0.5 * (x + y).clamp(min=0)
    corner = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - foot, y - foot)) * torch.sign(x - y)
    return torch.where(x + y > 1, lobe, corner) * size


def crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x + 0.1, y) - 0.95, 0.75 - torch.hypot(x - 0.35, y))


def arrow(x: Tensor, y: Tensor) -> Tensor:
    """Pointing up: a head of 90 degrees on a shaft."""
    head = torch.maximum((x.abs() - y - 0.95) * math.sqrt(0.5), y + 0.1)
    return torch.minimum(head, box(x, y - 0.4, 0.24, 0.55))


def hourglass(x: Tensor, y: Tensor) -> Tensor:
    """Two triangles that touch at their tips, with a thin waist."""
    return torch.maximum(y.abs() - 0.85, (x.abs() - 0.95 * y.abs() - 0.06) * 0.725)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
    "heart": heart,
    "crescent": crescent,
    "arrow": arrow,
    "hourglass": hourglass,
}


FACTORS: dict[str, tuple[str, ...]] = {  # what can be the label, and its classes in order
    "shape": tuple(SHAPES),
    "colour": ("red", "yellow", "green", "cyan", "blue", "magenta"),
    "background": ("plain", "gradient", "stripes", "checks", "noise"),
    "scale": ("small", "medium", "large", "huge"),
    "rotation": ("0-45", "45-90", "90-135", "135-180", "180-225", "225-270", "270-315", "315-360"),
    "position": tuple(
        f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right")
    ),
}


NUMBERS = ("scale_value", "rotation_value")  # what can be the label as a number: diameter as share of the side, degrees


def quantise(value: Tensor, low: float, high: float, num: int) -> Tensor:
    """int64 bin in 0..num-1 of each value, over ``num`` bins of equal width between ``low`` and ``high``."""
    return ((value - low) / max(high - low, 1e-12) * num).long().clamp(0, num - 1)


def tint(intensity: Tensor, hue: Tensor, saturation: float) -> Tensor:
    """RGB colours of a given mean.

    Args:
        intensity: [N] mean of the three channels, in [0, 1].
        hue: [N] radians, 0 red, 2 pi / 3 green.
        saturation: 0 grey to 1, the most colour that stays within [0, 1] at that intensity.

    Returns:
        [N, 3] in [0, 1].
    """
    shift = hue.new_tensor([0, 2 * math.pi / 3, 4 * math.pi / 3])  # [3]
    chroma = (hue[:, None] - shift).cos()  # [N, 3], sums to 0 over the channels
    return intensity[:, None] + saturation * torch.minimum(intensity, 1 - intensity)[:, None] * chroma


class Draws:
    """Random numbers of one stream.

    Args:
        generator: of it.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32."""
        return torch.rand(*shape, generator=self.generator)

    def below(self, high: int, num: int) -> Tensor:
        """[num] int64, uniform in 0 .. high - 1."""
        return torch.randint(high, (num,), generator=self.generator)


class NearDraws(Draws):
    """Numbers near those of a stream: each is moved towards a number of another one.

    Args:
        generator: of the stream.
        other: of the other one.
        noise: share of the way, in [0, 1]; whole numbers are replaced with this probability.
    """

    def __init__(self, generator: torch.Generator, other: torch.Generator, noise: float) -> None:
        super().__init__(generator)
        self.other = Draws(other)
        self.noise = noise

    def rand(self, *shape: int) -> Tensor:
        """In [0, 1), float32."""
        return torch.lerp(super().rand(*shape), self.other.rand(*shape), self.noise)

    def below(self, high: int, num: int) -> Tensor:
        """[num] int64, in 0 .. high - 1."""
        new = self.other.rand(num) < self.noise  # [num]
        return torch.where(new, self.other.below(high, num), super().below(high, num))


def texture(family: Tensor, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    """Backgrounds in [-1, 1].

    Args:
        family: [N] int64, position in ``FACTORS["background"]``.
        x, y: [S, S] coordinates.
        draws: of angle, period and phase of each image.

    Returns:
        [N, S, S] float32.
    """
    num = len(family)
    angle, period, phase = draws.rand(3, num, 1, 1)  # each [N, 1, 1]
    cells = draws.rand(num, 1, 6, 6) * 2 - 1  # [N, 1, 6, 6]
    along = x * (angle * math.tau).cos() + y * (angle * math.tau).sin()  # [N, S, S]
    across = y * (angle * math.tau).cos() - x * (angle * math.tau).sin()  # [N, S, S]
    frequency = math.tau / (0.3 + 0.3 * period)  # one period is 15 to 30 % of the image's side
    wave, cross_wave = (along * frequency + phase * math.tau).sin(), (across * frequency + phase * math.tau).sin()
    noise = interpolate(cells, size=x.shape, mode="bicubic", align_corners=False)[:, 0].clamp(-1, 1)  # [N, S, S]
    drawn = torch.stack([0 * along, along / math.sqrt(2), wave, wave * cross_wave, noise], dim=1)  # [N, 5, S, S]
    return drawn[torch.arange(num), family]


@guarded
class Shapes:
    """Draws the set on first use and keeps it.

    Args:
        num_train: images of the pretraining and training split, which are the same.
        num_test: images of the test split, drawn from another random stream.
        image_size: side, pixels.
        seed: of the drawing; part of the data set, not of the run.
        label: which factor is the class: shape, colour, background, scale, rotation or position; or the number:
            scale_value or rotation_value.
        scale: least and greatest diameter of the shape, as a share of the image's side, in (0, 1].
        position: greatest distance of its centre from the image's centre along each axis, as a share of the side.
        rotation: greatest turn either way, degrees in [0, 180].
        contrast: least difference in intensity between shape and plain background, in (0, 0.45] of the full range.
        saturation: of the shape's colour, 0 grey to 1; the background has half of it.
        texture_contrast: amplitude of the background's texture, share of the full intensity range, in [0, 0.25].
        num_distractors: at most so many small dots behind the shape.

    Raises:
        ValueError: an argument outside its range, or an unknown label.
    """

    def __init__(
        self,
        num_train: Count,
        num_test: Count,
        image_size: Annotated[int, Interval(ge=8, le=2**16)],
        seed: Seed,
        label: str,
        scale: Annotated[Sequence[Annotated[float, Interval(ge=0.1, le=1)]], Len(2, 2)],
        position: Annotated[float, Interval(ge=0, le=0.5)],
        rotation: Annotated[float, Interval(ge=0, le=180)],
        contrast: Annotated[float, Interval(ge=0.01, le=0.45)],
        saturation: Fraction,
        texture_contrast: Annotated[float, Interval(ge=0, le=0.25)],
        num_distractors: Annotated[int, Interval(ge=0, le=64)],
    ) -> None:
        smallest, largest = scale
        if smallest > largest:
            raise ValueError(f"data.source.scale is {[smallest, largest]}: give two numbers, lo <= hi")
        if label not in (*FACTORS, *NUMBERS):
            raise ValueError(
                f"data.source.label={label} is not a factor of shapes: choose one of {', '.join((*FACTORS, *NUMBERS))}."
            )
        self.count = {"train": num_train, "test": num_test}
        self.image_size = image_size
        self.seed = seed
        self.label = label
        self.scale = (smallest, largest)
        self.position = position
        self.rotation = rotation
        self.contrast = contrast
        self.saturation = saturation
        self.texture_contrast = texture_contrast
        self.num_distractors = num_distractors
        self.drawn: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}

    def load(self, split: str) -> Split:
        """[N, 3, S, S] uint8 images with the factor ``label`` as class or number; ValueError for an unknown split."""
        pixels, factors = self.draw(split)
        masks = partial(self.masks, split)
        return Split(pixels, factors[self.label], FACTORS.get(self.label, ()), masks=masks)

    def masks(self, split: str) -> Tensor:
        """Where the shape of every image of ``split`` is: [N, S, S] uint8, its position in ``SHAPES`` plus 1 at pixels
        whose centre it covers, and 0 at those of the background and the dots. Whatever factor the label is.

        Drawn anew at every call, for few ask for them; the same as the images, being a function of the same seed.
        """
        check_split(split)
        return torch.cat([mask for _, _, mask in self.chunks("test" if split == "test" else "train")])  # [N, S, S]

    def factors(self, split: str) -> dict[str, Tensor]:
        """Every factor of every image of ``split`` as a class, [N] int64 by the names of ``FACTORS``, and as a number,
        [N] float32 by the names of ``NUMBERS``.

        ``rotation`` is the turn the shape was drawn with, in degrees counter-clockwise, visible only up to the shape's
        symmetry; ``scale`` and ``position`` are in equal bins over their configured ranges. ``scale_value`` is the
        diameter as a share of the image's side, ``rotation_value`` lies in [-180, 180] degrees.
        """
        return self.draw(split)[1]

    def draw(self, split: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Pixels and factors of ``split``, drawn once."""
        check_split(split)
        name = "test" if split == "test" else "train"
        if name not in self.drawn:
            chunks = [(pixels, factors) for pixels, factors, _ in self.chunks(name)]
            pixels = torch.cat([chunk[0] for chunk in chunks])  # [N, 3, S, S]
            factors = {key: torch.cat([chunk[1][key] for chunk in chunks]) for key in (*FACTORS, *NUMBERS)}
            self.drawn[name] = (pixels, factors)
        return self.drawn[name]

    def redrawn(self, noise: float, seed: int) -> Tensor:
        """The training images once more, each of the same shape and with all else moved: [N, 3, S, S] uint8.

        Args:
            noise: how far every number behind a picture is moved towards another one, in [0, 1]; 0: the same images.
            seed: of the others.
        """
        return torch.cat([pixels for pixels, _, _ in self.chunks("train", noise, seed)])  # [N, 3, S, S]

    def chunks(
        self, name: str, noise: float = 0.0, seed: int = 0
    ) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        """Draws the images of "train" or "test", some at a time; see ``draw_chunk`` and ``redrawn``."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, list(self.count).index(name)))
        num = self.count[name]
        shape = torch.randperm(num, generator=generator) % len(SHAPES)  # [N], classes equal to within one image
        draws = NearDraws(generator, torch.Generator().manual_seed(seed), noise) if noise else Draws(generator)
        for part in shape.split(CHUNK):
            yield self.draw_chunk(part, draws)

    def draw_chunk(self, shape: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """One image for each entry of ``shape`` [N]: pixels [N, 3, S, S] uint8, factors [N] int64 and float32, masks
        [N, S, S] uint8."""
        num, pixel = len(shape), 2 / self.image_size
        steps = (torch.arange(self.image_size) + 0.5) * pixel - 1
        y, x = torch.meshgrid(steps, steps, indexing="ij")  # [S, S]

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * draws.rand(num)  # [N]

        canvas, family, intensity = self.draw_background(num, x, y, draws)  # [N, 3, S, S], [N], [N]
        difference = uniform(self.contrast, 0.45) * (uniform(0, 1) < 0.5).float().mul(2).sub(1)  # [N]
        outside = (intensity + difference - 0.5).abs() > 0.45  # keep room for the colour: go the other way
        hue = uniform(0, math.tau)
        colour = tint(intensity + torch.where(outside, -difference, difference), hue, self.saturation)  # [N, 3]

        turn = math.radians(self.rotation)
        scale, rotation = uniform(*self.scale), uniform(-turn, turn)
        shift_x, shift_y = uniform(-self.position, self.position), uniform(-self.position, self.position)
        dx, dy = x - 2 * shift_x[:, None, None], y - 2 * shift_y[:, None, None]  # [N, S, S]
        cos, sin = (rotation.cos() / scale)[:, None, None], (rotation.sin() / scale)[:, None, None]
        u, v = dx * cos - dy * sin, dx * sin + dy * cos  # [N, S, S], in radii
        distance = torch.empty_like(u)
        for index, function in enumerate(SHAPES.values()):
            members = shape == index
            distance[members] = function(u[members], v[members])
        canvas = paint(canvas, distance * scale[:, None, None], colour, pixel)

        factors = {
            "shape": shape,
            "colour": ((hue / math.tau * 6 + 0.5).long() % 6),
            "background": family,
            "scale": quantise(scale, *self.scale, 4),
            "rotation": quantise(rotation, -turn, turn, 8),
            "position": 3 * quantise(shift_y, -self.position, self.position, 3)
            + quantise(shift_x, -self.position, self.position, 3),
            "scale_value": scale,
            "rotation_value": rotation.rad2deg(),
        }
        mask = torch.where(distance < 0, (shape + 1)[:, None, None], 0).to(torch.uint8)  # [N, S, S]
        return (canvas * 255).round().clamp(0, 255).to(torch.uint8), factors, mask

    def draw_background(self, num: int, x: Tensor, y: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Textured, with distractors: canvas [num, 3, S, S], family [num] int64 and its plain intensity [num]."""
        family = draws.below(len(FACTORS["background"]), num)
        intensity = 0.25 + 0.5 * draws.rand(num)  # [num]
        hue = math.tau * draws.rand(num)  # [num]
        colour = tint(intensity, hue, self.saturation / 2)[:, :, None, None]  # [num, 3, 1, 1]
        canvas = colour + self.texture_contrast * texture(family, x, y, draws)[:, None]  # [num, 3, S, S]
        count = draws.below(self.num_distractors + 1, num)  # [num]
        for index in range(self.num_distractors):
            draw_x, draw_y, radius, bright, hue = draws.rand(5, num)  # each [num]
            radius = torch.where(count > index, 0.06 + 0.1 * radius, -1.0)[
                :, None, None
            ]  # [num, 1, 1], of half the side
            dx, dy = x - (2 * draw_x - 1)[:, None, None], y - (2 * draw_y - 1)[:, None, None]  # [num, S, S]
            dot = tint(0.2 + 0.6 * bright, hue * math.tau, self.saturation)  # [num, 3]
            canvas = paint(canvas, torch.hypot(dx, dy) - radius, dot, pixel=2 / self.image_size)
        return canvas, family, intensity


def paint(canvas: Tensor, distance: Tensor, colour: Tensor, pixel: float) -> Tensor:
    """Lays a flat colour over a canvas where the signed distance is negative, with an edge one pixel wide.

    Args:
        canvas: [N, 3, S, S].
        distance: [N, S, S], in the unit of ``pixel``.
        colour: [N, 3].
        pixel: side of a pixel.

    Returns:
        [N, 3, S, S], a new tensor.
    """
    cover = (0.5 - distance / pixel).clamp(0, 1)[:, None]  # [N, 1, S, S]
    return canvas + cover * (colour[:, :, None, None] - canvas)
