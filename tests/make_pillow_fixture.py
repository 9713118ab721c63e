"""Writes what Pillow makes of one small image: ``python tests/make_pillow_fixture.py``.

``tests/fixtures/pictures/pillow.npz`` holds the image, ``resampled_<name>`` for every name of
``RESAMPLED``, and ``colours_<order>`` for every order of the three enhancements, with the factors
``FACTORS``.
"""

import itertools
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_name("fixtures") / "pictures" / "pillow.npz"

RESAMPLED = {
    "larger": ((0, 0, 37, 53), 64, "bilinear", False),
    "smaller": ((0, 0, 37, 53), 16, "bilinear", False),
    "cubic": ((0, 0, 37, 53), 24, "bicubic", False),
    "cubic_larger": ((0, 0, 37, 53), 64, "bicubic", False),
    "fractional": ((3.25, 7.5, 20.4, 31.7), 24, "bilinear", False),
    "cut": ((5, 11, 20, 33), 24, "bilinear", True),
    "cut_small": ((30, 2, 6, 5), 24, "bilinear", True),
    "cut_cubic": ((5, 11, 30, 33), 24, "bicubic", True),
}
"""``(top, left, height, width), size, interpolation, cut``: with ``cut`` the box is cut out first,
as torchvision does, otherwise it is Pillow's ``box`` argument."""

FACTORS = (1.7, 0.4, 1.9)
ORDERS = tuple(itertools.permutations(range(3)))


def example() -> np.ndarray:
    """Waves, an edge and noise: ``uint8[37, 53, 3]``."""
    row, column = np.mgrid[:37, :53]
    waves = [np.sin(row / 3 + 2 * f) + np.cos(column / (4 + f)) for f in range(3)]
    image = 128 + 50 * np.stack(waves, -1) + 60 * (row > column)[..., None]
    image += np.random.default_rng(0).normal(size=image.shape) * 25
    return np.clip(image, 0, 255).astype(np.uint8)


def resampled(image: np.ndarray, box, size: int, interpolation: str, cut: bool) -> np.ndarray:
    """Pillow's answer, ``uint8[size, size, F]``, columns first in every version of it."""
    from PIL import Image

    top, left, height, width = box
    picture, how = Image.fromarray(image), Image.Resampling[interpolation.upper()]
    if cut:
        picture = picture.crop((left, top, left + width, top + height))
        top, left = 0, 0
    across = (left, 0, left + width, picture.height)
    picture = picture.resize((size, picture.height), how, box=across)
    return np.asarray(picture.resize((size, size), how, box=(0, top, size, top + height)))


def enhanced(image: np.ndarray, factors, order) -> np.ndarray:
    """Pillow's brightness (0), contrast (1) and colour (2), one after the other."""
    from PIL import Image, ImageEnhance

    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    picture = Image.fromarray(image)
    for kind in order:
        picture = kinds[kind](picture).enhance(float(factors[kind]))
    return np.asarray(picture)


if __name__ == "__main__":
    image = example()
    found = {"image": image}
    found |= {f"resampled_{name}": resampled(image, *case) for name, case in RESAMPLED.items()}
    for order in ORDERS:
        found["colours_" + "".join(map(str, order))] = enhanced(image, FACTORS, order)
    np.savez_compressed(FILE, **found)
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")
