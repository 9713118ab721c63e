"""Fills missing entries of the correlation methods with the mean of the observed ones.

    fill_m = mean of x_im over the training examples i that have modality m

GCNet's baselines take the mean over training, validation and test examples together
(``padmeanV1`` of ``baseline-cca/util.py``); here it is over the training examples only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.methods.base import ReduceTraining
from mla_jax.state import Batch

Vectors = Callable[[dict[str, Any], Batch], dict[str, jax.Array]]
"""``(variables, batch) -> {modality: float[B, ...]}``: the values whose means are taken."""
FindMeans = Callable[[dict[str, Any], ReduceTraining], dict[str, np.ndarray]]
"""``(variables, reduce_training) -> {modality: float32[...]}``."""


def where_shown(shown: jax.Array, x: jax.Array, otherwise: Any) -> jax.Array:
    """``x: [B, ...]`` where ``shown: bool[B]``, ``otherwise`` for the other examples."""
    return jnp.where(shown.reshape(-1, *[1] * (x.ndim - 1)), x, otherwise)


def observed(batch: Batch) -> jax.Array:
    """``bool[M, B]``: which entries are present."""
    return (batch["present"] & batch["valid"][:, None]).T


def observed_means(modalities: Sequence[str], vectors: Vectors) -> FindMeans:
    """Finds the means over the training set; zeros for a modality that no example has."""

    def accumulate(variables: dict[str, Any], carry: Any, batch: Batch) -> Any:
        total, count = carry
        x, seen = vectors(variables, batch), observed(batch)
        total = {
            m: total[m] + where_shown(seen[i], x[m], 0).sum(0) for i, m in enumerate(modalities)
        }
        return total, count + seen.sum(1)

    def find(variables: dict[str, Any], reduce_training: ReduceTraining) -> dict[str, np.ndarray]:
        fill = variables["params"]["head"]["fill"]
        nothing = {m: jnp.zeros(fill[m].shape) for m in modalities}, jnp.zeros(len(modalities), int)
        total, count = jax.device_get(reduce_training(accumulate, variables, nothing))
        return {m: total[m] / max(count[i], 1) for i, m in enumerate(modalities)}

    return find
