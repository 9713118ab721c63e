"""Ensemble: every modality trained separately, logits averaged at test time.  A control.

    for m = 1..M:   L_m = CE(W_m z_m + b_m, y)   moves theta_m, W_m, b_m and nothing else
    fused logits = mean_m (W_m z_m + b_m)

The compute is that of joint training: each encoder sees each batch once.  Each member equals the
run of ``unimodal`` on its modality with the same seed.  With an optimiser that treats each tensor
separately, ``late_fusion`` computes the same in one step instead of M.  Both names occur in
the literature, and a rule that couples modalities, as clipping by a global norm, makes them differ.
``average=probabilities`` averages the softmax outputs instead.  Any number of modalities.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional import fusion
from mla_jax.functional.heads import apply_head
from mla_jax.functional.losses import accuracy, cross_entropy, masked_mean
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.methods import late_fusion
from mla_jax.methods.base import Method, Phase, Task
from mla_jax.methods.joint import joint_method
from mla_jax.state import Batch, Metrics, Prediction, TrainState

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"average": "logits"}, "released": {}}
CHOICES = {"average": ("logits", "probabilities")}
TEST_TIME = ("average",)


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """An ensemble of one model per modality."""
    modalities = encoders.modalities

    def learn(position: int, state: TrainState, batch: Batch, info: StepInfo):
        """One unimodal step."""
        m, present = modalities[position], batch["present"][:, position]

        def objective(params):
            theta, stats = params["encoder"], state.batch_stats[m]
            z, stats = encoders.apply(m, theta, stats, batch["inputs"][m], True, present)
            logits = apply_head(params["head"], z)
            losses = cross_entropy(logits, batch["label"])
            return masked_mean(losses, present), (losses, logits, stats)

        old = {group: modules[m] for group, modules in state.params.items()}
        grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (losses, logits, stats)), gradients = grad(old)
        params = {group: dict(modules) for group, modules in state.params.items()}
        opt_state = {group: dict(states) for group, states in state.opt_state.items()}
        for group in params:
            params[group][m], opt_state[group][m] = optimizer.step(
                gradients[group], opt_state[group][m], old[group], info, where=present.any()
            )
        batch_stats = {**state.batch_stats, m: stats}
        metrics: Metrics = {
            "loss": loss,
            "accuracy": accuracy(logits, batch["label"], present),
            "examples": present.sum(),
            "example_loss": jnp.where(present, losses, 0),
        }
        return TrainState(params, batch_stats, opt_state, state.method_state), metrics

    def weigh(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        return fusion.equal_weights(prediction.unimodal, present)

    def fuse_probabilities(
        prediction: Prediction, present: jax.Array, method_state: Any
    ) -> jax.Array:
        weights = weigh(prediction, present, method_state)
        mean = fusion.combine(weights, jax.nn.softmax(prediction.unimodal))
        return jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))

    rule = late_fusion.rule(encoders, task, weigh)
    if switches.average == "probabilities":
        rule = rule._replace(fuse=fuse_probabilities)
    method = joint_method("ensemble", rule, encoders, optimizer, task)
    phases = tuple(Phase(m, functools.partial(learn, i)) for i, m in enumerate(modalities))
    (stage,) = method.stages
    return method._replace(stages=(stage._replace(name="apart", phases=phases),))
