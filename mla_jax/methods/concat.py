"""Concatenation: one head on the joined features, one cross-entropy.  The field's baseline.

    logits = W [z_1; ...; z_M] + b,   L = CE(logits, y)

Each modality is also scored on its own by splitting the head, as the MLA code does for its Table 1
(``main.py:282-302``, quirk Q41): ``W[:, block m] z_m + b / M``.  The split logits take no part in
training, so a starved modality shows as a low unimodal accuracy.
A missing modality contributes zero features.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.heads import apply_head, init_head
from mla_jax.losses import cross_entropy
from mla_jax.methods.base import Method, Problem
from mla_jax.methods.joint import JointRule, joint_method
from mla_jax.optim import Optimizer
from mla_jax.state import Prediction

FIDELITY: dict[str, dict[str, Any]] = {"paper": {}, "released": {}}
CHOICES: dict[str, tuple] = {}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, problem: Problem) -> Method:
    """Concatenation of any number of modalities, in the order of ``encoders.modalities``."""
    del switches
    modalities, D, M = encoders.modalities, encoders.feature_dim, len(encoders.modalities)

    def classify(heads, features, present) -> Prediction:
        head = heads["joint"]
        z = [jnp.where(present[:, [i]], features[m], 0) for i, m in enumerate(modalities)]
        unimodal = [
            apply_head({"kernel": head["kernel"][i * D : (i + 1) * D], "bias": head["bias"] / M}, x)
            for i, x in enumerate(z)
        ]
        return Prediction(jnp.stack(unimodal), joint=apply_head(head, jnp.concatenate(z, axis=-1)))

    def loss(prediction: Prediction, label: jax.Array, present: jax.Array) -> jax.Array:
        del present
        return cross_entropy(prediction.joint, label)

    rule = JointRule(
        init_heads=lambda rng: {"joint": init_head(rng, M * D, problem.classes)},
        classify=classify,
        loss=loss,
        fuse=lambda prediction, present, method_state: prediction.joint,
    )
    return joint_method("concat", rule, encoders, optimizer, problem)
