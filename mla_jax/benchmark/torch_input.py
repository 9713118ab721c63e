"""The same work as a PyTorch user has it done: a ``DataLoader`` whose workers use Pillow.

    python -m mla_jax.benchmark.torch_input RECIPE BATCH_SIZE WORKERS SECONDS < paths.json

A process of its own, without JAX in it, so that its workers can be forked as PyTorch's users have
them; it prints examples per second.  Torchvision has no part in this: its rules are written here.
"""

import json
import math
import pathlib
import random
import sys

import numpy as np

from mla_jax.benchmark import timing
from mla_jax.benchmark.recipes import CROP, RECIPES, pillow
from mla_jax.data.streams import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)


def crop_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Torchvision's ``RandomResizedCrop``: left, top, right, bottom."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def picture(path: pathlib.Path, jitter: bool) -> np.ndarray:
    """Decode, crop, flip, jitter, to [0, 1], normalise: ``float32[3, 224, 224]``."""
    from PIL import ImageEnhance

    image_module = pillow()
    image = image_module.open(path).convert("RGB")
    box = crop_box(image.height, image.width)
    image = image.crop(box).resize((CROP, CROP), image_module.Resampling.BILINEAR)
    if random.random() < 0.5:
        image = image.transpose(image_module.Transpose.FLIP_LEFT_RIGHT)
    if jitter:
        kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        random.shuffle(kinds)
        for kind in kinds:
            image = kind(image).enhance(random.uniform(0, 2))
    scaled = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def spectrogram(path: pathlib.Path) -> np.ndarray:
    """Read, normalise, mask one span of each axis: ``float32[1024, 128]``."""
    stream = RECIPES["spectrogram"]
    array = (np.load(path)[..., 0].astype(np.float32) - stream.mean[0]) / stream.std[0]
    for axis, longest in enumerate((stream.time_mask, stream.frequency_mask)):
        length = random.random() * longest
        start = int(random.random() * (array.shape[axis] - length))
        span = slice(start, start + int(length))
        array[(span,) if axis == 0 else (slice(None), span)] = 0
    return array


class Files:
    """A map-style data set: ``DataLoader`` needs no more than these two methods."""

    def __init__(self, recipe: str, paths: list[list[pathlib.Path]]):
        self._recipe, self._paths = recipe, paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int):
        import torch

        paths = self._paths[number]
        if self._recipe in ("image", "clip"):
            frames = [picture(path, self._recipe == "image") for path in paths]
            return torch.from_numpy(np.stack(frames) if self._recipe == "clip" else frames[0])
        if self._recipe == "text":
            return torch.from_numpy(np.load(paths[0]))
        return torch.from_numpy(spectrogram(paths[0]))


def batches(recipe: str, paths: list[list[pathlib.Path]], batch_size: int, workers: int):
    """Endless batches of a ``DataLoader``."""
    import torch.utils.data

    loader = torch.utils.data.DataLoader(
        Files(recipe, paths),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
    )
    while True:
        yield from loader


def main() -> None:
    """Measures as the command line says and prints the rate."""
    recipe, batch_size, workers, seconds = sys.argv[1], *map(float, sys.argv[2:])
    paths = [[pathlib.Path(path) for path in example] for example in json.load(sys.stdin)]
    delivered = batches(recipe, paths, int(batch_size), int(workers))
    for _ in range(2 + int(workers)):
        next(delivered)
    print(timing.rate(delivered, int(batch_size), seconds))


if __name__ == "__main__":
    main()
