"""Sum: one linear layer per modality, their outputs added, one cross-entropy.

    logits = sum_m (W_m z_m + b_m),   L = CE(logits, y)

A head on the concatenation, with its kernel cut into blocks, is the same model.  They differ in the
initialisation (fan-in D, not M D), and here the bias is learnt M times over (``SumFusion`` of the
MLA and OGM-GE code).  Any number of modalities.  A missing one contributes zero features.

``unimodal_bias`` sets how each modality is scored on its own: ``full``, ``W_m z_m + b_m`` always;
``shared_in_evaluation``, as published, the same in training but ``b_m / M`` in evaluation
(``main.py:292-295`` and ``610-614``).  It does not affect training, unless a method that builds on
this one reads the scores (OGM).
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional.heads import apply_head, init_head
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import JointRule, joint_fusion, joint_loss, joint_method, visible
from mla_jax.state import Prediction

FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {"unimodal_bias": "full"},
    "released": {"unimodal_bias": "shared_in_evaluation"},
}
CHOICES = {"unimodal_bias": ("full", "shared_in_evaluation")}


def rule(switches: Any, encoders: Encoders, task: Task) -> JointRule:
    """The heads and the loss, for the methods that build on them."""
    modalities, D, M = encoders.modalities, encoders.feature_dim, len(encoders.modalities)

    def init_heads(rng: jax.Array):
        shape = (D, task.classes, task.head_init)
        return {m: init_head(encoders.key(rng, m), *shape) for m in modalities}

    def classify(heads, features, present, train: bool) -> Prediction:
        z = visible(features, present, modalities)
        parts = jnp.stack([apply_head(heads[m], z[m]) for m in modalities])
        unimodal = parts
        if switches.unimodal_bias == "shared_in_evaluation" and not train:
            bias = jnp.stack([heads[m]["bias"] for m in modalities])[:, None]
            unimodal = parts - bias * (1 - 1 / M)
        return Prediction(unimodal, joint=parts.sum(0))

    return JointRule(init_heads, classify, joint_loss, joint_fusion)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """The sum for any number of modalities."""
    return joint_method("sum", rule(switches, encoders, task), encoders, optimizer, task)
