"""Late fusion: separate heads, a sum of separate losses, logits averaged at test time.

    L = sum_m CE(W_m z_m + b_m, y),   fused logits = mean_m (W_m z_m + b_m)

No parameter is shared, so this is M unimodal models trained side by side at equal compute: the
control that any claim about balanced training has to beat.  It is what the MLA paper's Table 3
shows in its column without gradient modification and without dynamic fusion; the MLA repository
holds no code for it (quirk Q41).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax import fusion
from mla_jax.encoders import Encoders
from mla_jax.heads import apply_head, init_head
from mla_jax.losses import unimodal_cross_entropy
from mla_jax.methods.base import Method, Problem
from mla_jax.methods.joint import JointRule, Step, joint_method
from mla_jax.optim import Optimizer
from mla_jax.state import Prediction

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"fusion": "equal"}, "released": {}}
CHOICES = {"fusion": ("equal", "entropy")}

Fuse = Callable[[Prediction, jax.Array, Any], jax.Array]
RULES = {"equal": fusion.equal_weights, "entropy": fusion.entropy_weights}


def rule(encoders: Encoders, problem: Problem, fuse: Fuse) -> JointRule:
    """A head and a loss for each modality, for the methods that build on them."""
    modalities, D = encoders.modalities, encoders.feature_dim

    def init_heads(rng: jax.Array):
        return {m: init_head(encoders.key(rng, m), D, problem.classes) for m in modalities}

    def classify(heads, features, present, train: bool) -> Prediction:
        del present, train
        return Prediction(jnp.stack([apply_head(heads[m], features[m]) for m in modalities]))

    def loss(step: Step) -> jax.Array:
        batch = step.batch
        return unimodal_cross_entropy(step.prediction.unimodal, batch["label"], batch["present"])

    return JointRule(init_heads, classify, loss, fuse)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, problem: Problem) -> Method:
    """Late fusion of any number of modalities; with one modality, plain unimodal training."""

    def fuse(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        weights = RULES[switches.fusion](prediction.unimodal, present)
        return fusion.combine(weights, prediction.unimodal)

    chosen = rule(encoders, problem, fuse)
    return joint_method("late_fusion", chosen, encoders, optimizer, problem)
