"""CAV-MAE: transformers for filter banks and for images, pretrained with a shared last block.

Gong et al., 2023; ``models/cav_mae.py`` of the MLA reference.  MLA fine-tunes a copy per modality,
so here each encoder is a plain transformer: the blocks of its modality, then the shared block with
the norms of its modality.  Neither has a class token; the features are the mean over all tokens
after the last norm (``models/basic_model.py:122-125``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mla_jax.encoders import conventions
from mla_jax.encoders.transformer import (
    Size,
    apply_blocks,
    check_size,
    dense,
    patches,
    positions_2d,
    token_init,
)
from mla_jax.errors import UserError


class CAVMAEAudio(nn.Module):
    """Log-mel filter banks ``[B, T, F]`` or ``[B, T, F, 1]`` -> features ``float[B, D]``.

    The patches are in the order of frequency, then time.  CAV-MAE's own size is base with 1024
    frames of 128 bins: 512 tokens and 85,647,360 parameters.  The length is fixed by the
    learnt positions.  Give unnormalised filter banks: a switch normalises them.

    Raises:
      UserError: D is not the width, a switch is unknown, or the input is not made of whole patches.
    """

    feature_dim: int = 768
    size: str = "base"
    convention: str = "pretraining"
    fbank_normalization: str | None = None
    """``audioset`` statistics, or ``none``, as the reference does on IEMOCAP (quirk Q22)."""
    epsilon: float | None = None
    gelu: str | None = None
    differs_from_weights: Sequence[str] = ()
    """Switches in which ``init_from`` may disagree with the weights."""
    remat: bool = False
    """Recompute blocks in the backward pass, to save memory; no effect on CPUs with jax 0.10."""
    dtype: jnp.dtype = jnp.float32
    """The type of the computation; parameters stay float32."""

    @property
    def switches(self) -> Mapping[str, Any]:
        """Every switch with the value it has."""
        names = ("fbank_normalization", "epsilon", "gelu")
        own = {name: getattr(self, name) for name in names}
        return conventions.settle("cavmae_audio", self.convention, own)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        size, switch = check_size("cavmae_audio", self.size, self.feature_dim), self.switches
        if x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,)):
            raise UserError(
                "cavmae_audio takes [batch, time, frequency] or [batch, time, frequency, 1], not "
                f"an input of shape {tuple(x.shape)}"
            )
        mean, deviation = conventions.FBANK_STATISTICS[switch["fbank_normalization"]]
        x = ((x.astype(jnp.float32) - mean) / deviation).astype(self.dtype)
        x = x.reshape(x.shape[:3]).swapaxes(1, 2)[..., None]  # frequency becomes the patches' rows
        return _tower(self, patches(x), size, switch)


class CAVMAEVisual(nn.Module):
    """Images ``[B, H, W, 3]`` or frames ``[B, T, H, W, 3]`` -> features ``float[B, D]``.

    CAV-MAE's own size is base with 224x224 pixels: 196 tokens and 85,797,888 parameters.  The
    positions are learnt, so the image size is fixed.  The features of frames are averaged.
    ``uint8`` is normalised here, floats must be normalised already.  Else as ``CAVMAEAudio``.
    """

    feature_dim: int = 768
    size: str = "base"
    convention: str = "pretraining"
    image_normalization: str | None = None
    epsilon: float | None = None
    gelu: str | None = None
    differs_from_weights: Sequence[str] = ()
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def switches(self) -> Mapping[str, Any]:
        """Every switch with the value it has."""
        names = ("image_normalization", "epsilon", "gelu")
        own = {name: getattr(self, name) for name in names}
        return conventions.settle("cavmae_visual", self.convention, own)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        size, switch = check_size("cavmae_visual", self.size, self.feature_dim), self.switches
        if x.ndim not in (4, 5) or x.shape[-1] != 3:
            raise UserError(
                "cavmae_visual takes [batch, height, width, 3] or [batch, frame, height, width, 3],"
                f" not an input of shape {tuple(x.shape)}"
            )
        batch = x.shape[0]
        x = x.reshape(-1, *x.shape[-3:])
        x = conventions.normalize_image(x, switch["image_normalization"], self.dtype)
        features = _tower(self, patches(x), size, switch)
        return features.reshape(batch, -1, size.width).mean(1)


def _tower(
    module: CAVMAEAudio | CAVMAEVisual, x: jax.Array, size: Size, switch: Mapping[str, Any]
) -> jax.Array:
    """Patches ``[B, rows, columns, P]`` -> ``[B, D]``, with the parameters of ``module``.

    The patch embedding is a linear layer, where the reference has a convolution with a stride of
    one patch: the same sums, with a plain matrix product for the gradient too.
    """
    batch, rows, columns, pixels = x.shape
    x = dense(size.width, module.dtype, "patch_embedding")(x.reshape(batch, -1, pixels))

    def grid(rng: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        del rng
        return jnp.asarray(positions_2d(rows, columns, size.width, float), dtype).reshape(shape)

    tokens = rows * columns
    position = module.param("position_embedding", grid, (1, tokens, size.width), jnp.float32)
    kind = module.param("modality_embedding", token_init, (1, 1, size.width), jnp.float32)
    x = x + (position + kind).astype(x.dtype)
    x = apply_blocks(x, None, size, switch["epsilon"], switch["gelu"], module.remat, module.dtype)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(1)
