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
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders, many
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
from mla_jax.methods.base import Method, Phase, Solo, Stage, Task, weighted_sum
from mla_jax.state import Batch, Metrics, Prediction, Stacks, TrainState, rows

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
        "head_rate": 1.0,
        "schedule": "alternating",
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
``head_rate`` times the learning rate is that of the shared head, which takes M steps per batch.
``schedule`` does not change what is computed: ``alternating`` runs one program per modality,
``fused`` one for all of them.
"""

RULES: dict[str, fusion.Weights] = {
    "entropy": fusion.entropy_weights,
    "equal": fusion.equal_weights,
    "batch_entropy": fusion.batch_entropy_weights,
}
Names = tuple[str, ...]
LIMITS = {"projection.alpha": (0, math.inf), "head_rate": (0, math.inf)}
TEST_TIME = ("fusion", "fusion_weights")
CHOICES = {
    "projection.denominator": DENOMINATORS,
    "projection.normalize": NORMALIZATIONS,
    "projection.order": ORDERS,
    "projection.apply": APPLICATIONS,
    "fusion": (*RULES, "fixed"),
    "schedule": ("alternating", "fused"),
}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """MLA over any number of modalities, visited in the order of ``encoders.modalities``."""
    modalities, M = encoders.modalities, len(encoders.modalities)
    options = dict(switches.projection)
    enabled, alpha = options.pop("enabled"), options.pop("alpha")
    head_optimizer = optimizer
    if enabled:
        head_optimizer = optimizer.after(orthogonal_projection(encoders.feature_dim, **options))
    if switches.head_rate != 1:
        head_optimizer = head_optimizer.scaled(switches.head_rate)

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

    def extract(
        position: int, state: TrainState, batch: Batch, theta: Any, among: Names = modalities
    ) -> Any:
        """``h_m``, and the encoder's new statistics; ``among``: whose columns ``present`` has."""
        m = among[position]
        old, inputs, present = state.batch_stats[m], batch["inputs"][m], batch["present"]
        return encoders.apply(m, theta, old, inputs, True, present[:, position])

    def extract_all(state: TrainState, batch: Batch, thetas: Any) -> tuple[Any, Any]:
        """``extract`` of every modality: ``({m: h_m}, {m: statistics})``."""
        return encoders.features(thetas, state.batch_stats, batch, train=True)

    def classify(position: Any, batch: Batch, h: jax.Array, phi: Any) -> Any:
        """The loss L_m, and beside it what the sub-step reports and the projection needs."""
        present = batch["present"][:, position]
        logits = apply_head(phi, h)
        losses = cross_entropy(logits, batch["label"])
        loss = masked_mean(losses, present)
        metrics = {
            "loss": loss,
            "accuracy": accuracy(logits, batch["label"], present),
            "examples": present.sum(),
            "example_loss": jnp.where(present, losses, 0),
        }
        return loss, (metrics, masked_mean(h, present))

    def step_head(
        position: Any, head: tuple, batch: Batch, info: StepInfo, g_phi: Any, h_mean: jax.Array
    ) -> tuple:
        """The shared head, ``(phi, optimiser state)``, after the sub-step for a modality."""
        phi, opt_state = head
        return head_optimizer.step(
            g_phi,
            opt_state,
            phi,
            info,
            where=batch["present"].any(0)[position],
            feature_mean=h_mean,
            alpha=alpha or alpha_schedule(info.batch_index, info.batches_per_epoch),
        )

    def step_encoder(
        position: int,
        towers: dict[str, tuple],
        batch: Batch,
        info: StepInfo,
        g_theta: Any,
        among: Names = modalities,
    ) -> dict[str, tuple]:
        """All encoders, ``{m: (theta_m, optimiser state)}``, after the sub-step for a modality."""
        m, occurs, towers = among[position], batch["present"].any(0), dict(towers)
        theta, opt_state = towers[m]
        towers[m] = optimizer.step(g_theta, opt_state, theta, info, where=occurs[position])
        if switches.zero_grad_drift:  # PyTorch < 2: momentum and decay act on zero gradients (Q7)
            for i, k in enumerate(among[:position]):
                towers[k] = drifted(towers[k], info, occurs[i] & occurs[position])
        return towers

    def drifted(tower: tuple, info: StepInfo, where: jax.Array) -> tuple:
        """An encoder, ``(theta, optimiser state)``, after a step with a zero gradient."""
        theta, opt_state = tower
        zeros = jax.tree.map(jnp.zeros_like, theta)
        return optimizer.step(zeros, opt_state, theta, info, where=where)

    def parts_of(state: TrainState) -> tuple[dict[str, tuple], tuple]:
        """Encoders ``{m: (theta_m, optimiser state)}`` and head ``(phi, optimiser state)``."""
        thetas, states = state.params["encoder"], state.opt_state["encoder"]
        towers = {m: (thetas[m], states[m]) for m in thetas}
        return towers, (state.params["head"]["shared"], state.opt_state["head"]["shared"])

    def joined(towers: Mapping[str, tuple], head: tuple, batch_stats: Any) -> TrainState:
        """The state with these encoders and this head."""
        thetas, states = many.unzipped(towers)
        return TrainState(
            params={"encoder": thetas, "head": {"shared": head[0]}},
            batch_stats=batch_stats,
            opt_state={"encoder": states, "head": {"shared": head[1]}},
        )

    def adapt(
        position: int, state: TrainState, batch: Batch, info: StepInfo, among: Names = modalities
    ) -> tuple[TrainState, Metrics]:
        """One sub-step: the encoder at ``position`` and the shared head learn, nothing else.

        On a batch in which no example has the modality, not even these: there is no sub-step.
        ``among``: the modalities whose encoders the state has, and whose columns ``present`` has.
        """
        towers, head = parts_of(state)

        def objective(theta, phi):
            h, stats = extract(position, state, batch, theta, among)
            loss, found = classify(position, batch, h, phi)
            return loss, (*found, stats)

        gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
        m = among[position]
        (g_theta, g_phi), (metrics, h_mean, stats) = gradient(towers[m][0], head[0])
        head = step_head(position, head, batch, info, g_phi, h_mean)
        towers = step_encoder(position, towers, batch, info, g_theta, among)
        return joined(towers, head, {**state.batch_stats, m: stats}), metrics

    def drift(
        m: str, state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Metrics]:
        """What the sub-step for another modality does to the encoder of m (Q7)."""
        towers, head = parts_of(state)
        both = batch["present"].any(0).all()
        return joined({m: drifted(towers[m], info, both)}, head, state.batch_stats), {}

    def solos(position: int) -> tuple[Solo, ...]:
        """The sub-step for a modality, and the drift of each encoder before it, one by one."""
        m, earlier = modalities[position], enumerate(modalities[:position])
        alone = functools.partial(adapt, 0, among=(m,))
        step = Solo(m, alone, ("adapt", encoders.kind(m)), (position,))
        if not switches.zero_grad_drift:
            return (step,)
        return step, *(
            Solo(k, functools.partial(drift, k), ("drift", encoders.kind(k)), (i, position))
            for i, k in earlier
        )

    def step_head_by_all(
        head: tuple, batch: Batch, info: StepInfo, features: Mapping[str, jax.Array]
    ) -> tuple[tuple, Mapping[str, Metrics], Mapping[str, jax.Array]]:
        """The head after the sub-steps for all modalities in their order, what each reports, and
        the gradient of each loss in the features ``{m: float32[B, D]}``."""

        def turn(head: tuple, of_one: tuple) -> tuple[tuple, tuple[Metrics, jax.Array]]:
            position, h = of_one
            loss = functools.partial(classify, position, batch)
            gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
            (g_h, g_phi), (metrics, h_mean) = gradient(h, head[0])
            metrics["example_loss"] = encoders.spread.divided(metrics["example_loss"])
            return step_head(position, head, batch, info, g_phi, h_mean), (metrics, g_h)

        if M < many.MANY:
            found = {}
            for i, m in enumerate(modalities):
                head, found[m] = turn(head, (i, features[m]))
            reports, cotangents = many.unzipped(found)
            return head, reports, cotangents
        # A loop in the program, which then does not grow with M.  No convolution is in it.
        head, (metrics, g) = jax.lax.scan(turn, head, (jnp.arange(M), rows(features, modalities)))
        cotangents = many.of_each(lambda h, g_h: g_h, features, Stacks([modalities], [g]))
        return head, Stacks([modalities], [metrics]), cotangents

    def adapt_all(
        state: TrainState, batch: Batch, info: StepInfo
    ) -> tuple[TrainState, Mapping[str, Metrics]]:
        """All sub-steps of a batch in one program: the same computation in another order.

        Only the head is sequential.  The features h_m do not depend on it, and the gradient of
        encoder m needs the head as it was before sub-step m.  So first all forward passes, then the
        head's sub-steps, then all backward passes: on several devices the encoders' gradients are
        then summed together, once per batch.
        """
        thetas, states = state.params["encoder"], state.opt_state["encoder"]
        forward = functools.partial(extract_all, state, batch)
        features, pullback, stats = jax.vjp(forward, thetas, has_aux=True)
        # Features are small.  With all of them on every device the head needs no collectives, which
        # would come one after the other, and only the encoders' gradients are left to be summed.
        known = {key: batch[key] for key in ("label", "present")}
        features, known = encoders.spread.gathered((features, known))
        _, head = parts_of(state)
        head, metrics, cotangents = step_head_by_all(head, known, info, features)
        (gradients,) = pullback(many.of_each(encoders.spread.divided, cotangents))
        occurs = known["present"].any(0)

        def step(theta: Any, opt_state: Any, g_theta: Any, i: Any) -> tuple:
            """The encoder of modality i after the sub-step for it, and its drift in later ones."""
            tower = optimizer.step(g_theta, opt_state, theta, info, where=occurs[i])
            if not switches.zero_grad_drift:
                return tower

            def drift_at(j: Any, tower: tuple) -> tuple:
                return drifted(tower, info, occurs[i] & occurs[j] & (i < j))

            if isinstance(i, int):
                return functools.reduce(lambda t, j: drift_at(j, t), range(i + 1, M), tower)
            return jax.lax.fori_loop(0, M, drift_at, tower)

        places = {m: i for i, m in enumerate(modalities)}
        return joined(many.of_each(step, thetas, states, gradients, places), head, stats), metrics

    def predict(variables: dict[str, Any], batch: Batch) -> Prediction:
        params, batch_stats = variables["params"], variables["batch_stats"]
        h, _ = encoders.features(params["encoder"], batch_stats, batch, train=False)
        classify = functools.partial(apply_head, params["head"]["shared"])
        return Prediction(many.each(classify, modalities, h))

    rule = _fusion_rule(switches, M)

    def weigh(prediction: Prediction, present: jax.Array, method_state: Any) -> jax.Array:
        del method_state
        return rule(prediction.unimodal, present)

    phases = tuple(
        Phase(m, functools.partial(adapt, i), solos=solos(i)) for i, m in enumerate(modalities)
    )
    if switches.schedule == "fused":
        alike = functools.partial(encoders.alike, heads=False)
        phases = (Phase("fused", adapt_all, phases, alike=alike),)
    stages = (Stage("alternate", task.epochs, phases),)
    fuse = weighted_sum(weigh)
    return Method("mla", modalities, task.classes, init, stages, predict, fuse, weigh=weigh)


def _fusion_rule(switches: Any, count: int) -> fusion.Weights:
    weights = tuple(switches.fusion_weights)
    if weights:
        numbers = all(isinstance(w, int | float) and 0 <= w < math.inf for w in weights)
        if switches.fusion != "fixed" or len(weights) != count or not numbers or not sum(weights):
            raise UserError(
                f"method.fusion_weights={weights} must be {count} numbers of at least 0, one per "
                "modality and not all 0, and go with method.fusion=fixed"
            )
    if switches.fusion in RULES:
        return RULES[switches.fusion]
    weights = weights or fusion.RELEASED_FIXED_WEIGHTS.get(count, (1 / count,) * count)
    return fusion.fixed_weights(weights)
