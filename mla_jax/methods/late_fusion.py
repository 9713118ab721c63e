"""Late fusion: separate heads, a sum of separate losses, logits averaged at test time.

    L = sum_m CE(W_m z_m + b_m, y),   fused logits = mean_m (W_m z_m + b_m)

No parameter is shared, so this is M unimodal models trained side by side at equal compute: the
control that any claim about balanced training has to beat.  It is what the MLA paper's Table 3
shows in its column without gradient modification and without dynamic fusion; the MLA repository
holds no code for it (quirk Q41).
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax import fusion
from mla_jax.encoders import Encoders
from mla_jax.heads import apply_head, init_head
from mla_jax.losses import cross_entropy
from mla_jax.methods.base import Method, Problem
from mla_jax.methods.joint import JointRule, joint_method
from mla_jax.optim import Optimizer
from mla_jax.state import Prediction

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"fusion": "equal"}}
CHOICES = {"fusion": ("equal", "entropy")}

RULES = {"equal": fusion.equal_weights, "entropy": fusion.entropy_weights}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, problem: Problem) -> Method:
    """Late fusion of any number of modalities; with one modality, plain unimodal training."""
    modalities, D = encoders.modalities, encoders.feature_dim

    def init_heads(rng: jax.Array):
        return {m: init_head(encoders.key(rng, m), D, problem.classes) for m in modalities}

    def classify(heads, features, present) -> Prediction:
        del present
        return Prediction(jnp.stack([apply_head(heads[m], features[m]) for m in modalities]))

    def loss(prediction: Prediction, label: jax.Array, present: jax.Array) -> jax.Array:
        share = len(label) / jnp.maximum(
            present.sum(0), 1
        )  # so that the mean is over those present
        losses = jax.vmap(cross_entropy, in_axes=(0, None))(prediction.unimodal, label)
        return jnp.where(present, losses.T * share, 0).sum(1)

    def fuse(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        weights = RULES[switches.fusion](prediction.unimodal, present)
        return fusion.combine(weights, prediction.unimodal)

    rule = JointRule(init_heads, classify, loss, fuse)
    return joint_method("late_fusion", rule, encoders, optimizer, problem)
