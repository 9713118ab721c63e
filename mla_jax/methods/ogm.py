"""OGM: on-the-fly gradient modulation of joint training (Peng et al., CVPR 2022).

Joint training as in ``concat`` (or ``sum``), but in each batch the encoder of the modality that is
ahead takes a smaller step.  With s_m the probability of the true class that modality m's own
logits give, averaged over the batch:

    rho_m = s_m / s_other                                       (equation 8)
    k_m   = 1 - tanh(alpha rho_m)  if rho_m > 1,  else 1        (equation 10)
    theta_m <- theta_m - eta k_m g_m                            (equation 11; + noise in ``ogm_ge``)

The heads are never modulated.  ``functional/modulation.py`` holds the optax transformation and the
ratios; for more than two modalities ``ratio=one_to_others`` averages the pairwise ratios, as the
authors suggest, and ``released`` is the chain of the MLA code's three-modality branch.
``tensors`` sets which tensors of an encoder are modulated: all, as in the paper, or the published
four-axis kernels (``main.py:393``), of which M3AE has none (quirk Q28); a run lists them at
its start.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional import modulation
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods import concat, sum
from mla_jax.methods.base import Method, Task
from mla_jax.methods.joint import Step, joint_method

JOINT = {"concat": concat, "sum": sum}

FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "joint": "concat",
        "unimodal_bias": "full",
        "alpha": 0.3,
        "ratio": "one_to_others",
        "tensors": "all",
        "first_epoch": 0,
        "last_epoch": 50,
    },
    "released": {
        "unimodal_bias": "shared_in_evaluation",
        "ratio": "released",
        "tensors": "kernels_4d",
    },
}
"""``alpha`` 0.3 is the MLA code's default; OGM-GE's README takes 0.8 for CREMA-D and 0.1 for
VGGSound.  The epochs, from 0 and both included, are the code's (``main.py:376``).
``unimodal_bias`` is that of ``sum``, for ``joint=sum``."""

CHOICES = {
    "joint": tuple(JOINT),
    "unimodal_bias": sum.CHOICES["unimodal_bias"],
    "ratio": tuple(modulation.RATIOS),
    "tensors": modulation.TENSORS,
}


LIMITS = {
    "alpha": (0, math.inf),
    **dict.fromkeys(("first_epoch", "last_epoch"), (0, 2**31 - 1)),
}


def build(
    switches: Any,
    encoders: Encoders,
    optimizer: Optimizer,
    task: Task,
    name: str = "ogm",
    noise: bool = False,
) -> Method:
    """OGM for any number of modalities; with one there is nothing to balance."""
    if switches.first_epoch > switches.last_epoch:
        raise UserError(
            f"method.first_epoch={switches.first_epoch} must not come after "
            f"method.last_epoch={switches.last_epoch}"
        )
    modalities = encoders.modalities

    def init_state(rng: jax.Array) -> dict[str, jax.Array]:
        return {"noise": jax.random.key_data(rng)} if noise else {}

    def modulate(step: Step) -> dict[str, dict[str, Any]]:
        logits, batch, info = step.prediction.unimodal, step.batch, step.info
        scores = modulation.true_class_scores(logits, batch["label"], batch["present"])
        k = modulation.RATIOS[switches.ratio](scores, switches.alpha)
        epoch = jnp.asarray(info.epoch)
        active = (switches.first_epoch <= epoch) & (epoch <= switches.last_epoch)
        key = jax.random.wrap_key_data(step.method_state["noise"]) if noise else jax.random.key(0)
        key = jax.random.fold_in(key, epoch * info.batches_per_epoch + info.batch_index)
        return {
            m: {"coefficient": k[i], "active": active, "key": encoders.key(key, m)}
            for i, m in enumerate(modalities)
        }

    rule = JOINT[switches.joint].rule(switches, encoders, task)
    rule = rule._replace(init_state=init_state, modulate=modulate, stacks=True)
    modulated = optimizer.after(modulation.gradient_modulation(switches.tensors, noise))
    method = joint_method(name, rule, encoders, optimizer, task, encoder_optimizer=modulated)
    describe = functools.partial(modulation.modulation_table, tensors=switches.tensors)
    return method._replace(describe=lambda state: describe(state.params["encoder"]))
