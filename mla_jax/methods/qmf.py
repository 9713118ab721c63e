"""QMF: quality-aware multimodal fusion (Zhang et al., ICML 2023).

Each modality has its own head and is weighted by its confidence, the energy of its logits o_m:

    c_m = logsumexp(o_m) / 10,    o = sum_m stop_gradient(c_m) o_m
    L   = CE(o, y) + sum_m CE(o_m, y) + lambda sum_m R_m

R_m ranks the confidences of neighbouring examples against their training history: an example whose
losses so far add up to more must be less confident (``losses.confidence_ranking``).  The
history, a sum of losses per modality and training example, is this method's state.  It is updated
before the ranking loss of the same batch and scaled to [0, 1] over the whole training set, where
examples not yet seen count 0 (``History`` in the QMF and MLA code).

The same confidences weight the logits at test time.  A missing modality has weight 0, adds no loss
and leaves its history unchanged.  Any number of modalities.

Two published variants of the loss differ (quirk Q29): ``released`` is the MLA code's audio-video
branch, with lambda = 0.1; ``released_m3ae`` its image-text and trimodal branches, without CE(o, y)
and with lambda = 1.  The QMF repository has CE(o, y) and lambda = 1.  In all of them the margin of
the ranking loss is a tolerance instead of a gap; ``paper`` enforces it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional import fusion
from mla_jax.functional.losses import confidence_ranking, cross_entropy
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods import late_fusion
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import Step, joint_method
from mla_jax.state import Prediction

FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {"fused_loss": True, "ranking_weight": 1.0, "margin": "enforced"},
    "released": {"ranking_weight": 0.1, "margin": "tolerance"},
    "released_m3ae": {"fused_loss": False, "margin": "tolerance"},
}
CHOICES = {"margin": ("enforced", "tolerance")}
LIMITS = {"ranking_weight": (0, math.inf)}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """QMF for any number of modalities."""
    M, N = len(encoders.modalities), task.examples

    def weigh(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        return jax.lax.stop_gradient(fusion.energy_weights(prediction.unimodal, present))

    unimodal = late_fusion.rule(encoders, task, weigh)

    def init_state(rng: jax.Array) -> dict[str, jax.Array]:
        del rng
        return {"history": jnp.zeros((M, N))}

    def next_state(step: Step) -> dict[str, jax.Array]:
        label, present = step.batch["label"], step.batch["present"]
        losses = jax.vmap(cross_entropy, in_axes=(0, None))(step.prediction.unimodal, label)
        losses = jnp.where(present.T, losses, 0)
        return {"history": step.method_state["history"].at[:, step.batch["index"]].add(losses)}

    def loss(step: Step) -> jax.Array:
        batch, present = step.batch, step.batch["present"]
        losses = unimodal.loss(step)
        if switches.fused_loss:
            fused = unimodal.fuse(step.prediction, present, None)
            losses += cross_entropy(fused, batch["label"])
        history = step.method_state["history"]
        low, high = history.min(1, keepdims=True), history.max(1, keepdims=True)
        badness = (history[:, batch["index"]] - low) / jnp.maximum(high - low, 1e-12)
        confidence = fusion.energy_weights(step.prediction.unimodal, present).T
        for m in range(M):
            losses += switches.ranking_weight * confidence_ranking(
                confidence[m],
                badness[m],
                present[:, m],
                switches.margin == "enforced",
                batch["valid"],
            )
        return losses

    rule = unimodal._replace(loss=loss, init_state=init_state, next_state=next_state, stacks=True)
    return joint_method("qmf", rule, encoders, optimizer, task)
