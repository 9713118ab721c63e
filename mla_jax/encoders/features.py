"""Precomputed embeddings, from CLIP or any other model, instead of raw input."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mla_jax.encoders.transformer import dense
from mla_jax.errors import UserError, check_choice


class Features(nn.Module):
    """Vectors ``[B, F]``, or the mean over T of ``[B, T, F]``, -> features ``[B, D]``.

    ``projection="none"`` passes them on, which needs F = D and leaves only the head to train:
    with D = 512 it is the reference's CLIP classifier (``CLIPClassifier`` in
    ``models/basic_model.py``), whose files hold ``[1, 512]`` per example.  ``linear`` is one layer.

    Raises:
      UserError: F is not D without projection, or the input has neither 2 nor 3 axes.
    """

    feature_dim: int = 512
    projection: str = "none"
    dtype: jnp.dtype = jnp.float32
    """The type of the linear layer; without one the vectors keep full precision."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        check_choice("projection of encoder 'features'", self.projection, ("none", "linear"))
        if x.ndim not in (2, 3):
            raise UserError(
                "encoder 'features' takes [batch, feature] or [batch, time, feature], not an input "
                f"of shape {tuple(x.shape)}"
            )
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x.mean(1) if x.ndim == 3 else x
        if self.projection == "linear":
            return dense(self.feature_dim, self.dtype, "projection")(x)
        if x.shape[-1] != self.feature_dim:
            raise UserError(
                f"encoder 'features' got vectors of width {x.shape[-1]} but feature_dim is "
                f"{self.feature_dim}: set feature_dim={x.shape[-1]} or projection=linear"
            )
        return x
