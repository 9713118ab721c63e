"""The inputs and weights for comparing methods for missing modalities, without PyTorch.

There are three modalities, with the references' letters: A (audio), V (visual) and L (language).
Sizes differ wherever the published classes let them, so that a swapped or transposed array shows.
"""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mla_jax.parity import formula
from mla_jax.parity.formula import Tensors

LETTERS = ("A", "V", "L")
"""The columns of a mask; features are concatenated in the order A, L, V."""

PATTERNS = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
"""The six incomplete patterns and the complete one."""

STEPS = 3

CHANNELS = 8
"""Channels of the text's convolutions; published: 128."""


class Sizes(NamedTuple):
    """Sizes of inputs, layers and batches."""

    inputs: Mapping[str, int] = {"A": 7, "V": 5, "L": 6}
    frames: Mapping[str, int] | None = None
    """Time steps of the inputs, if they have any; the text's convolutions need 5."""
    embedding: int = 8
    hidden: tuple[int, ...] = (12, 10)
    """Of the classifiers, and of GCNet's encoders."""
    autoencoder: tuple[int, ...] = (16, 12, 6)
    blocks: int = 3
    classes: int = 4
    scale: float = 1.0
    """Of the inputs: large enough for gradients to be clipped."""
    patterns: int = 7
    """How many of ``PATTERNS`` there are: the published data of MMIN has the first six."""

    @property
    def present(self) -> np.ndarray:
        """``int[B, 3]``: every pattern twice, in no simple order."""
        rows = np.array(PATTERNS[: self.patterns])
        return np.concatenate([rows, rows[::-1]])

    def batch(self, seed: int, dtype: Any = np.float64) -> Tensors:
        """``{letter: float[B, (frames,) dim], label: int[B], present: int[B, 3]}``, by formula."""
        present = self.present
        found: Tensors = {"label": formula.labels(len(present), self.classes, seed + 9)}
        found["present"] = present
        for i, letter in enumerate(LETTERS):
            time = (self.frames[letter],) if self.frames else ()
            shape = (len(present), *time, self.inputs[letter])
            found[letter] = (self.scale * formula.uniform(shape, seed + i)).astype(dtype)
        return found


UTTERANCES = Sizes(scale=4.0)
"""GCNet: one vector per utterance."""

FRAMES = Sizes(frames={"A": 9, "V": 7, "L": 8}, patterns=6)
"""MMIN and IF-MMIN: frames and tokens."""


class Views(NamedTuple):
    """Sizes for CCA, DCCA and DCCAE: whole data sets instead of batches."""

    dims: tuple[int, ...] = (7, 6, 6)
    """Of A, V and L.  V and L are alike: the published L goes through V's network."""
    examples: tuple[int, ...] = (40, 14, 14)
    """Of the training, validation and test sets."""
    hidden: int = 9
    codes: int = 3
    classes: int = 3

    @property
    def present(self) -> np.ndarray:
        """``int[N, 3]`` of all three sets, one after the other: every pattern in turn."""
        total = sum(self.examples)
        return np.array([PATTERNS[(3 * i + i // 7) % 7] for i in range(total)])

    def data(self, dtype: Any = np.float64) -> tuple[list[np.ndarray], np.ndarray]:
        """Three views ``float[N, dim]`` that share two factors, and ``int[N]`` labels."""
        total = sum(self.examples)
        factors = formula.uniform((total, 2), 40)
        views = []
        for i, dim in enumerate(self.dims):
            mixed = factors @ formula.uniform((2, dim), 50 + i)
            noisy = 2 * mixed + formula.uniform((total, dim), 60 + i) + i / 4
            views.append(noisy.astype(np.float32).astype(dtype))
        score = factors[:, 0] + 0.3 * formula.uniform((total,), 70)
        return views, np.digitize(score, (-0.3, 0.3)).astype(np.int64)


VIEWS = Views()


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    """Weights in PyTorch's names and layouts by formula, ``float64``.

    Matrices have the deviation ``sqrt(1 / fan_in)``; scales lie in [0.75, 1.25), the rest in
    [-0.125, 0.125).  No bias is 0, unlike the published ones, because a LeakyReLU at
    exactly 0 has the slope 0.01 in PyTorch and 1 in JAX.
    """

    def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = formula.uniform(shape, seed + zlib.crc32(name.encode()) % 1_000_003)
        if len(shape) > 1:
            return values * np.sqrt(3 / np.prod(shape[1:]))
        if name.endswith("weight"):  # of a batch normalisation
            return 1 + values / 4
        return values / 8

    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}
