"""What the input benchmark reads: files that Pillow and NumPy write, and their streams."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mla_jax.data.streams import IMAGENET_MEAN, IMAGENET_STD, Stream
from mla_jax.errors import UserError

SIDE, CROP = 256, 224
PIXELS: dict[str, Any] = {"crop": CROP, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}

RECIPES: Mapping[str, Stream] = {
    "image": Stream("image", (SIDE, SIDE, 3), jitter=1.0, **PIXELS),
    "clip": Stream("clip", (3, SIDE, SIDE, 3), **PIXELS),
    "spectrogram": Stream(
        "spectrogram",
        (1024, 128, 1),
        "float16",
        mean=(-5.081,),
        std=(4.4849,),
        time_mask=192,
        frequency_mask=48,
    ),
    "text": Stream("tokens", (256,), "int32"),
}
"""One modality each: a JPEG with crop, flip and jitter; three of them with crops and flips of their
own; a log-mel spectrogram with masks; token ids."""

ABOUT = {
    "image": "JPEG 256, crop 224, flip, jitter",
    "clip": "3 JPEGs 256, crops 224, flips",
    "spectrogram": "float16 1024 x 128, masks",
    "text": "256 token ids",
}


def pillow():
    """The module ``PIL.Image``.

    Raises:
      UserError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(
            "the input benchmark writes and reads JPEG files with Pillow: pip install pillow"
        ) from error
    return Image


def write_files(recipe: str, folder: pathlib.Path, examples: int) -> list[list[pathlib.Path]]:
    """Writes the files of ``examples`` examples; returns those of each."""
    rng = np.random.default_rng(0)
    stream, paths = RECIPES[recipe], []
    frames = {"image": 1, "clip": 3}.get(recipe, 0)
    for number in range(examples):
        names = [folder / f"{recipe}-{number:05d}-{frame}" for frame in range(frames or 1)]
        for name in names:
            if frames:
                name.write_bytes(_photograph(rng))
            elif recipe == "text":
                np.save(name.open("wb"), rng.integers(0, 30000, stream.shape).astype(np.int32))
            else:
                np.save(name.open("wb"), rng.normal(-8, 4, stream.shape).astype(np.float16))
        paths.append(names)
    return paths


def _photograph(rng: np.random.Generator) -> bytes:
    """A JPEG with the smooth and the fine structure of a photograph, about 25 kB."""
    image = pillow()
    coarse = image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), image.Resampling.BICUBIC), np.float32)
    fine = np.clip(smooth + rng.normal(size=smooth.shape) * 8, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    image.fromarray(fine).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class FileSplit(NamedTuple):
    """A split that reads its files anew in every ``fetch``, as a data set on disk does."""

    recipe: str
    paths: list[list[pathlib.Path]]

    @property
    def examples(self) -> int:
        return len(self.paths)

    def fetch(self, index: np.ndarray) -> dict[str, Any]:
        """The batch of examples ``index: int[B]``, stored as ``RECIPES`` says."""
        shape = RECIPES[self.recipe].shape
        arrays = np.stack([self._read(self.paths[i]).reshape(shape) for i in index])
        return {
            "inputs": {self.recipe: arrays},
            "present": np.ones((len(index), 1), bool),
            "label": np.zeros(len(index), np.int32),
            "index": np.asarray(index, np.int32),
            "valid": np.ones(len(index), bool),
        }

    def _read(self, paths: list[pathlib.Path]) -> np.ndarray:
        if self.recipe in ("image", "clip"):
            return np.stack([np.asarray(pillow().open(path).convert("RGB")) for path in paths])
        return np.load(paths[0])
