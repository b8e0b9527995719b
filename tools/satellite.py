"""A folder of pictures as a satellite with 13 bands takes them: 16-bit TIFF files, a share of 12 bits used.

    python -m tools.satellite FOLDER [images=240]

Four classes differ in their spectra (water, forest, field, town), as reflectances, and by texture; the brightness of a
picture differs as lighting does, so that no single band tells the class.
"""

import sys
from pathlib import Path

import numpy as np

CLASSES = {  # reflectance in 13 bands, roughly those of Sentinel-2
    "field": (0.10, 0.09, 0.11, 0.10, 0.15, 0.24, 0.28, 0.30, 0.31, 0.12, 0.02, 0.25, 0.16),
    "forest": (0.08, 0.06, 0.06, 0.04, 0.09, 0.22, 0.27, 0.29, 0.30, 0.10, 0.01, 0.15, 0.07),
    "town": (0.14, 0.14, 0.15, 0.17, 0.18, 0.20, 0.21, 0.22, 0.23, 0.15, 0.03, 0.25, 0.23),
    "water": (0.12, 0.10, 0.08, 0.05, 0.05, 0.04, 0.04, 0.03, 0.03, 0.02, 0.01, 0.02, 0.01),
}

SIDE = 40
"""Pixels."""


def picture(kind: str, generator: np.random.Generator) -> np.ndarray:
    """[13, SIDE, SIDE] uint16, at most 4095."""
    coarse = generator.normal(0, 0.15, (SIDE // 8, SIDE // 8))
    texture = np.kron(coarse, np.ones((8, 8))) + generator.normal(0, 0.05, (SIDE, SIDE))  # [SIDE, SIDE]
    light = generator.uniform(0.4, 1.6)
    spectrum = np.array(CLASSES[kind])[:, None, None] * generator.normal(1, 0.5, (13, 1, 1))  # [13, 1, 1]
    return np.clip(10_000 * light * spectrum * (1 + texture), 0, 4095).astype(np.uint16)


def main() -> None:
    """Writes FOLDER/<class>/<number>.tif."""
    import tifffile

    folder, *rest = sys.argv[1:]
    count = int(dict(item.split("=") for item in rest).get("images", 240))
    generator = np.random.default_rng(0)
    for number in range(count):
        kind = list(CLASSES)[number % len(CLASSES)]
        path = Path(folder) / kind / f"{number:04d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, picture(kind, generator))


if __name__ == "__main__":
    main()
