"""The published encoders of the methods for missing modalities, as modules of Flax.

They are injected into our methods as any encoder is; dropout is off throughout.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mla_jax.encoders.norm import BatchNorm
from mla_jax.functional.heads import HIGHEST


def _dense(width: int, name: str) -> nn.Dense:
    return nn.Dense(width, precision=HIGHEST, name=name)


class Perceptron(nn.Module):
    """GCNet's, of an utterance's vector: ``[B, F]`` -> ``[B, D]``; ReLU between layers."""

    feature_dim: int
    hidden: Sequence[int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i, width in enumerate(self.hidden):
            x = nn.relu(_dense(width, f"layer_{i}")(x))
        return _dense(self.feature_dim, f"layer_{len(self.hidden)}")(x)


class Lstm(nn.Module):
    """MMIN's, of frames: ``[B, T, F]`` -> ``[B, D]``, the largest of each unit over time.

    As in PyTorch a gate has two biases, and the gates come in the order i, f, g, o.
    """

    feature_dim: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        D, zeros = self.feature_dim, nn.initializers.zeros
        given = _dense(4 * D, "input")(x)
        kernel = self.param("recurrent_kernel", nn.initializers.orthogonal(), (D, 4 * D))
        bias = self.param("recurrent_bias", zeros, (4 * D,))

        def step(carry: tuple[jax.Array, jax.Array], now: jax.Array) -> tuple[Any, jax.Array]:
            h, c = carry
            gates = now + jnp.matmul(h, kernel, precision=HIGHEST) + bias
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((len(x), D), given.dtype)
        _, outputs = jax.lax.scan(step, (start, start), given.swapaxes(0, 1))
        return outputs.max(0)


class TextCnn(nn.Module):
    """MMIN's, of tokens: ``[B, T, F]`` -> ``[B, D]``; convolutions over 3, 4 and 5 of them."""

    feature_dim: int
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        pooled = [
            nn.relu(
                nn.Conv(
                    self.channels, (size,), padding="VALID", precision=HIGHEST, name=f"conv_{i}"
                )(x)
            ).max(1)
            for i, size in enumerate((3, 4, 5), 1)
        ]
        return nn.relu(_dense(self.feature_dim, "embedding")(jnp.concatenate(pooled, -1)))


class View(nn.Module):
    """Deep CCA's, of a view: ``[B, F]`` -> ``[B, D]``, but for its last layer, which is a head."""

    feature_dim: int
    layers: int = 3

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, present: jax.Array | None = None
    ) -> jax.Array:
        for i in range(self.layers):
            x = _dense(self.feature_dim, f"layer_{i}")(x)
            x = nn.relu(BatchNorm(dtype=x.dtype, name=f"norm_{i}")(x, train, present))
        return x
