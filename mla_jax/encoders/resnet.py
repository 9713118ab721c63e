"""ResNet-18 as in the MLA reference, and as in torchvision without its classifier.

He et al., 2016; ``models/backbone.py`` of the reference.  All details on which frameworks differ
follow PyTorch: paddings are explicit (Flax's ``SAME`` pads a strided
convolution on one side only), max-pooling pads with minus infinity, the running variance is
unbiased (``encoders/norm.py``), and kernels start from a Kaiming normal over the fan-out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from mla_jax.encoders.norm import BatchNorm
from mla_jax.encoders.small import neighbours
from mla_jax.errors import UserError

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Standard deviation ``sqrt(2 / (k k C_out))``, not truncated (``utils/utils.py:106-114``)."""


class ResNet18(nn.Module):
    """Images, spectrograms or short clips -> features ``float[B, D]``.

    Takes ``[B, H, W, C]`` or ``[B, T, H, W, C]``; frames share the network and its batch
    statistics, and the features are the mean over frames and positions
    (``models/basic_model.py:52-77``).  A spectrogram is ``[B, time, frequency, 1]``.

    With D = 512 it has 11,170,240 parameters for one input channel and 3,136 more for each further
    one.  A smaller D scales all four stages; tests use it.

    Raises:
      UserError: D is not a multiple of 8, or the input has neither 4 nor 5 axes.
    """

    feature_dim: int = 512
    epsilon: float = 1e-5
    unbiased_variance: bool = True
    """Keep the running variance unbiased, as PyTorch does; False keeps Flax's biased one."""
    dtype: jnp.dtype = jnp.float32
    """The type of the computation; parameters and statistics stay float32."""
    axis_name: str | None = None
    """The axis of batch normalisation: see ``encoders/norm.py``."""
    compiled_for: str | None = None
    """The platform, as ``cpu``; None: the default backend."""

    wide_convolutions: ClassVar[bool] = True
    """See ``backend.compiling.options_for``."""

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, present: jax.Array | None = None
    ) -> jax.Array:
        if self.feature_dim % 8:
            raise UserError(f"resnet18 needs a feature_dim divisible by 8, not {self.feature_dim}")
        if x.ndim not in (4, 5):
            raise UserError(
                f"resnet18 takes [batch, height, width, channel] or [batch, frame, height, width, "
                f"channel], not an input of shape {tuple(x.shape)}"
            )
        batch = x.shape[0]
        x = x.reshape((-1, *x.shape[-3:])).astype(self.dtype)
        mask = None if present is None else jnp.repeat(present, x.shape[0] // batch)
        norm: dict[str, Any] = {"epsilon": self.epsilon, "unbiased": self.unbiased_variance}
        norm["axis_name"] = self.axis_name
        platform = self.compiled_for or jax.default_backend()
        convolve = avoiding_small_maps if platform == "cpu" else jax.lax.conv_general_dilated
        x = convolution(self.feature_dim // 8, 7, 2, self.dtype, "conv1", convolve)(x)
        x = nn.relu(BatchNorm(**norm, dtype=self.dtype, name="bn1")(x, train, mask))
        x = max_pool(x)
        for stage in range(1, 5):
            width = self.feature_dim >> (4 - stage)
            for block in range(2):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"layer{stage}_{block}"
                x = BasicBlock(width, stride, norm, convolve, self.dtype, name=name)(x, train, mask)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # for the mean over many values
        return x.reshape((batch, -1, x.shape[-1])).mean(1)


class BasicBlock(nn.Module):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))`` on ``[N, H, W, C]``.

    The shortcut is a strided 1x1 convolution with batch normalisation if the shape changes,
    else the identity.
    """

    width: int
    stride: int
    norm: dict
    """Settings of every batch normalisation."""
    convolve: Callable[..., jax.Array]
    """``jax.lax.conv_general_dilated``, or what computes the same."""
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        def normalized(y, name):
            return BatchNorm(**self.norm, dtype=self.dtype, name=name)(y, train, mask)

        def convolved(y, size, stride, name):
            return convolution(self.width, size, stride, self.dtype, name, self.convolve)(y)

        y = nn.relu(normalized(convolved(x, 3, self.stride, "conv1"), "bn1"))
        y = normalized(convolved(y, 3, 1, "conv2"), "bn2")
        if self.stride != 1 or x.shape[-1] != self.width:
            x = normalized(convolved(x, 1, self.stride, "proj"), "proj_bn")
        return nn.relu(y + x)


def convolution(
    width: int,
    size: int,
    stride: int,
    dtype: jnp.dtype,
    name: str,
    convolve: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
) -> nn.Conv:
    """A square convolution without bias, padded by ``size // 2`` on every side."""
    pad = (size // 2, size // 2)
    return nn.Conv(
        width,
        (size, size),
        strides=(stride, stride),
        padding=(pad, pad),
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal,
        conv_general_dilated=convolve,
        name=name,
    )


def avoiding_small_maps(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """``jax.lax.conv_general_dilated`` for CPUs: ``x: [N, H, W, C]``, ``kernel: [h, w, C, D]``.

    Where a map has fewer positions than the kernel, XLA swaps the two, and a CPU then takes 20 to
    60 times as long: it has fast code for the usual form only.  So small maps are extended by
    zeros, and the result is cut.  Without the barriers XLA would take the zeros out again.
    """
    sizes, window = x.shape[1:-1], kernel.shape[:-2]

    def positions(sizes: Sequence[int]) -> list[int]:
        padded = zip(sizes, padding, window, strides, strict=True)
        return [(size + sum(pad) - w) // stride + 1 for size, pad, w, stride in padded]

    # The gradient in x is a convolution of maps of the size of the result.
    if min(math.prod(sizes), math.prod(positions(sizes))) >= math.prod(window):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    larger = [max(n, s * (w - 1) + 1) for n, w, s in zip(sizes, window, strides, strict=True)]
    growth = [(0, b - a) for a, b in zip(sizes, larger, strict=True)]
    extended = jnp.pad(x, [(0, 0), *growth, (0, 0)])
    barrier = jax.lax.optimization_barrier
    y = barrier(
        jax.lax.conv_general_dilated(barrier(extended), kernel, strides, padding, **options)
    )
    return y[:, *(slice(n) for n in positions(sizes))]


def max_pool(x: jax.Array) -> jax.Array:
    """Max-pooling over 3 x 3, with stride 2 and a border of 1, on ``[N, H, W, C]``.

    The values are those of ``nn.max_pool``.  The gradient goes to the same place in each window,
    the first of its maxima by rows.  ``nn.max_pool`` is a reduce-window, whose gradient is a
    scatter: on a CPU both together take ten times as long.
    """
    return _halved(_halved(x, 2), 1)


def _halved(x: jax.Array, axis: int) -> jax.Array:
    """The maximum of elements ``2i - 1, 2i, 2i + 1`` for every i, along one axis."""
    lowest = jnp.array(-jnp.inf, x.dtype)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (0, x.shape[axis] % 2, 0)
    even, odd = neighbours(jax.lax.pad(x, lowest, padding), axis)
    padding[axis] = (1, -1, 0)
    before = jax.lax.pad(odd, lowest, padding)
    return _first_of(_first_of(before, even), odd)


def _first_of(a: jax.Array, b: jax.Array) -> jax.Array:
    """The larger of two, a if they are equal; NaN if one is NaN (NaN differs from itself)."""
    return jnp.where((a >= b) | (a != a), a, b)
