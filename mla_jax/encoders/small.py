"""Small encoders for the embedded data and for tests, which train in seconds on a laptop."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from mla_jax.encoders.norm import BatchNorm
from mla_jax.errors import UserError

conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv2D(nn.Module):
    """3x3 convolutions with batch normalisation: ``[B, H, W, F]`` -> ``[B, D]``.

    One convolution per width and one to D; ReLU; max-pooling by 2 in between; mean over positions.

    Raises:
      UserError: the input has another number of axes, or too few positions to halve.
    """

    feature_dim: int
    widths: Sequence[int] = (16, 32)
    kernel: Sequence[int] = (3, 3)
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, present: jax.Array | None = None
    ) -> jax.Array:
        check_positions(type(self).__name__.lower(), x.shape, len(self.kernel), len(self.widths))
        x = x.astype(self.dtype)
        for i, width in enumerate((*self.widths, self.feature_dim)):
            if i:
                x = halve(x)
            x = nn.Conv(
                width, self.kernel, use_bias=False, dtype=self.dtype, kernel_init=conv_init
            )(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, axis_name=self.axis_name)(x, train, present))
        return x.mean(tuple(range(1, x.ndim - 1)))


def check_positions(encoder: str, shape: Sequence[int], axes: int, halvings: int) -> None:
    """Raises ``UserError`` unless an input has ``axes`` position axes, long enough to be halved."""
    takes = {1: "[batch, time, feature]", 2: "[batch, height, width, channel]"}.get(axes)
    if len(shape) != axes + 2:
        raise UserError(
            f"{encoder} takes {takes or f'{axes + 2} axes'}, not an input of shape {tuple(shape)}"
        )
    if min(shape[1:-1]) < 2**halvings:
        raise UserError(
            f"{encoder} halves its input {halvings} times, so an input of shape {tuple(shape)} is "
            "too small: give fewer widths"
        )


def halve(x: jax.Array) -> jax.Array:
    """Maximum over 2 or 2x2 neighbours: ``[B, 2n, 2m, F]`` -> ``[B, n, m, F]``; odd ends are cut.

    The gradient of ``nn.max_pool`` is a scatter, which is three times slower on CPUs.  That of
    ``max`` looks for the values that equal the maximum, and is NaN if XLA computes them twice
    and rounds differently.  Here neighbours are only compared with each other.  Equal ones share
    the gradient, as with ``max``.
    """
    for axis in range(1, x.ndim - 1):
        a, b = neighbours(jax.lax.slice_in_dim(x, 0, x.shape[axis] // 2 * 2, axis=axis), axis)
        x = jnp.where(a > b, a, jnp.where(b > a, b, (a + b) / 2))
    return x


def neighbours(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The elements with even and with odd index along an axis of even length."""
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    return even, odd


class Conv1D(Conv2D):
    """As ``Conv2D``, along time with kernels of length 5: ``[B, T, F]`` -> ``[B, D]``."""

    kernel: Sequence[int] = (5,)


class NgramBag(nn.Module):
    """Mean of character n-gram embeddings: ids ``int32[B, L]`` (0 is padding) -> ``[B, D]``.

    Raises:
      UserError: the input is not of integers, or has other axes.
    """

    feature_dim: int
    vocabulary: int = 1024
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
        del train
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise UserError(
                "ngram_bag takes token ids int32[batch, length], not an input of shape "
                f"{tuple(ids.shape)} and type {ids.dtype}"
            )
        table = nn.Embed(
            self.vocabulary,
            self.feature_dim,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype,
        )
        mask = (ids > 0)[..., None].astype(self.dtype)
        return (table(ids) * mask).sum(1) / jnp.maximum(mask.sum(1), 1)


class Mlp(nn.Module):
    """Two dense layers on vectors: ``[B, F]`` -> ``[B, D]``; the cheapest encoder.

    ``norm``: batch normalisation between them.
    """

    feature_dim: int
    hidden: int = 32
    norm: bool = True
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, present: jax.Array | None = None
    ) -> jax.Array:
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        x = nn.Dense(self.hidden, dtype=self.dtype)(x)
        if self.norm:
            x = BatchNorm(dtype=self.dtype, axis_name=self.axis_name)(x, train, present)
        x = nn.relu(x)
        return nn.relu(nn.Dense(self.feature_dim, dtype=self.dtype)(x))
