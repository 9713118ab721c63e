"""Inputs and weights by formula, the same on every machine, framework and version.

A fixture then only needs to store outputs.  The formula is splitmix64 (Steele et al., 2014) on
the position of each entry: integer arithmetic, so there is nothing to round.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

Tensors = dict[str, Any]
"""``{name: array}``, of NumPy or of JAX: what both sides compute."""


def uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """``float64[shape]``, practically uniform over [-1, 1); multiples of 2**-23.

    Every value is exact in float32 too, so both precisions start from the same numbers.
    """
    with np.errstate(over="ignore"):
        x = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64)
        x = (x + np.uint64(1) + np.uint64(seed) * np.uint64(2**32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


def labels(count: int, classes: int, seed: int) -> np.ndarray:
    """``int32[count]`` in 0..classes-1."""
    return ((uniform((count,), seed) + 1) / 2 * classes).astype(np.int32)


def tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights for ``{"params/.../kernel": shape}``, parameters and running statistics, in float32.

    Kernels are uniform with the standard deviation ``sqrt(2 / fan_in)``; scales and variances lie
    in [0.75, 1.25), biases and means in [-0.125, 0.125), so that none of them is neutral.
    """

    def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
        # The seed depends only on the name, so adding a tensor does not change others.
        values = uniform(shape, seed + zlib.crc32(name.encode()) % 1_000_003)
        leaf = name.rsplit("/", 1)[-1]
        if leaf == "kernel":
            values *= np.sqrt(6 / np.prod(shape[:-1]))
        elif leaf in ("scale", "var"):
            values = 1 + values / 4
        else:
            values /= 8
        return values.astype(np.float32)

    return {name: fill(name, tuple(shape)) for name, shape in shapes.items()}


def variables(shapes: Any, seed: int) -> Any:
    """``tensors`` for a nested tree, such as ``jax.eval_shape`` gives."""
    flat = traverse_util.flatten_dict(shapes, sep="/")
    named = tensors({name: leaf.shape for name, leaf in flat.items()}, seed)
    return traverse_util.unflatten_dict(named, sep="/")
