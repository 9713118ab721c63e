"""Augmentation of an image or a spectrogram on the device: pure functions of one example.

The rules are those of torchvision 0.9 on Pillow images, which the references use, including the
rounding: images are grey levels in [0, 255], stored as float32 until ``normalize``.
``transform.py`` combines them and maps them over a batch.  Randomness is passed as ``draws``,
uniform numbers in [0, 1), rather than as keys: one call of the generator serves a whole image, and
every call costs XLA half a second to compile on CPU.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

JITTER_DRAWS = 6
"""Draws for three factors and for the order of the three adjustments."""

FIXED_NOISE = 999
"""The seed of ``fixed_noise``; the reference seeds NumPy with it for every item that it loads."""


def flip(draw: jax.Array, image: jax.Array) -> jax.Array:
    """``image: [..., W, F]``, mirrored left to right with probability 1/2."""
    return jnp.where(draw < 0.5, image[..., ::-1, :], image)


def flip_flow(draw: jax.Array, flow: jax.Array, released: bool = False) -> jax.Array:
    """Optical flow ``[..., W, 2]`` (u, v; grey levels, 127.5 is no motion), mirrored likewise.

    In a mirror motion goes the other way: both components are mirrored and u is negated.
    ``released`` mirrors only u and negates nothing (DI-MML quirk 14).
    """
    u, v = flow[..., 0], flow[..., 1]
    mirrored = (u[..., ::-1], v) if released else (255 - u[..., ::-1], v[..., ::-1])
    return jnp.where(draw < 0.5, jnp.stack(mirrored, -1), flow)


def colour_jitter(draws: jax.Array, image: jax.Array, strength: float) -> jax.Array:
    """Brightness, contrast and saturation of ``image: float32[H, W, 3]``, in a random order.

    Three factors, each uniform in ``[max(0, 1 - strength), 1 + strength]``: torchvision's
    ``ColorJitter`` without hue.  The image-text recipe has strength 1 (quirk Q25).
    """
    low, high = max(0.0, 1 - strength), 1 + strength
    factors = low + (high - low) * draws[:3]
    return adjust_colours(image, factors, jnp.argsort(draws[3:JITTER_DRAWS]))


def adjust_colours(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Pillow's ``ImageEnhance`` Brightness (0), Contrast (1) and Color (2), in the given order.

    All three scale the difference from a dull image: ``dull + factor (image - dull)``, rounded down
    to whole levels; dull is black, the mean grey, or each pixel's grey.
    """
    for place in range(3):
        kind = order[place]
        grey = _grey(image)
        dull = jnp.where(kind == 2, grey, jnp.where(kind == 1, jnp.floor(grey.mean() + 0.5), 0))
        image = jnp.clip(jnp.floor(dull + factors[kind] * (image - dull)), 0, 255)
    return image


def _grey(image: jax.Array) -> jax.Array:
    """ITU-R 601 luma of integer levels, as Pillow's ``convert("L")``: ``[H, W, 1]``, integer
    levels."""
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    # Below 2^24, so exact in float32.
    return jnp.floor((red * 19595 + green * 38470 + blue * 7471 + 32768) / 65536)


def fixed_noise(shape: Sequence[int]) -> jax.Array:
    """Standard normal noise that is the same for every example (DI-MML quirk 10)."""
    # The barrier keeps XLA from computing the pattern with its slow constant folder.
    seed = jax.lax.optimization_barrier(jnp.uint32(FIXED_NOISE))
    return jax.random.normal(jax.random.key(seed), shape)


def mask_spans(draws: jax.Array, spectrogram: jax.Array, axis: int, longest: int) -> jax.Array:
    """Random spans along ``axis`` set to 0, the mean of a normalised spectrogram.

    Length and place are drawn as torchaudio's ``TimeMasking`` and ``FrequencyMasking`` do:
    the length is an integer below ``longest``, the start uniform where it fits (SpecAugment,
    Park et al. 2019, section 2).  ``draws: float[2, spans]``.
    """
    size = spectrogram.shape[axis]
    length = draws[0] * longest
    start = jnp.floor(draws[1] * (size - length))
    place = jnp.arange(size)[:, None]
    masked = ((place >= start) & (place < start + jnp.floor(length))).any(1)
    shape = [1] * spectrogram.ndim
    shape[axis] = size
    return jnp.where(masked.reshape(shape), 0, spectrogram)


def normalize(x: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """``(x - mean) / std`` along the last axis, or with one number for all; (): x unchanged."""
    if not mean:
        return x
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)
