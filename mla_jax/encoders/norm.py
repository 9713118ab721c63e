"""Batch normalisation that keeps PyTorch's numbers."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, statistics in float32.

    Differs from ``flax.linen.BatchNorm`` in two ways that matter for parity with PyTorch: the
    variance is the two-pass one, and the running variance is unbiased, n / (n - 1) times the
    batch's (``unbiased=False`` gives Flax's).  ``momentum`` is PyTorch's: the weight of the new
    batch.  Under a sharded batch the statistics are those of the global batch.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    unbiased: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        if train:
            exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            axes = tuple(range(x.ndim - 1))
            mean = exact.mean(axes)
            var = jnp.square(exact - mean).mean(axes)
            if not self.is_initializing():
                count = x.size // features
                kept = var * (count / max(count - 1, 1)) if self.unbiased else var
                blend = lambda old, new: old + self.momentum * (new - old)  # noqa: E731
                running_mean.value = blend(running_mean.value, mean)
                running_var.value = blend(running_var.value, kept)
        else:
            mean, var = running_mean.value, running_var.value
        multiplier = scale * jax.lax.rsqrt(var + self.epsilon)
        return ((x.astype(mean.dtype) - mean) * multiplier + bias).astype(self.dtype)
