"""FiLM: one modality's features scale and shift another's (Perez et al., AAAI 2018).

    (gamma, beta) = W_f z_x + b_f,   logits = W (gamma * z_y + beta) + b,   L = CE(logits, y)

Modality x, the conditioner, is the first one (``x_film=True`` in the fusion modules of the MLA,
OGM-GE and DI-MML code); ``condition_on`` selects another.  With more than two modalities each other
one is modulated by its own generator and the results are added; with one there is nothing to
modulate and this is a plain linear head.  The sources have only two modalities.

A missing modality contributes zero features: without a conditioner only the generator's bias is
left.  A modality's own logits are the joint logits with the features of all others zero; no source
says how FiLM's unimodal accuracies were measured.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.errors import check_choice
from mla_jax.functional.heads import apply_head, init_head
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import (
    JointRule,
    alone_and_together,
    joint_fusion,
    joint_loss,
    joint_method,
)

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"condition_on": ""}, "released": {}}
CHOICES: dict[str, tuple] = {}


def rule(switches: Any, encoders: Encoders, task: Task) -> JointRule:
    """The heads and the loss, for the methods that build on them."""
    modalities, D = encoders.modalities, encoders.feature_dim
    conditioner = switches.condition_on or modalities[0]
    check_choice("modality in method.condition_on", conditioner, modalities)
    others = [m for m in modalities if m != conditioner]

    def init_heads(rng: jax.Array):
        generators = {
            f"film_{m}": init_head(encoders.key(rng, m), D, 2 * D, task.head_init) for m in others
        }
        return {**generators, "joint": init_head(rng, D, task.classes, task.head_init)}

    def joint(heads, z) -> jax.Array:
        if not others:
            return apply_head(heads["joint"], z[conditioner])
        h: Any = 0
        for m in others:
            gamma, beta = jnp.split(apply_head(heads[f"film_{m}"], z[conditioner]), 2, axis=-1)
            h += gamma * z[m] + beta
        return apply_head(heads["joint"], h)

    return JointRule(init_heads, alone_and_together(joint, modalities), joint_loss, joint_fusion)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """FiLM for any number of modalities; ``UserError`` if ``condition_on`` is not one of them."""
    return joint_method("film", rule(switches, encoders, task), encoders, optimizer, task)
