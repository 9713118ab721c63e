"""The raw vector of a modality, for methods that reconstruct or model an encoder's input.

    x_m = the flattened input, if it is at most 4096 floating-point numbers per example
        = the encoder's features z_m otherwise, without a gradient: tokens, long or integer inputs

The published codes have one feature vector per utterance and modality (512 to 1024 numbers), so the
first case is theirs.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders

LARGEST = 4096
"""The most numbers per example for an input to be used as it is."""

INPUT, FEATURES = "input", "features"


def raw_or_features(encoders: Encoders, example_inputs: Mapping[str, jax.Array]) -> dict[str, str]:
    """``{modality: "input" | "features"}``: what the raw vector is.

    ``example_inputs: {modality: [B, ...]}``; only shapes and types are used.
    """
    kinds = {}
    for modality in encoders.modalities:
        x = example_inputs[modality]
        usable = jnp.issubdtype(x.dtype, jnp.floating) and math.prod(x.shape[1:]) <= LARGEST
        kinds[modality] = INPUT if usable else FEATURES
    return kinds


def raw_widths(encoders: Encoders, example_inputs: Mapping[str, jax.Array]) -> dict[str, int]:
    """``{modality: F_m}``: how many numbers an example's raw vector has."""
    kinds = raw_or_features(encoders, example_inputs)
    return {
        m: math.prod(example_inputs[m].shape[1:]) if kind == INPUT else encoders.feature_dim
        for m, kind in kinds.items()
    }


def raw_vectors(
    encoders: Encoders, variables: Mapping[str, Any], inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """``{modality: float32[B, F_m]}`` of ``inputs: {modality: [B, ...]}``, without a gradient.

    ``variables``: ``{"params", "batch_stats"}``; encoders run in evaluation mode, and only where
    their features are the raw vector.
    """
    kinds = raw_or_features(encoders, inputs)
    found = {}
    for modality, kind in kinds.items():
        x = jnp.asarray(inputs[modality])
        if kind == FEATURES:
            params = variables["params"]["encoder"][modality]
            x, _ = encoders.apply(
                modality, params, variables["batch_stats"][modality], x, train=False
            )
        x = x.reshape(x.shape[0], -1)
        found[modality] = jax.lax.stop_gradient(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    return found
