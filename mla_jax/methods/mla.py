"""MLA: multimodal learning by alternating unimodal adaptation (Zhang et al., CVPR 2024).

Three ideas.  (1) In each batch one modality m at a time trains its own encoder h_m and the one
head g(.; phi) that all modalities share, so that no modality can starve another:

    for m = 1..M:   L_m = CE(g(h_m(x_m; theta_m); phi), y)      (section 3.1, equation 1)
                    theta_m <- theta_m - eta dL_m/dtheta_m
                    phi     <- phi     - eta P dL_m/dphi        (section 3.2, equations 2-3)

(2) P, updated from the mean feature of the modality just visited, keeps the next modality's step
from undoing it (``functional/projection.py``).  (3) At test time each example weighs its modalities
by the certainty of their predictions, lambda_m = softmax_m(-entropy_m) (section 3.3,
``functional/fusion.py``).

``fidelity`` names three sets of switches; each switch can be set alone:

* ``paper``: the equations above.
* ``released``: what the published code does.  Its projection never runs, because it looks for a
  parameter under a name the head does not have (quirk Q1, ``utils/utils.py:32``); its fusion
  takes the entropy over the batch axis (Q5); and under the PyTorch 1.8 it pins, an encoder that
  was already stepped in a batch drifts on with a zero gradient (Q7).
* ``first_drop``: the element-wise projection that was published first (Q2-Q4), made to run.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional import fusion
from mla_jax.functional.heads import apply_head, init_head
from mla_jax.functional.losses import accuracy, cross_entropy, masked_mean
from mla_jax.functional.optimizers import Optimizer, StepInfo
from mla_jax.functional.projection import (
    APPLICATIONS,
    DENOMINATORS,
    NORMALIZATIONS,
    ORDERS,
    alpha_schedule,
    orthogonal_projection,
)
from mla_jax.methods.base import Method, Phase, Stage, Task, weighted_sum
from mla_jax.state import Batch, Metrics, Prediction, TrainState

FIDELITY = {
    "paper": {
        "projection": {
            "enabled": True,
            "denominator": "scalar",
            "normalize": "none",
            "order": "project_then_update",
            "apply": "replace",
            "skip_first": False,
            "alpha": 0.0,
        },
        "fusion": "entropy",
        "fusion_weights": (),
        "zero_grad_drift": False,
    },
    "released": {
        "projection": {"enabled": False},
        "fusion": "batch_entropy",
        "zero_grad_drift": True,
    },
    "first_drop": {
        "projection": {
            "denominator": "elementwise",
            "normalize": "frobenius",
            "order": "update_then_project",
            "skip_first": True,
        },
        "fusion": "batch_entropy",
        "zero_grad_drift": True,
    },
}
"""The switches; ``released`` and ``first_drop`` say how they differ from ``paper``.

