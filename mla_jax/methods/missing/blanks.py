"""The features of a zero input, which stand for a missing modality.

    z_im = enc_m(x_im)  where example i has modality m,   enc_m(0) elsewhere

as published: the encoder runs, and its output for zeros is not zero.  The output is that of
evaluation mode, also in training, and the same for every example: batch statistics are over
examples that have the modality, and zeros would have other features in training than at test.
For encoders without batch statistics the two are the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.methods.joint import Features
from mla_jax.state import Batch, Prediction


def blank_features(
    encoders: Encoders, params: Any, batch_stats: Any, inputs: Mapping[str, jax.Array]
) -> Features:
    """``{modality: [1, D]}`` of zero inputs with the shapes of ``inputs``."""
    blanks = {}
    for m in encoders.modalities:
        nothing = jnp.zeros_like(inputs[m][:1])
        blanks[m], _ = encoders.apply(m, params[m], batch_stats[m], nothing, train=False)
    return blanks


def fill_in(features: Features, present: jax.Array, blanks: Features) -> Features:
    """The features, replaced by the blank ones where ``present: bool[B, M]`` is False.

    ``features``: as ``encoders.features`` returns them, in the order of the modalities.
    """
    return {m: jnp.where(present[:, [i]], features[m], blanks[m]) for i, m in enumerate(features)}


def features_or_blanks(
    encoders: Encoders, params: Any, batch_stats: Any, batch: Batch, train: bool
) -> tuple[Features, Any]:
    """``({modality: [B, D]}, new batch_stats)`` of a batch: ``z`` above."""
    z, stats = encoders.features(params, batch_stats, batch, train)
    blanks = blank_features(encoders, params, batch_stats, batch["inputs"])
    return fill_in(z, batch["present"], blanks), stats


def joined(features: Features, modalities: tuple[str, ...]) -> jax.Array:
    """``[z_1; ...; z_M]``: ``[B, M D]``, in the order of ``modalities``.

    The order of the dictionary is not used, because JAX sorts dictionaries in trees by name.
    """
    return jnp.concatenate([features[m] for m in modalities], axis=-1)


def whole(batch: Batch) -> Batch:
    """The batch as in the data, before masks."""
    return {**batch, **batch.get("whole", {})}


def predict_from_features(
    encoders: Encoders, classify: Callable[[Mapping[str, Any], Features], jax.Array]
) -> Callable[[dict[str, Any], Batch], Prediction]:
    """``Method.predict``: the joint logits, and those of each modality when all others are missing.

    ``classify``: ``(heads, {modality: [N, D]}) -> float32[N, C]``.  It is called separately for the
    joint logits, so that XLA drops the others where they are not used (``Evaluator.subsets``).
    """
    modalities = encoders.modalities

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        params, batch_stats = variables["params"], variables["batch_stats"]
        z, _ = encoders.features(params["encoder"], batch_stats, batch, train=False)
        blanks = blank_features(encoders, params["encoder"], batch_stats, batch["inputs"])
        present = batch["present"]
        joint = classify(params["head"], fill_in(z, present, blanks))
        only = [present & (jnp.arange(len(modalities)) == i) for i in range(len(modalities))]
        looks = [fill_in(z, seen, blanks) for seen in only]
        stacked = {m: jnp.concatenate([look[m] for look in looks]) for m in modalities}
        unimodal = classify(params["head"], stacked).reshape(len(modalities), *joint.shape)
        return Prediction(unimodal, joint=joint)

    return predict
