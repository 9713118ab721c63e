"""Which feature dimensions of a modality separate the classes by themselves (DI-MML).

    mu_cd   = mean of z_id over the training examples i of class c
    rho_d   = share of training examples whose nearest centroid along dimension d is their own
    effective = {d: rho_d > mean over d of rho_d}              (``main_CFT.py``, ``get_indices``)

This takes two passes over the training set, in evaluation mode, and stores no table of features.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.methods.base import Accumulate, ReduceTraining
from mla_jax.state import Batch


def effective_dimensions(
    encoders: Encoders, classes: int
) -> Callable[[dict[str, Any], ReduceTraining], jax.Array]:
    """``(variables, reduce_training) -> bool[M, D]``: effective over the training set."""
    M, D = len(encoders.modalities), encoders.feature_dim
    sum_up, count_hits = class_sums(encoders), own_centroid_hits(encoders)

    def find(variables: dict[str, Any], reduce_training: ReduceTraining) -> jax.Array:
        nothing = jnp.zeros((M, classes, D)), jnp.zeros((M, classes))
        total, count = reduce_training(sum_up, variables, nothing)
        centroids = total / count[..., None]  # NaN for a class without examples, so never nearest
        _, hits = reduce_training(count_hits, variables, (centroids, jnp.zeros((M, D))))
        return hits > hits.mean(1, keepdims=True)

    return find


def class_sums(encoders: Encoders) -> Accumulate:
    """Adds a batch to ``(sum of features [M, C, D], examples [M, C])``."""

    def accumulate(variables: dict[str, Any], carry: Any, batch: Batch) -> Any:
        total, count = carry
        z = _features(encoders, variables, batch)
        one_hot = jax.nn.one_hot(batch["label"], total.shape[1])
        mine = one_hot[None] * _seen(batch)[..., None]
        total = total + jnp.einsum(
            "mbc,mbd->mcd", mine, jnp.where(_seen(batch)[..., None], z, 0),
            precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip
        return total, count + mine.sum(1)

    return accumulate


def own_centroid_hits(encoders: Encoders) -> Accumulate:
    """Adds a batch to ``(centroids [M, C, D], hits [M, D])``; ties go to the smallest class."""

    def accumulate(variables: dict[str, Any], carry: Any, batch: Batch) -> Any:
        centroids, hits = carry
        z = _features(encoders, variables, batch)
        distance = jnp.abs(z[:, :, None] - centroids[:, None])  # [M, B, C, D]
        nearest = jnp.where(jnp.isnan(distance), jnp.inf, distance).argmin(2)
        hit = (nearest == batch["label"][None, :, None]) & _seen(batch)[..., None]
        return centroids, hits + hit.sum(1)

    return accumulate


def _features(encoders: Encoders, variables: dict[str, Any], batch: Batch) -> jax.Array:
    params, batch_stats = variables["params"]["encoder"], variables["batch_stats"]
    z, _ = encoders.features(params, batch_stats, batch, train=False)
    return jnp.stack([z[m] for m in encoders.modalities])


def _seen(batch: Batch) -> jax.Array:
    return (batch["present"] & batch["valid"][:, None]).T