``projection.alpha`` 0 means the falling schedule of the reference, anything else a constant.
``fusion_weights`` () means the released constants for 2 and 3 modalities, else equal weights.
"""

RULES: dict[str, fusion.Weights] = {
    "entropy": fusion.entropy_weights,
    "equal": fusion.equal_weights,
    "batch_entropy": fusion.batch_entropy_weights,
}
LIMITS = {"projection.alpha": (0, math.inf)}
TEST_TIME = ("fusion", "fusion_weights")
CHOICES = {
    "projection.denominator": DENOMINATORS,
    "projection.normalize": NORMALIZATIONS,
    "projection.order": ORDERS,
    "projection.apply": APPLICATIONS,
    "fusion": (*RULES, "fixed"),
}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """MLA over any number of modalities, visited in the order of ``encoders.modalities``."""
    modalities = encoders.modalities
    options = dict(switches.projection)
    enabled, alpha = options.pop("enabled"), options.pop("alpha")
    head_optimizer = optimizer
    if enabled:
        head_optimizer = optimizer.after(orthogonal_projection(encoders.feature_dim, **options))

    def init(rng: jax.Array, batch: Batch) -> TrainState:
        encoder_rng, head_rng = jax.random.split(rng)
        params, batch_stats = encoders.init(encoder_rng, batch["inputs"])
        head = init_head(head_rng, encoders.feature_dim, task.classes, task.head_init)
        return TrainState(
            params={"encoder": params, "head": {"shared": head}},
            batch_stats=batch_stats,
            opt_state={
                "encoder": {m: optimizer.init(params[m]) for m in modalities},
                "head": {"shared": head_optimizer.init(head)},
            },
        )

    def adapt(
        position: int, state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Metrics]:
        """One sub-step: the encoder at ``position`` and the shared head learn, nothing else.

        On a batch in which no example has the modality, not even these: there is no sub-step.
        """
        m = modalities[position]
        present = batch["present"][:, position]
        occurs = batch["present"].any(0)

        def objective(theta, phi):
            old, inputs = state.batch_stats[m], batch["inputs"][m]
            h, stats = encoders.apply(m, theta, old, inputs, True, present)
            logits = apply_head(phi, h)
            loss = cross_entropy(logits, batch["label"])
            return masked_mean(loss, present), (loss, logits, masked_mean(h, present), stats)

        theta, phi = state.params["encoder"][m], state.params["head"]["shared"]
        grad = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
        (loss, (losses, logits, h_mean, stats)), (g_theta, g_phi) = grad(theta, phi)

        encoder_params, encoder_opt = (
            dict(state.params["encoder"]),
            dict(state.opt_state["encoder"]),
        )
        encoder_params[m], encoder_opt[m] = optimizer.step(
            g_theta, encoder_opt[m], theta, info, where=occurs[position]
        )
        phi, head_opt = head_optimizer.step(
            g_phi,
            state.opt_state["head"]["shared"],
            phi,
            info,
            where=occurs[position],
            feature_mean=h_mean,
            alpha=alpha or alpha_schedule(info.batch_index, info.batches_per_epoch),
        )
        if switches.zero_grad_drift:  # PyTorch < 2: momentum and decay act on zero gradients (Q7)
            for i, k in enumerate(modalities[:position]):
                zeros = jax.tree.map(jnp.zeros_like, encoder_params[k])
                both = occurs[i] & occurs[position]
                encoder_params[k], encoder_opt[k] = optimizer.step(
                    zeros, encoder_opt[k], encoder_params[k], info, where=both
                )
        state = state.replace(
            params={"encoder": encoder_params, "head": {"shared": phi}},
            batch_stats={**state.batch_stats, m: stats},
            opt_state={"encoder": encoder_opt, "head": {"shared": head_opt}},
        )
        return state, {
            "loss": loss,
            "accuracy": accuracy(logits, batch["label"], present),
            "examples": present.sum(),
            "example_loss": jnp.where(present, losses, 0),
        }

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        def logits(m):
            theta, stats = variables["params"]["encoder"][m], variables["batch_stats"][m]
            features, _ = encoders.apply(m, theta, stats, batch["inputs"][m], False)
            return apply_head(variables["params"]["head"]["shared"], features)

        return Prediction(jnp.stack([logits(m) for m in modalities]))

    rule = _fusion_rule(switches, len(modalities))

    def weigh(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        return rule(prediction.unimodal, present)

    phases = tuple(Phase(m, functools.partial(adapt, i)) for i, m in enumerate(modalities))
    stages = (Stage("alternate", task.epochs, phases),)
    fuse = weighted_sum(weigh)
    return Method("mla", modalities, task.classes, init, stages, predict, fuse, weigh=weigh)


def _fusion_rule(switches: Any, count: int) -> fusion.Weights:
    weights = tuple(switches.fusion_weights)
    if weights:
        numbers = all(isinstance(w, int | float) and 0 <= w < math.inf for w in weights)
        if switches.fusion != "fixed" or len(weights) != count or not numbers or not sum(weights):
            raise UserError(
                f"method.fusion_weights={weights} must be {count} numbers of at least 0, one a "
                "modality and not all 0, and go with method.fusion=fixed"
            )
    if switches.fusion in RULES:
        return RULES[switches.fusion]
    weights = weights or fusion.RELEASED_FIXED_WEIGHTS.get(count, (1 / count,) * count)
    return fusion.fixed_weights(weights)
