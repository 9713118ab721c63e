"""Losses over a batch in which some modalities may be missing."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy in nats of ``logits: float[B, C]`` against ``label: int[B]``, as ``[B]``."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the batch axis of ``values: [B, ...]`` where ``mask: bool[B]``; 0 if none is."""
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
    return jnp.where(mask, values, 0).sum(0) / jnp.maximum(mask.sum(), 1)


def accuracy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of the masked examples whose largest logit is the label's."""
    return masked_mean((logits.argmax(-1) == label).astype(jnp.float32), mask)
