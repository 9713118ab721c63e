"""Crops and resampling as in Pillow and torchvision, by two matrix products per image.

Resampling is linear and separable: ``out = rows @ image @ columns.T``, where each row of ``rows``
and of ``columns`` holds the weights of the input pixels for one output pixel.  The matrices are
computed from the coordinates of a box, so a batch of different boxes is one batched matrix product,
without a gather or shapes that depend on the data.  This is for GPU and TPU.  On a CPU, zeros take
time, so the few pixels with a weight are gathered instead, in a third of the time.

The weights follow Pillow's ``Image.resize``: with ``scale = box / outputs``, output pixel i
is centred on ``start + (i + 1/2) scale`` and weights input pixel j by
``kernel((j + 1/2 - centre) / max(scale, 1))``, normalised over the pixels inside the limits.  The
kernel is widened when shrinking ("antialias").  Torchvision's random crops cut first and
then resample, so their limits are the box; ``Image.resize(box=...)`` also uses the pixels
around the box, so its limits are the image.

The result is rounded to integer grey levels as in Pillow, but not between the two passes.  It is
within one level of Pillow's result.  Between the passes it is clipped, since cubics overshoot.
Columns come first, as in Pillow when the references were published (newer versions choose the order
by the shape).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TRIES = 10
"""The tries of torchvision's ``RandomResizedCrop.get_params`` before it uses the centre."""

BOX_DRAWS = 2 * TRIES + 2
"""A share and a ratio per try, and two coordinates."""


