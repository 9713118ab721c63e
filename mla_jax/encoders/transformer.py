"""The vision transformer of M3AE and CAV-MAE: patches, positions, pre-norm blocks.

Dosovitskiy et al., 2021; ``models/m3ae.py`` and ``models/cav_mae.py`` of the MLA reference, whose
blocks compute the same and differ only in names (see ``mla_jax/convert``).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mla_jax.errors import UserError, check_choice

PATCH = 16

token_init = nn.initializers.normal(0.02)
"""Initialises class tokens and type and modality embeddings; the reference's M3AE uses
N(0.02, 1) by a misplaced argument (quirk Q31), but its pretrained weights replace that."""


class Size(NamedTuple):
    """The shape of a transformer; its perceptrons are four times as wide."""

    width: int
    depth: int
    heads: int


SIZES = {
    "tiny": Size(64, 2, 4),
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
}
"""``tiny`` is for tests and first tries; no pretrained weights have its shape."""


def check_size(encoder: str, size: str, feature_dim: int) -> Size:
    """The shape named ``size``; ``UserError`` unless ``feature_dim`` is its width."""
    check_choice(f"size of encoder '{encoder}'", size, SIZES)
    if SIZES[size].width != feature_dim:
        raise UserError(
            f"encoder '{encoder}' of size '{size}' gives features of width {SIZES[size].width}, "
            f"not {feature_dim}: set feature_dim={SIZES[size].width} or choose another size"
        )
    return SIZES[size]


class Attention(nn.Module):
    """Multi-head self-attention with biases on ``[B, N, D]``; ``attended: bool[B, N]`` are keys."""

    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, attended: jax.Array | None) -> jax.Array:
        batch, tokens, width = x.shape
        qkv = dense(3 * width, self.dtype, "qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = (qkv[:, :, i] for i in range(3))
        mask = None if attended is None else attended[:, None, None, :]
        x = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return dense(width, self.dtype, "projection")(x.reshape(batch, tokens, width))


class Perceptron(nn.Module):
    """``fc2(gelu(fc1(x)))``, with a hidden layer four times as wide."""

    gelu: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = dense(4 * width, self.dtype, "fc1")(x)
        return dense(width, self.dtype, "fc2")(nn.gelu(x, approximate=self.gelu == "tanh"))


class Block(nn.Module):
    """``x += attention(norm1(x))``, then ``x += perceptron(norm2(x))``."""

    heads: int
    epsilon: float
    gelu: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, attended: jax.Array | None) -> jax.Array:
        y = layer_norm(self.epsilon, self.dtype, "norm1")(x)
        x = x + Attention(self.heads, self.dtype, name="attention")(y, attended)
        y = layer_norm(self.epsilon, self.dtype, "norm2")(x)
        return x + Perceptron(self.gelu, self.dtype, name="perceptron")(y)


def apply_blocks(
    x: jax.Array,
    attended: jax.Array | None,
    size: Size,
    epsilon: float,
    gelu: str,
    remat: bool,
    dtype: jnp.dtype,
) -> jax.Array:
    """``block_0`` to the last and the final ``norm``, as submodules of the calling module.

    Args:
      x: ``[B, N, D]``.
      attended: ``bool[B, N]``, False on tokens that no token attends to; None: all are attended.
      size: depth and heads.
      epsilon: for every LayerNorm.
      gelu: ``tanh`` or ``exact``.
      remat: recompute each block in the backward pass instead of storing its activations.
      dtype: the type of the computation.
    """
    block = nn.remat(Block) if remat else Block
    for i in range(size.depth):
        x = block(size.heads, epsilon, gelu, dtype, name=f"block_{i}")(x, attended)
    return layer_norm(epsilon, dtype, "norm")(x)


def dense(width: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """A linear layer, initialised with a Xavier uniform kernel and a zero bias."""
    return nn.Dense(width, dtype=dtype, kernel_init=nn.initializers.xavier_uniform(), name=name)


def layer_norm(epsilon: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance, as in PyTorch."""
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


def patches(x: jax.Array, order: str = "row_column_channel") -> jax.Array:
    """Cuts ``[B, H, W, C]`` into 16x16 patches, row by row: ``[B, H/16, W/16, 256 C]``.

    Args:
      x: images, or spectrograms with the axis of the patch rows first.
      order: of the pixels in a patch; the reference's is ``channel_row_column`` (quirk Q19).

    Raises:
      UserError: height or width is not a multiple of 16.
    """
    batch, height, width, channels = x.shape
    if height % PATCH or width % PATCH:
        raise UserError(
            f"a transformer encoder cuts its input into {PATCH}x{PATCH} patches: "
            f"{height}x{width} is not a multiple of it; resize the images or spectrograms"
        )
    x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    axes = (0, 1, 3, 2, 4, 5) if order == "row_column_channel" else (0, 1, 3, 5, 2, 4)
    return x.transpose(axes).reshape(batch, height // PATCH, width // PATCH, -1)


def positions_1d(position: np.ndarray, width: int, dtype: type = np.float32) -> np.ndarray:
    """Sines, then cosines, of ``position / 10000^(2 i / width)``: ``[N]`` -> ``dtype[N, width]``.

    In float32 by default, as in M3AE; CAV-MAE computes them in float64.
    """
    frequency = 1 / 10000 ** (np.arange(width // 2, dtype=dtype) / dtype(width / 2))
    angle = position.reshape(-1, 1).astype(dtype) * frequency.astype(dtype)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def positions_2d(rows: int, columns: int, width: int, dtype: type = np.float32) -> np.ndarray:
    """The code of the column, then of the row: ``dtype[rows * columns, width]``, row by row.

    ``get_2d_sincos_pos_embed`` of both reference models, which puts the column first.
    """
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    halves = [positions_1d(p, width // 2, dtype) for p in (column, row)]
    return np.concatenate(halves, axis=1)
