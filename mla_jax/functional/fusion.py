"""Test-time fusion rules: the weight of each modality's logits for each example.

Every rule maps ``logits: float[M, B, C]`` and ``present: bool[B, M]`` to weights ``float32[B, M]``.
A missing modality has weight 0 exactly, and an example without any modality has only zeros.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mla_jax.errors import UserError
from mla_jax.functional.shapes import check_axes

Weights = Callable[[jax.Array, jax.Array], jax.Array]


SAFE_EXPONENT = 80.0
"""The sum of a thousand exponentials of this is finite in float32."""


def combine(weights: jax.Array, logits: jax.Array) -> jax.Array:
    """Fused logits ``float32[B, C]``: the weighted sum over modalities of ``logits: [M, B, C]``.

    A modality of weight 0 contributes nothing, even if its logits are not finite.

    >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 4.0]]])  # two modalities, one example
    >>> mla_jax.fusion.combine(jnp.array([[0.75, 0.25]]), logits)
    Array([[1.5, 1. ]], dtype=float32)
    """
    check_axes(weights=(weights, "B M"), logits=(logits, "M B C"))
    weights = weights.T[:, :, None]
    return jnp.where(weights == 0, 0, weights * logits).sum(0)


def entropy(logits: jax.Array) -> jax.Array:
    """Entropy in nats of ``softmax(logits)`` over the last axis; safe for logits of any size.

    >>> mla_jax.fusion.entropy(jnp.array([[0.0, 0.0], [9.0, 0.0]]))  # unsure, sure
    Array([0.693, 0.001], dtype=float32)
    """
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def entropy_weights(logits: jax.Array, present: jax.Array) -> jax.Array:
    """MLA's dynamic fusion (section 3.3): a softmax over modalities of minus the entropy.

    The paper writes ``exp(max_k e_k - e_m)``; the maximum cancels.  Examples are independent.

    >>> logits = jnp.array([[[4.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])  # [M, B, C]
    >>> present = jnp.array([[True, True], [True, False]])  # the second example lacks modality 1
    >>> mla_jax.fusion.entropy_weights(logits, present)
    Array([[0.621, 0.379],
           [1.   , 0.   ]], dtype=float32)
    """
    check_axes(logits=(logits, "M B C"), present=(present, "B M"))
    score = jnp.where(present, -entropy(logits).T, -jnp.inf)
    best = jnp.max(score, axis=1, keepdims=True, initial=-jnp.log(logits.shape[-1]) - 1.0)
    raw = jnp.where(present, jnp.exp(score - best), 0)
    return raw / jnp.where(present.any(1, keepdims=True), raw.sum(1, keepdims=True), 1)


def fixed_weights(weights: Sequence[float]) -> Weights:
    """Constant weights, one per modality; present ones share the weights of missing ones.

    >>> logits = jnp.zeros((2, 2, 3))  # [M, B, C]; only the shape counts
    >>> present = jnp.array([[True, True], [True, False]])  # the second example lacks modality 1
    >>> mla_jax.fusion.fixed_weights((0.55, 0.45))(logits, present)
    Array([[0.55, 0.45],
           [1.  , 0.  ]], dtype=float32)
    """

    def rule(logits: jax.Array, present: jax.Array) -> jax.Array:
        check_axes(logits=(logits, "M B C"), present=(present, "B M"))
        if len(weights) != len(logits):
            raise UserError(
                f"{len(weights)} fusion weights for {len(logits)} modalities: give one to each"
            )
        constant = jnp.asarray(weights, float)
        raw = jnp.where(present, constant, 0)
        kept = raw.sum(1, keepdims=True)
        return raw * jnp.where(kept > 0, constant.sum() / jnp.where(kept > 0, kept, 1), 0)

    return rule


def equal_weights(logits: jax.Array, present: jax.Array) -> jax.Array:
    """The mean over the modalities that are present.

    >>> present = jnp.array([[True, True], [True, False]])
    >>> mla_jax.fusion.equal_weights(jnp.zeros((2, 2, 3)), present)
    Array([[0.5, 0.5],
           [1. , 0. ]], dtype=float32)
    """
    return fixed_weights((1.0 / len(logits),) * len(logits))(logits, present)


def energy_weights(logits: jax.Array, present: jax.Array) -> jax.Array:
    """QMF's confidence (Zhang et al., ICML 2023): a tenth of the negative free energy.

    ``logsumexp(logits) / 10``, which need not sum to 1.  The published code takes the logarithm of
    a plain sum of exponentials, which overflows past 88.

    >>> logits = jnp.array([[[4.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])  # [M, B, C]
    >>> present = jnp.array([[True, True], [True, False]])  # the second example lacks modality 1
    >>> mla_jax.fusion.energy_weights(logits, present)
    Array([[0.402, 0.131],
           [0.402, 0.   ]], dtype=float32)
    """
    check_axes(logits=(logits, "M B C"), present=(present, "B M"))
    return jnp.where(present, jax.nn.logsumexp(logits, axis=-1).T / 10, 0)


def certainty_weights(temperature: float) -> Weights:
    """DI-MML's weights: a softmax over predictions of their highest class probability.

    >>> logits = jnp.array([[[4.0, 0.0], [4.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])  # [M, B, C]
    >>> present = jnp.array([[True, True], [True, False]])  # the second example lacks modality 1
    >>> mla_jax.fusion.certainty_weights(1.0)(logits, present)
    Array([[0.562, 0.438],
           [1.   , 0.   ]], dtype=float32)
    >>> mla_jax.fusion.certainty_weights(0.1)(logits, present)  # nearly the surest alone
    Array([[0.925, 0.075],
           [1.   , 0.   ]], dtype=float32)
    """

    def rule(logits: jax.Array, present: jax.Array) -> jax.Array:
        check_axes(logits=(logits, "M B C"), present=(present, "B M"))
        certainty = jax.nn.softmax(logits).max(-1).T / temperature
        score = jnp.where(present, certainty, -jnp.inf)
        # Subtracted only if exp would overflow: a shift by 0 changes no bit.
        excess = jnp.maximum(score.max(1, keepdims=True) - SAFE_EXPONENT, 0)
        raw = jnp.exp(score - excess)
        return raw / jnp.where(present.any(1, keepdims=True), raw.sum(1, keepdims=True), 1)

    return rule


def batch_entropy_weights(logits: jax.Array, present: jax.Array) -> jax.Array:
    """The released rule (``main.py:65-106``, Q5 and Q6): one weight per modality and *batch*.

    The softmax runs over the batch axis, so an example's prediction depends on its neighbours, on
    the batch size and on the order of the data.  Like the original, it overflows to NaN when
    the entropies differ by more than 88.7 nats.  It is only for comparison.  Examples without the
    modality, including padding, are left out of its softmax, and a modality that no example of
    the batch has is left out of the weights.

    >>> logits = jnp.array([[[4.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [1.0, 0.0]]])  # [M, B, C]
    >>> present = jnp.ones((2, 2), bool)
    >>> mla_jax.fusion.batch_entropy_weights(logits, present)
    Array([[0.77, 0.23],
           [0.77, 0.23]], dtype=float32)
    >>> mla_jax.fusion.batch_entropy_weights(logits[:, :1], present[:1])  # the first one alone
    Array([[0.5, 0.5]], dtype=float32)
    """
    check_axes(logits=(logits, "M B C"), present=(present, "B M"))
    mask = present.T[:, :, None]
    q = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=1)
    entropies = -jnp.where(mask, q * jnp.log(q), 0).sum((1, 2))
    occurs = present.any(0)
    highest = jnp.max(jnp.where(occurs, entropies, -jnp.inf))
    raw = jnp.where(occurs, jnp.exp(highest - entropies), 0)
    return jnp.where(present, raw / raw.sum(), 0)


RELEASED_FIXED_WEIGHTS = {2: (0.55, 0.45), 3: (0.35, 0.25, 0.40)}
"""``main.py:968`` (quirk Q11) and the defaults of ``--a_alpha --v_alpha --t_alpha``."""
