"""Concatenation: one head on the joined features, one cross-entropy.  The standard baseline.

    logits = W [z_1; ...; z_M] + b,   L = CE(logits, y)

Each modality is also scored on its own by splitting the head, as the MLA code does for its Table 1
(``main.py:282-302``, quirk Q41): ``W[:, block m] z_m + b / M``.  The split logits are not used in
training, so a poorly trained modality shows as a low unimodal accuracy.
A missing modality contributes zero features.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders, many
from mla_jax.functional.heads import apply_head, block, init_head
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import JointRule, joint_fusion, joint_loss, joint_method, visible
from mla_jax.state import Prediction, rows

FIDELITY: dict[str, dict[str, Any]] = {"paper": {}, "released": {}}
CHOICES: dict[str, tuple] = {}


def rule(switches: Any, encoders: Encoders, task: Task) -> JointRule:
    """The head and the loss, for the methods that build on them."""
    del switches
    modalities, D, M = encoders.modalities, encoders.feature_dim, len(encoders.modalities)

    def init_heads(rng: jax.Array):
        return {"joint": init_head(rng, M * D, task.classes, task.head_init)}

    def classify(heads, features, present, train: bool) -> Prediction:
        del train
        head = heads["joint"]
        if M >= many.MANY:
            z = rows(features, modalities)
            z = jnp.where(present.T[..., None], z, 0)
            bias = jnp.broadcast_to(head["bias"] / M, (M, task.classes))
            blocks = {"kernel": head["kernel"].reshape(M, D, -1), "bias": bias}
            joined = z.swapaxes(0, 1).reshape(-1, M * D)
            return Prediction(jax.vmap(apply_head)(blocks, z), joint=apply_head(head, joined))
        z = visible(features, present, modalities)
        unimodal = [apply_head(block(head, i, M), z[m]) for i, m in enumerate(modalities)]
        joined = jnp.concatenate([z[m] for m in modalities], axis=-1)
        return Prediction(jnp.stack(unimodal), joint=apply_head(head, joined))

    return JointRule(init_heads, classify, joint_loss, joint_fusion)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """Concatenation of any number of modalities, in the order of ``encoders.modalities``."""
    chosen = rule(switches, encoders, task)._replace(stacks=True)
    return joint_method("concat", chosen, encoders, optimizer, task)
