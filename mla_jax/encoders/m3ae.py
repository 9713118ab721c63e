"""M3AE: one transformer for image patches or for text, here one encoder for each.

Geng et al., 2022; ``models/m3ae.py`` of the MLA reference, which fine-tunes one copy of M3AE per
modality.  Each encoder has only what its modality uses: the reference's copies also contain the
other modality's embedding, which never gets a gradient (quirk Q8).  The reference's forward pass
fails in its stochastic depth (quirk Q13); this is the computation that it intends.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mla_jax.encoders import conventions
from mla_jax.encoders.transformer import (
    apply_blocks,
    check_size,
    dense,
    patches,
    positions_1d,
    positions_2d,
    token_init,
)
from mla_jax.errors import UserError


class M3AEImage(nn.Module):
    """Images -> features ``float[B, D]``: a class token, then 16x16 patches.

    Takes ``[B, H, W, 3]`` or frames ``[B, T, H, W, 3]``, whose features are averaged.  ``uint8`` is
    normalised here; floats must be normalised already, by the statistics of
    ``image_normalization``.  D is the width of ``size``; base has 85,648,128 parameters.

    A switch that is None follows ``convention`` (``conventions.CONVENTIONS``): ``pretraining``, as
    M3AE was trained, or ``released``, as the published MLA code uses it.

    Raises:
      UserError: D is not the width, a switch is unknown, or the input is not whole patches.
    """

    feature_dim: int = 768
    size: str = "base"
    convention: str = "pretraining"
    patch_order: str | None = None
    """The order in a patch: ``row_column_channel`` or ``channel_row_column`` (quirk Q19)."""
    epsilon: float | None = None
    """LayerNorm's epsilon (quirk Q20)."""
    gelu: str | None = None
    """``tanh`` or ``exact`` (quirk Q20)."""
    image_normalization: str | None = None
    """``cc12m`` or ``imagenet`` (quirk Q20)."""
    pool: str | None = None
    """The mean over ``all_tokens`` (here as ``valid_tokens``), or the class token, ``cls``."""
    differs_from_weights: Sequence[str] = ()
    """Switches in which ``init_from`` may disagree with the weights."""
    remat: bool = False
    """Recompute blocks in the backward pass, to save memory; no effect on CPUs with jax 0.10."""
    dtype: jnp.dtype = jnp.float32
    """The type of the computation; parameters stay float32."""

    @property
    def switches(self) -> Mapping[str, Any]:
        """Every switch with the value it has."""
        names = ("patch_order", "epsilon", "gelu", "image_normalization", "pool")
        own = {name: getattr(self, name) for name in names}
        return conventions.settle("m3ae_image", self.convention, own)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        size, switch = check_size("m3ae_image", self.size, self.feature_dim), self.switches
        if x.ndim not in (4, 5) or x.shape[-1] != 3:
            raise UserError(
                "m3ae_image takes [batch, height, width, 3] or [batch, frame, height, width, 3], "
                f"not an input of shape {tuple(x.shape)}"
            )
        batch = x.shape[0]
        x = x.reshape(-1, *x.shape[-3:])
        x = conventions.normalize_image(x, switch["image_normalization"], self.dtype)
        x = patches(x, switch["patch_order"])
        rows, columns = x.shape[1:3]
        x = dense(size.width, self.dtype, "image_embedding")(
            x.reshape(x.shape[0], rows * columns, -1)
        )
        x = x + positions_2d(rows, columns, size.width).astype(self.dtype)
        x = _with_tokens(self, x)
        x = apply_blocks(x, None, size, switch["epsilon"], switch["gelu"], self.remat, self.dtype)
        x = _pooled(x, None, switch["pool"])
        return x.reshape(batch, -1, size.width).mean(1)


class M3AEText(nn.Module):
    """Token ids ``int32[B, L]``, 0 on padding, after a class token -> features ``float[B, D]``.

    D is the width of ``size``; base has 108,498,432 parameters with BERT's vocabulary.  Positions
    are a formula, so texts longer than M3AE's 64 tokens work; ``text_length`` limits them.
    Switches as in ``M3AEImage``.

    Raises:
      UserError: D is not the width, a switch is unknown, or the input is not ids of that length.
    """

    feature_dim: int = 768
    size: str = "base"
    convention: str = "pretraining"
    vocabulary: int = 30522
    text_length: int | None = None
    """The longest text, in tokens: 64 in pretraining, 256 in the published MLA code (Q20)."""
    epsilon: float | None = None
    gelu: str | None = None
    pool: str | None = None
    """The mean over ``all_tokens``, padding included (quirk Q12), over the class token and the
    ``valid_tokens``, or only the class token, ``cls``."""
    empty_text: str | None = None
    """Whether the padding of a missing text is ``masked``, or ``attended`` and
    counted as valid, as in the published MLA code (quirk Q21)."""
    differs_from_weights: Sequence[str] = ()
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def switches(self) -> Mapping[str, Any]:
        """Every switch with the value it has."""
        names = ("text_length", "epsilon", "gelu", "pool", "empty_text")
        own = {name: getattr(self, name) for name in names}
        return conventions.settle("m3ae_text", self.convention, own)

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool = False) -> jax.Array:
        del train
        size, switch = check_size("m3ae_text", self.size, self.feature_dim), self.switches
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise UserError(
                "m3ae_text takes token ids int32[batch, length], not an input of shape "
                f"{tuple(ids.shape)} and type {ids.dtype}"
            )
        length = ids.shape[1]
        if length > switch["text_length"]:
            raise UserError(
                f"m3ae_text takes at most text_length={switch['text_length']} tokens, not {length}:"
                " prepare shorter texts, or raise text_length (and name it in"
                " differs_from_weights)"
            )
        valid = ids > 0
        if switch["empty_text"] == "attended":
            valid = valid | ~valid.any(1, keepdims=True)
        valid = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)  # the class token
        table = nn.Embed(
            self.vocabulary,
            size.width,
            dtype=self.dtype,
            embedding_init=nn.initializers.normal(1.0),
            name="text_embedding",
        )
        x = table(ids) + positions_1d(np.arange(length), size.width).astype(self.dtype)
        x = _with_tokens(self, x)
        x = apply_blocks(x, valid, size, switch["epsilon"], switch["gelu"], self.remat, self.dtype)
        return _pooled(x, valid, switch["pool"])


def _with_tokens(module: nn.Module, x: jax.Array) -> jax.Array:
    """Adds the type embedding to ``[B, N, D]`` and prepends the class token."""
    shape = (1, 1, x.shape[-1])
    kind = module.param("type_embedding", token_init, shape, jnp.float32)
    first = module.param("cls_token", token_init, shape, jnp.float32)
    first = jnp.broadcast_to(first.astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
    return jnp.concatenate([first, x + kind.astype(x.dtype)], axis=1)


def _pooled(x: jax.Array, valid: jax.Array | None, pool: str) -> jax.Array:
    """``[B, 1 + N, D]`` -> ``[B, D]``, in float32 or better; ``valid``: ``bool[B, 1 + N]``."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if pool == "cls":
        return x[:, 0]
    if pool == "all_tokens" or valid is None:
        return x.mean(1)
    weight = valid[..., None].astype(x.dtype)
    return (x * weight).sum(1) / weight.sum(1)
