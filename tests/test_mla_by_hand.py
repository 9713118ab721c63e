"""MLA's update written out again from the paper's equations: two modalities, some batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax.functional.optimizers import StepInfo
from mla_jax.program import initial_state

LEARNING_RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-3
PER_EPOCH, D = 6, 8


def forward(theta, x):
    """Dense, batch normalisation by the batch, ReLU, dense, ReLU."""
    x = x @ theta["Dense_0"]["kernel"] + theta["Dense_0"]["bias"]
    norm = theta["BatchNorm_0"]
    x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * norm["scale"] + norm["bias"]
    x = jnp.maximum(x, 0)
    return jnp.maximum(x @ theta["Dense_1"]["kernel"] + theta["Dense_1"]["bias"], 0)


@jax.value_and_grad
def loss_and_gradients(both, x, label):
    theta, phi = both
    logits = forward(theta, x) @ phi["kernel"] + phi["bias"]
    log_p = logits - jnp.log(jnp.exp(logits).sum(1, keepdims=True))
    return -jnp.mean(log_p[jnp.arange(len(label)), label])


class Sgd:
    """Momentum SGD on one tree, decay in the gradient; in float64."""

    def __init__(self, params):
        self.params = jax.tree.map(lambda x: np.array(x, np.float64), params)
        self.velocity = jax.tree.map(np.zeros_like, self.params)

    def step(self, gradients):
        def accelerate(v, g, p):
            return MOMENTUM * v + np.asarray(g, np.float64) + DECAY * p

        self.velocity = jax.tree.map(accelerate, self.velocity, gradients, self.params)
        self.params = jax.tree.map(lambda p, v: p - LEARNING_RATE * v, self.params, self.velocity)

    def drift(self):
        self.step(jax.tree.map(np.zeros_like, self.params))


class Paper:
    """Equation 3: P before this batch turns the gradient, then this batch's mean turns P."""

    def __init__(self):
        self.P = np.eye(D)

    def __call__(self, gradient, h, alpha):
        turned = self.P @ gradient
        q = self.P @ h / (alpha + h @ self.P @ h)
        self.P = self.P - np.outer(q, h @ self.P)
        return turned


class FirstDrop:
    """The code as first published: element by element, normalised, P first, not in call 0."""

    def __init__(self):
        self.P, self.calls = np.eye(D), 0

    def __call__(self, gradient, h, alpha):
        self.calls += 1
        if self.calls == 1:
            return gradient
        k = self.P @ h
        self.P = self.P - np.outer(k, k) / (alpha + np.outer(k, h))
        self.P = self.P / np.sqrt((self.P**2).sum())
        return self.P @ gradient


class Off:
    P = None

    def __call__(self, gradient, h, alpha):
        return gradient


VARIANTS = {
    "paper": ({}, Paper, False),
    "paper with drift": ({"method.zero_grad_drift": True}, Paper, True),
    "released": ({"fidelity": "released"}, Off, True),
    "first_drop": ({"fidelity": "first_drop"}, FirstDrop, True),
    "constant alpha": ({"method.projection.alpha": 0.3}, Paper, False),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_some_batches(make_dataset, make_program, variant):
    options, projection, drift = VARIANTS[variant]
    dataset = make_dataset(("a", "b"))
    program = make_program(dataset, method="mla", **options)
    state = initial_state(program, dataset, seed=0)
    haste = {"xla_backend_optimization_level": 0}
    phases = program.method.stages[0].phases
    updates = [jax.jit(phase.update, compiler_options=haste) for phase in phases]

    encoders = {m: Sgd(state.params["encoder"][m]) for m in "ab"}
    head, project = Sgd(state.params["head"]["shared"]), projection()
    # The element-wise rule divides by numbers near zero and multiplies an error of 1e-6 in h by 100
    # in four calls, by 1000 in eight: two batches are what float32 can be held to.
    batches = 2 if projection is FirstDrop else 4
    for b in range(batches):
        batch = dataset.splits["train"].fetch(np.arange(16) + 16 * b)
        losses = []
        for update in updates:
            state, metrics = update(state, batch, StepInfo(0, b, PER_EPOCH))
            losses.append(float(metrics["loss"]))

        alpha = options.get("method.projection.alpha") or 0.1 ** (1 + b / PER_EPOCH)
        features = {m: forward(encoders[m].params, batch["inputs"][m]) for m in "ab"}
        for position, m in enumerate("ab"):
            both = (encoders[m].params, head.params)
            loss, (g_theta, g_phi) = loss_and_gradients(both, batch["inputs"][m], batch["label"])
            assert losses[position] == pytest.approx(float(loss), rel=1e-4)
            h = np.asarray(features[m], np.float64).mean(0)
            g_phi = {**g_phi, "kernel": project(np.asarray(g_phi["kernel"], np.float64), h, alpha)}
            encoders[m].step(g_theta)
            head.step(g_phi)
            if drift and position == 1:
                encoders["a"].drift()

    # Float32 gradients on both sides; parameters and P are of order 1.
    tolerance = {"rtol": 1e-4, "atol": 1e-4 if projection is FirstDrop else 1e-5}
    check = lambda x, y: np.testing.assert_allclose(x, y, **tolerance)  # noqa: E731
    for m in "ab":
        jax.tree.map(check, state.params["encoder"][m], encoders[m].params)
    jax.tree.map(check, state.params["head"]["shared"], head.params)
    if project.P is not None:
        found = [x for x in jax.tree.leaves(state.opt_state["head"]) if x.shape == (D, D)]
        assert len(found) == 1
        check(found[0], project.P)
        assert np.abs(project.P - np.eye(D)).max() > 0.01, "P moved"
