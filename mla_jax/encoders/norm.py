"""Batch normalisation with PyTorch's numerics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, statistics in float32.

    Differs from ``flax.linen.BatchNorm`` in two ways that matter for parity with PyTorch: the
    variance is the two-pass one, and the running variance is unbiased, n / (n - 1) times the
    batch's (``unbiased=False`` gives Flax's).  ``momentum`` is PyTorch's: the weight of the new
    batch.

    ``axis_name``: inside ``jax.shard_map``, the statistics are over the rows of all devices
    along this axis, with one collective in the forward and one in the backward pass; without a name
    they are over the rows given.

    ``mask: bool[N]`` says which rows of ``x: [N, ..., F]`` count, for a batch in which some
    examples lack the modality or are padding.  Mean, variance and their number of values are over
    the rows that count; if none does, the running statistics do not change.  The other rows become
    zeros, so that unnormalised values cannot grow.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    unbiased: bool = True
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        features = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        if train:
            exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            mean_of, count = _means(exact, mask)
            mean = mean_of(exact)
            var = mean_of(jnp.square(exact - mean))
            if self.axis_name:
                mean, var, count = _of_all_devices(mean, var, count, self.axis_name)
            if not self.is_initializing():
                kept = var * (count / jnp.maximum(count - 1, 1)) if self.unbiased else var
                # One value has a mean but no variance; no values have neither.
                for variable, new, needed in ((running_mean, mean, 1), (running_var, kept, 2)):
                    weight = jnp.where(count >= needed, self.momentum, 0)
                    variable.value = variable.value + weight * (new - variable.value)
        else:
            mean, var = running_mean.value, running_var.value
        multiplier = scale * jax.lax.rsqrt(var + self.epsilon)
        y = ((x.astype(mean.dtype) - mean) * multiplier + bias).astype(self.dtype)
        return y if mask is None or not train else jnp.where(_rows(mask, x), y, 0)


def _rows(mask: jax.Array, x: jax.Array) -> jax.Array:
    """``mask: bool[N]`` with the axes of ``x: [N, ..., F]``."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - 1))


def _means(
    x: jax.Array, mask: jax.Array | None
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """``(values like x -> float[F], number of values)``: the mean over the rows of the mask.

    The mean of all rows is rescaled, by exactly 1 if the mask is full, so that a complete batch has
    bit for bit the same result as without a mask.
    """
    axes, size = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    if mask is None:
        return (lambda values: values.mean(axes)), jnp.asarray(size, x.dtype)
    count = mask.sum().astype(x.dtype) * (size // len(x))
    rescale = size / jnp.maximum(count, 1)
    return (lambda values: jnp.where(_rows(mask, x), values, 0).mean(axes) * rescale), count


def _of_all_devices(
    mean: jax.Array, var: jax.Array, count: jax.Array, axis_name: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and number of values over all devices, from those of each device.

    Chan et al. (1983): each device's variance is about its own mean, and the spread of the means
    is added.  So one collective carries mean and variance, and no large numbers are subtracted from
    each other, as with a mean of squares.
    """
    of_each = jnp.concatenate([mean, var, count[None]])
    of_each = jax.lax.all_gather(of_each, axis_name, to="invarying")
    means, variances, counts = jnp.split(of_each, (mean.size, 2 * mean.size), axis=1)
    count = counts.sum()
    share = counts / jnp.maximum(count, 1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + jnp.square(means - mean))).sum(0), count
