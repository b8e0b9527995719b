"""Groups of views as a config gives them, read and checked."""

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

GROUP_KEYS = (
    "count",
    "size",
    "scale",
    "ratio",
    "flip",
    "jitter",
    "jitter_p",
    "band_jitter",
    "gray",
    "blur",
    "blur_sigma",
    "solarize",
    "ramp",
)


class Group(NamedTuple):
    """How the views of one group are made; probabilities and strengths of 0 mean off."""

    num_views: int
    size: int  # pixels
    scale: tuple[float, float] | None  # area of the crop as a share of the image; None: the central square
    ratio: tuple[float, float]  # width / height of the crop
    flip: float  # probability
    jitter: tuple[float, float, float, float]  # strengths of brightness, contrast, saturation, hue
    jitter_p: float  # probability
    band_jitter: float  # strength: every channel times a factor of its own
    gray: float  # probability
    blur: float  # probability
    blur_sigma: tuple[float, float]  # pixels of the view
    solarize: float  # probability
    ramp: tuple[float, float, int] | None = None  # share of its size at first, share of the run until all of it, step

    def at(self, progress: float) -> "Group":
        """The group as it is once a share of the run is done: its size rises on a straight line, in whole steps, as
        ``ramp`` says (progressive resizing, as FFCV trains ImageNet)."""
        if self.ramp is None:
            return self
        least, until, step = self.ramp
        share = least + (1 - least) * min(1.0, progress / until)
        size = self.size if progress >= until else min(self.size, max(2, step * round(share * self.size / step)))
        return self._replace(size=size, ramp=None)

    def sizes(self) -> list[int]:
        """Every size that its views have in the course of a run, in pixels."""
        if self.ramp is None:
            return [self.size]
        first, step = self.at(0.0).size, self.ramp[2]
        return sorted({first, *range(step * -(-first // step), self.size, step), self.size})


# Reading the config. Every message names the key, what was found and what to give instead.


def read_group(entry: Mapping[str, Any], where: str, image_size: int, channels: int) -> Group:
    """One checked group; ``where`` is its place in the config, for messages."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {entry!r}: give a mapping with keys out of {', '.join(GROUP_KEYS)}.")
    for key in entry:
        if key not in GROUP_KEYS:
            near = get_close_matches(str(key), GROUP_KEYS, n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}.{key} is unknown, did you mean {near!r}? Known keys: {', '.join(GROUP_KEYS)}.")
    given = {key: value for key, value in entry.items() if value is not None}  # null in the config: as if missing

    def probability(key: str) -> float:
        return read_numbers([given.get(key, 0.0)], f"{where}.{key}", 1, "a probability in [0, 1]", 0.0, 1.0)[0]

    def limits(key: str, default: tuple[float, float], highest: float, wanted: str) -> tuple[float, float]:
        low, high = read_numbers(given.get(key, default), f"{where}.{key}", 2, wanted, 0.0, highest)
        if not 0.0 < low <= high:
            raise ValueError(f"{where}.{key} is {[low, high]}: give {wanted}.")
        return low, high

    for key, needed in (("ratio", "scale"), ("jitter", "jitter_p"), ("jitter_p", "jitter"), ("blur_sigma", "blur")):
        if key in given and needed not in given:
            raise ValueError(f"{where}.{key} is {given[key]!r} but has no effect without {needed}: add {needed}.")
    wanted = "four strengths [brightness, contrast, saturation, hue], none negative, hue at most 0.5"
    jitter = read_numbers(given.get("jitter", [0.0] * 4), f"{where}.jitter", 4, wanted, 0.0, math.inf)
    if jitter[3] > 0.5:
        raise ValueError(f"{where}.jitter is {jitter}: give {wanted}.")
    gray = probability("gray")
    if channels not in (1, 3):
        for key, value, off in (
            ("jitter", jitter[2], "[b, c, 0, 0]"),
            ("jitter", jitter[3], "[b, c, 0, 0]"),
            ("gray", gray, "0"),
        ):
            if value > 0:
                raise ValueError(
                    f"{where}.{key} changes the colours of RGB images, but views.channels is {channels}: "
                    f"set {key} to {off}, or choose views=multiband."
                )
    elif channels == 1:  # nothing to do, as in torchvision; the brightness and contrast of the jitter remain
        jitter, gray = [jitter[0], jitter[1], 0.0, 0.0], 0.0
    size = read_integer(given.get("size", image_size), f"{where}.size", least=2, most=2**16)
    return Group(
        num_views=read_integer(given.get("count", 1), f"{where}.count", least=1, most=1024),
        size=size,
        scale=limits("scale", (1.0, 1.0), 1.0, "two area shares, 0 < lo <= hi <= 1") if "scale" in given else None,
        ratio=limits("ratio", (3 / 4, 4 / 3), math.inf, "two ratios width / height, 0 < lo <= hi"),
        flip=probability("flip"),
        jitter=(jitter[0], jitter[1], jitter[2], jitter[3]),
        jitter_p=probability("jitter_p"),
        band_jitter=probability("band_jitter"),
        gray=gray,
        blur=probability("blur"),
        blur_sigma=limits("blur_sigma", (0.1, 2.0), math.inf, "two standard deviations in pixels, 0 < lo <= hi"),
        solarize=probability("solarize"),
        ramp=read_ramp(given["ramp"], f"{where}.ramp") if "ramp" in given else None,
    )


def read_ramp(value: Any, key: str) -> tuple[float, float, int]:
    """How views grow: the share of their size that they begin with, the share of the run, the step in pixels."""
    wanted = "[share of the size, share of the run, step]: two shares in (0, 1], and whole pixels of a step"
    least, until, step = read_numbers(value, key, 3, wanted, 0.0, math.inf)
    if not (0 < least <= 1 and 0 < until <= 1 and step >= 1 and step.is_integer()):
        raise ValueError(f"{key} is {list(value)}: give {wanted}.")
    return least, until, int(step)


def read_numbers(values: Any, key: str, count: int, wanted: str, low: float, high: float) -> list[float]:
    """``count`` finite numbers in [low, high], or a ValueError that asks for ``wanted``."""
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else None
    if listed is None or len(listed) != count or not all(is_number(value) and low <= value <= high for value in listed):
        found = listed[0] if listed is not None and count == 1 and len(listed) == 1 else values
        raise ValueError(f"{key} is {found!r}: give {wanted}.")
    return [float(value) for value in listed]


def read_integer(value: Any, key: str, least: int, most: int) -> int:
    """An integer, or a ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{key} is {value!r}: give an integer of at least {least} and at most {most}.")
    return value


def is_number(value: Any) -> bool:
    """A finite int or float, no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
