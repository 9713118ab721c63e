"""BiGated: one modality's features gate another's (Kiela et al., AAAI 2018).

    logits = W (sigmoid(U_x z_x + b_x) * (U_y z_y + b_y)) + b,   L = CE(logits, y)

Modality y, the gated one, is the last one (``x_gate=True`` in the fusion modules of the
MLA, OGM-GE and DI-MML code); ``gate`` selects another.  With more than two modalities the gates of
all others are multiplied; with one there is no gate and this is two linear layers.  The sources
have only two modalities.

A missing modality contributes zero features: only the biases then set its gate, or what is gated.
A modality's own logits are the joint logits with the features of all others zero; no
source says how the unimodal accuracies of BiGated were measured.
"""

from typing import Any

import jax

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

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"gate": ""}, "released": {}}
CHOICES: dict[str, tuple] = {}


def rule(switches: Any, encoders: Encoders, task: Task) -> JointRule:
    """The heads and the loss, for the methods that build on them."""
    modalities, D = encoders.modalities, encoders.feature_dim
    gated = switches.gate or modalities[-1]
    check_choice("modality in method.gate", gated, modalities)

    def init_heads(rng: jax.Array):
        layers = {
            f"gate_{m}": init_head(encoders.key(rng, m), D, D, task.head_init) for m in modalities
        }
        return {**layers, "joint": init_head(rng, D, task.classes, task.head_init)}

    def joint(heads, z) -> jax.Array:
        h = apply_head(heads[f"gate_{gated}"], z[gated])
        for m in modalities:
            if m != gated:
                h *= jax.nn.sigmoid(apply_head(heads[f"gate_{m}"], z[m]))
        return apply_head(heads["joint"], h)

    return JointRule(init_heads, alone_and_together(joint, modalities), joint_loss, joint_fusion)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """BiGated fusion for any number of modalities; ``UserError`` if ``gate`` is not one of them."""
    return joint_method("gated", rule(switches, encoders, task), encoders, optimizer, task)
