"""Late fusion: separate heads, a sum of separate losses, logits averaged at test time.

    L = sum_m CE(W_m z_m + b_m, y),   fused logits = mean_m (W_m z_m + b_m)

No parameter is shared, so this is M unimodal models trained side by side at equal compute: the
control that any claim about balanced training has to beat.  It is what the MLA paper's Table 3
shows in its column without gradient modification and without dynamic fusion; the MLA repository
holds no code for it (quirk Q41).
"""

from typing import Any

import jax

from mla_jax.encoders import Encoders, many
from mla_jax.functional import fusion
from mla_jax.functional.heads import Head, apply_head, init_head
from mla_jax.functional.losses import unimodal_cross_entropy
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task, Weigh, weighted_sum
from mla_jax.methods.joint import JointRule, Step, joint_method
from mla_jax.state import Prediction

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"fusion": "equal"}, "released": {}}
CHOICES = {"fusion": ("equal", "entropy")}

RULES = {"equal": fusion.equal_weights, "entropy": fusion.entropy_weights}


def rule(encoders: Encoders, task: Task, weigh: Weigh) -> JointRule:
    """A head and a loss for each modality, for the methods that build on them."""
    modalities, D = encoders.modalities, encoders.feature_dim

    def init_heads(rng: jax.Array):
        def start(key: jax.Array) -> Head:
            return init_head(key, D, task.classes, task.head_init)

        return many.by_name(start, modalities, encoders.keys(rng))

    def classify(heads, features, present, train: bool) -> Prediction:
        del present, train
        return Prediction(many.each(apply_head, modalities, heads, features))

    def loss(step: Step) -> jax.Array:
        batch = step.batch
        present, valid = batch["present"], batch["valid"]
        return unimodal_cross_entropy(step.prediction.unimodal, batch["label"], present, valid)

    return JointRule(init_heads, classify, loss, weighted_sum(weigh), weigh=weigh)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """Late fusion of any number of modalities; with one modality, plain unimodal training."""

    def weigh(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        return RULES[switches.fusion](prediction.unimodal, present)

    chosen = rule(encoders, task, weigh)._replace(stacks=True)
    return joint_method("late_fusion", chosen, encoders, optimizer, task)
