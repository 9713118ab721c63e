"""Linear classification heads as plain parameter dictionaries, in float32."""

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST

Head = dict[str, jax.Array]
"""``{"kernel": float32[D, C], "bias": float32[C]}``."""


def init_head(rng: jax.Array, features: int, classes: int) -> Head:
    """A linear layer ``D -> C``: Xavier-normal kernel, zero bias.

    The initialisation of the reference's ``weight_init`` (``utils/utils.py:106``).
    """
    kernel = jax.nn.initializers.xavier_normal()(rng, (features, classes), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((classes,), jnp.float32)}


def apply_head(head: Head, features: jax.Array) -> jax.Array:
    """Logits ``float32[B, C]`` of ``features: float[B, D]``.

    Products in the head's own precision, because its gradient is what the projection acts on.
    """
    features = features.astype(head["kernel"].dtype)
    return jnp.matmul(features, head["kernel"], precision=HIGHEST) + head["bias"]
