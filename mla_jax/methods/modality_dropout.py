"""Modality dropout: joint training that hides modalities at random (Neverova et al., TPAMI 2016).

    keep_im ~ Bernoulli(1 - rate), at least one kept for each example i
    logits = W [keep_i1 z_i1; ...; keep_iM z_iM] + b,   L = CE(logits, y)

This is the simplest remedy for modality laziness, and the control for more complex ones: a head
that sometimes lacks the dominant modality must use the others.  Hidden features are zero,
as for a missing modality in ``concat``, whose head, prediction and fusion it uses.  Nothing
is hidden at test time and nothing is rescaled.  If all modalities of an example would be hidden,
all are kept.  What is hidden depends on the run's seed, the step and the example's place in the
global batch, but not on the number of processes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods import concat
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import joint_method
from mla_jax.state import Batch

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"rate": 0.5}, "released": {}}
CHOICES: dict[str, tuple] = {}
LIMITS = {"rate": (0, 1)}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """Modality dropout for any number of modalities; with one it never hides anything."""
    if switches.rate == 1:
        raise UserError(f"method.rate must be at least 0 and less than 1, not {switches.rate}")

    def init_state(rng: jax.Array) -> dict[str, jax.Array]:
        return {"hide": jax.random.key_data(rng)}

    def show(batch: Batch, info: StepInfo, method_state: Any) -> jax.Array:
        present = batch["present"]
        key = jax.random.wrap_key_data(method_state["hide"])
        epoch = jnp.asarray(info.epoch)
        key = jax.random.fold_in(key, epoch * info.batches_per_epoch + info.batch_index)
        kept = present & jax.random.bernoulli(key, 1 - switches.rate, present.shape)
        return jnp.where(kept.any(1, keepdims=True), kept, present)

    rule = concat.rule(switches, encoders, task)
    rule = rule._replace(init_state=init_state, show=show, stacks=True)
    return joint_method("modality_dropout", rule, encoders, optimizer, task)