class Box(NamedTuple):
    """A rectangle of an image, in pixels: integer or float scalars, traced or not."""

    top: Any
    left: Any
    height: Any
    width: Any

    def stretched(self, factor: Any) -> "Box":
        """The same rectangle after the image's width was multiplied by ``factor``."""
        return self._replace(left=self.left * factor, width=self.width * factor)


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(0, 1 - jnp.abs(x))


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' cubic with a = -1/2, Pillow's ``BICUBIC``."""
    x = jnp.minimum(jnp.abs(x), 2)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, far)


KERNELS = {"bilinear": _triangle, "bicubic": _cubic}
RADIUS = {"bilinear": 1, "bicubic": 2}


def random_resized_box(
    draws: jax.Array,
    height: Any,
    width: Any,
    area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """The box of torchvision's ``RandomResizedCrop``: ``int32`` scalars.

    There are ten tries of a share of the area, uniform in ``area``, and of a ratio width / height,
    log-uniform in ``aspect``; the first that fits is placed uniformly.  If none fits: the largest
    centred box whose ratio is that of the image, clipped to ``aspect``.  ``draws``:
    ``BOX_DRAWS`` numbers, uniform in [0, 1).
    """
    share = area[0] + (area[1] - area[0]) * draws[:TRIES]
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = jnp.exp(low + (high - low) * draws[TRIES : 2 * TRIES])
    pixels = share * height * width
    w = jnp.round(jnp.sqrt(pixels * ratio)).astype(jnp.int32)
    h = jnp.round(jnp.sqrt(pixels / ratio)).astype(jnp.int32)
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = jnp.argmax(fits)
    w, h = w[first], h[first]
    top, left = _place(draws[-2], height - h), _place(draws[-1], width - w)

    own = width / height
    fallback_w = jnp.where(own > aspect[1], jnp.round(height * aspect[1]), width)
    fallback_h = jnp.where(own < aspect[0], jnp.round(width / aspect[0]), height)
    fallback_w, fallback_h = fallback_w.astype(jnp.int32), fallback_h.astype(jnp.int32)
    fallback = Box((height - fallback_h) // 2, (width - fallback_w) // 2, fallback_h, fallback_w)
    found = fits.any()
    return Box(*(jnp.where(found, a, b) for a, b in zip((top, left, h, w), fallback, strict=True)))


def random_box(draws: jax.Array, height: int, width: int, size: int) -> Box:
    """A square of ``size`` pixels placed uniformly (torchvision's ``RandomCrop``).

    ``draws``: as for ``random_resized_box``; the last two are used.
    """
    top, left = _place(draws[-2], height - size), _place(draws[-1], width - size)
    return Box(top, left, size, size)


def _place(draw: jax.Array, room: Any) -> jax.Array:
    """An integer from 0 to ``room``, from a draw in [0, 1)."""
    return jnp.floor(draw * (room + 1)).astype(jnp.int32)


def centre_box(height: Any, width: Any, size: int) -> Box:
    """The square that is left by ``Resize(size)`` of the shorter side and ``CenterCrop(size)``.

    In coordinates of the original image, so the numbers may be fractions.
    """
    short = jnp.minimum(height, width)
    new_height, new_width = size * height // short, size * width // short
    row, column = height / new_height, width / new_width
    top, left = jnp.round((new_height - size) / 2), jnp.round((new_width - size) / 2)
    return Box(top * row, left * column, size * row, size * column)


def resampling_matrix(
    start: Any,
    length: Any,
    size: int,
    outputs: int,
    interpolation: str = "bilinear",
    inside: bool = True,
) -> jax.Array:
    """``float32[outputs, size]``: each output pixel's weights of a line of ``size`` pixels.

    The outputs cover ``[start, start + length)``.  ``inside``: use no pixel outside of it, as if
    it had been cut out first; otherwise use the whole line.
    """
    centre, narrow = _grid(start, length, outputs)
    pixel = jnp.arange(size)
    seen = (pixel + 0.5) * narrow
    if inside:
        seen = jnp.where(_within(pixel, start, length), seen, jnp.inf)
    weights = KERNELS[interpolation](seen[None] - (centre * narrow)[:, None])
    return weights * (1 / weights.sum(1, keepdims=True))


def resampling_taps(
    start: Any,
    length: Any,
    size: int,
    outputs: int,
    interpolation: str = "bilinear",
    inside: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """The same weights without the zeros: ``(pixel: int32[outputs, K], float32[outputs, K])``.

    K is enough for a box as long as the line; ``length`` must not be larger.
    """
    centre, narrow = _grid(start, length, outputs)
    reach = RADIUS[interpolation]
    count = math.ceil(2 * reach * max(1, size / outputs)) + 1
    first = jnp.floor(centre - reach / narrow + 0.5).astype(jnp.int32)
    pixel = first[:, None] + jnp.arange(count)
    weights = KERNELS[interpolation]((pixel + 0.5 - centre[:, None]) * narrow)
    seen = (pixel >= 0) & (pixel < size)
    if inside:
        seen &= _within(pixel, start, length)
    weights = jnp.where(seen, weights, 0)
    return jnp.clip(pixel, 0, size - 1), weights * (1 / weights.sum(1, keepdims=True))


def _grid(start: Any, length: Any, outputs: int) -> tuple[jax.Array, jax.Array]:
    """The centres of the output pixels, and the factor from input pixels to kernel widths."""
    scale = jnp.asarray(length, jnp.float32) / outputs
    return start + (jnp.arange(outputs) + 0.5) * scale, 1 / jnp.maximum(scale, 1)


def _within(pixel: jax.Array, start: Any, length: Any) -> jax.Array:
    """Whether any part of a pixel is in ``[start, start + length)``."""
    return (pixel + 1 > start) & (pixel < start + length)


def resample(
    image: jax.Array,
    box: Box,
    size: int,
    interpolation: str = "bilinear",
    inside: bool = True,
) -> jax.Array:
    """The box of ``image: [H, W, F]`` as ``float32[size, size, F]``, integer levels in [0, 255].

    ``inside``: as in ``resampling_matrix``.
    """
    box = Box(*(jnp.asarray(number, jnp.float32) for number in box))
    options: dict[str, Any] = {"size": size, "interpolation": interpolation, "inside": inside}
    return jax.lax.platform_dependent(
        image,
        box,
        cpu=functools.partial(resample_by_taps, **options),
        default=functools.partial(resample_by_products, **options),
    )


def resample_by_products(
    image: jax.Array, box: Box, size: int, interpolation: str, inside: bool
) -> jax.Array:
    """``resample`` with ``resampling_matrix``."""
    height, width, _ = image.shape
    rows = resampling_matrix(box.top, box.height, height, size, interpolation, inside)
    columns = resampling_matrix(box.left, box.width, width, size, interpolation, inside)
    # HIGH: float32 on CPU, TF32 on GPU, three bfloat16 passes on TPU; error at most 0.1 level.
    precision = jax.lax.Precision.HIGH
    # With channels between height and width, both products need no transpose.
    lines = image.astype(jnp.float32).transpose(0, 2, 1)
    lines = jnp.clip(jnp.einsum("hfw,sw->hfs", lines, columns, precision=precision), 0, 255)
    lines = jnp.clip(jnp.einsum("rh,hfs->rfs", rows, lines, precision=precision), 0, 255)
    return jnp.floor(lines + 0.5).transpose(0, 2, 1)


def resample_by_taps(
    image: jax.Array, box: Box, size: int, interpolation: str, inside: bool
) -> jax.Array:
    """``resample`` with ``resampling_taps``."""
    height, width, channels = image.shape
    row, rows = resampling_taps(box.top, box.height, height, size, interpolation, inside)
    column, columns = resampling_taps(box.left, box.width, width, size, interpolation, inside)
    lines = sum(
        jnp.take(image, column[:, k], axis=1).astype(jnp.float32) * columns[:, k, None]
        for k in range(column.shape[1])
    )
    lines = jnp.clip(lines, 0, 255)

    def add(k: jax.Array, total: jax.Array) -> jax.Array:
        return total + jnp.take(lines, row[:, k], axis=0) * rows[:, k, None, None]

    # A loop, because XLA fuses a sum of gathers into each of its uses and repeats the gathers:
    # followed by a flip and a jitter, that took seven times as long.
    lines = jax.lax.fori_loop(0, row.shape[1], add, jnp.zeros((size, size, channels)))
    return jnp.floor(jnp.clip(lines, 0, 255) + 0.5)
