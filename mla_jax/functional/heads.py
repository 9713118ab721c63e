"""Linear layers on features as plain parameter dictionaries, in float32."""

import math

import jax
import jax.numpy as jnp

from mla_jax.functional.shapes import check_axes

HIGHEST = jax.lax.Precision.HIGHEST

Head = dict[str, jax.Array]
"""``{"kernel": float32[D, C], "bias": float32[C]}``."""

INITIALIZATIONS = ("xavier", "xavier_untruncated", "torch")


def init_head(rng: jax.Array, features: int, classes: int, initialization: str = "xavier") -> Head:
    """A linear layer ``D -> C``.

    ``xavier_untruncated``: normal kernel of variance ``2 / (D + C)``, zero bias, the
    ``weight_init`` of the MLA and OGM-GE code (``utils/utils.py:106``).  ``xavier``: the same
    variance, but without values beyond 2.3 standard deviations, as JAX draws it.  ``torch``: kernel
    and bias uniform within ``1 / sqrt(D)``, PyTorch's default, which DI-MML's first stage keeps.

    >>> head = mla_jax.heads.init_head(jax.random.key(0), features=4, classes=3)
    >>> jax.tree.map(jnp.shape, head)
    {'bias': (3,), 'kernel': (4, 3)}
    """
    if initialization == "torch":
        bound = 1 / math.sqrt(features)
        keys = jax.random.split(rng)
        kernel = jax.random.uniform(keys[0], (features, classes), jnp.float32, -bound, bound)
        bias = jax.random.uniform(keys[1], (classes,), jnp.float32, -bound, bound)
        return {"kernel": kernel, "bias": bias}
    truncated = initialization == "xavier"
    draw = jax.nn.initializers.variance_scaling(
        1.0, "fan_avg", "truncated_normal" if truncated else "normal"
    )
    kernel = draw(rng, (features, classes), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((classes,), jnp.float32)}


def apply_head(head: Head, features: jax.Array) -> jax.Array:
    """Logits ``float32[B, C]`` of ``features: float[B, D]``.

    Products have the head's own precision, because the projection acts on its gradient.

    >>> head = {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "bias": jnp.array([0.5, 0.0])}
    >>> mla_jax.heads.apply_head(head, jnp.array([[3.0, 4.0]]))
    Array([[3.5, 8. ]], dtype=float32)
    """
    check_axes(features=(features, "B D"), kernel=(head["kernel"], "D C"), bias=(head["bias"], "C"))
    features = features.astype(head["kernel"].dtype)
    return jnp.matmul(features, head["kernel"], precision=HIGHEST) + head["bias"]


def block(head: Head, position: int, count: int) -> Head:
    """The part of a head on ``count`` concatenated feature vectors that belongs to one of them.

    Its rows of the kernel and ``1 / count`` of the bias, so that the parts' logits add up to the
    head's (``main.py:282-302``, quirk Q41).

    >>> joint = {"kernel": jnp.arange(8.0).reshape(4, 2), "bias": jnp.array([1.0, -1.0])}
    >>> mla_jax.heads.block(joint, position=1, count=2)["kernel"]  # of the second modality
    Array([[4., 5.],
           [6., 7.]], dtype=float32)
    >>> mla_jax.heads.block(joint, position=1, count=2)["bias"]
    Array([ 0.5, -0.5], dtype=float32)
    """
    rows = len(head["kernel"]) // count
    kernel = head["kernel"][position * rows : (position + 1) * rows]
    return {"kernel": kernel, "bias": head["bias"] / count}
