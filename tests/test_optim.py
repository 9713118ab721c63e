"""Optimisers and schedules against ``torch.optim``, written out again in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import (
    StepInfo,
    clip_by_norm,
    create_optimizer,
    learning_rate_schedule,
)

STEPS = 60


def options(**changes) -> ConfigDict:
    config = fields.base_config().optimizer
    config.update({"learning_rate": 0.1, "schedule": "constant", **changes})
    return config


def run(config: ConfigDict, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """The parameters after each step."""
    optimizer = create_optimizer(config, epochs=1)
    params = {"w": jnp.asarray(start, jnp.float32)}
    state, path = optimizer.init(params), []
    for gradient in gradients:
        g = {"w": jnp.asarray(gradient, jnp.float32)}
        params, state = optimizer.step(g, state, params, StepInfo(0, 0, 10))
        path.append(np.asarray(params["w"]))
    return np.array(path)


def torch_sgd(theta, gradients, lr, momentum, nesterov, decay):
    """https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html, dampening 0."""
    buffer, path = None, []
    for g in gradients:
        g = g + decay * theta
        buffer = g if buffer is None else momentum * buffer + g
        theta = theta - lr * (g + momentum * buffer if nesterov else buffer)
        path.append(theta)
    return np.array(path)


def torch_adam(theta, gradients, lr, decay, decoupled):
    """https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html and AdamW.html."""
    m, v, path = 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        if decoupled:
            theta = theta - lr * decay * theta
        else:
            g = g + decay * theta
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        theta = theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        path.append(theta)
    return np.array(path)


def task(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=5), rng.normal(size=(STEPS, 5)) + 0.3


def test_golden_sgd():
    config = options(momentum=0.9, weight_decay=0.01)
    path = run(config, np.array(1.0), np.array([1.0, 0.0, -2.0]))
    np.testing.assert_allclose(path, [0.899000, 0.807201, 0.923775], atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_sgd_is_torchs(momentum, nesterov, decay):
    start, gradients = task()
    config = options(momentum=momentum, nesterov=nesterov, weight_decay=decay)
    expected = torch_sgd(start, gradients, 0.1, momentum, nesterov, decay)
    # 60 float32 steps of size up to 1 against float64.
    np.testing.assert_allclose(run(config, start, gradients), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_is_torchs(name, decay):
    start, gradients = task(1)
    config = options(name=name, weight_decay=decay)
    expected = torch_adam(start, gradients, 0.1, decay, decoupled=name == "adamw")
    np.testing.assert_allclose(run(config, start, gradients), expected, rtol=1e-5, atol=1e-5)


def test_adam_and_adamw_differ_by_where_the_decay_goes():
    start, gradients = task(1)
    both = [run(options(name=n, weight_decay=0.1), start, gradients)[-1] for n in ("adam", "adamw")]
    assert np.abs(both[0] - both[1]).max() > 0.01


def rates(config, infos, epochs=100):
    schedule = learning_rate_schedule(config, epochs)
    return np.array([float(schedule(StepInfo(*info))) for info in infos])


def test_step_schedule_without_a_number_steps_at_70_percent():
    config = options(schedule="step", decay_every=0, decay_rate=0.1)
    for epochs, step in ((15, 10), (100, 70), (1, 1)):
        before, after = rates(config, [(step - 1, 0, 4), (step, 0, 4)], epochs)
        np.testing.assert_allclose(after, before / 10, rtol=1e-6)


@pytest.mark.parametrize(("every", "rate"), [(70, 0.1), (30, 0.5), (1, 0.97)])
def test_step_schedule_is_torchs_step_lr(every, rate):
    config = options(schedule="step", decay_every=every, decay_rate=rate)
    infos = [(epoch, batch, 10) for epoch in range(100) for batch in (0, 9)]
    expected = [0.1 * rate ** (epoch // every) for epoch, _, _ in infos]
    # rate is off by up to 6e-8 in float32, its 99th power by 99 times that.
    np.testing.assert_allclose(rates(config, infos), expected, rtol=6e-6)


def test_constant_schedule():
    np.testing.assert_allclose(rates(options(), [(0, 0, 10), (99, 9, 10)]), [0.1, 0.1], rtol=1e-6)


def test_cosine_schedule_falls_smoothly_to_zero():
    infos = [(epoch, batch, 4) for epoch in range(100) for batch in range(4)]
    values = rates(options(schedule="cosine"), [*infos, (100, 0, 4), (120, 0, 4)])
    assert (np.diff(values[:-2]) < 0).all()
    assert values[0] == pytest.approx(0.1, rel=1e-6)
    assert values[200] == pytest.approx(0.05, rel=1e-5)
    assert values[4 * 25 + 2] == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.255)), rel=1e-5)
    np.testing.assert_allclose(values[-2:], 0, atol=1e-8)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_warmup_rises_linearly(schedule):
    config = options(schedule=schedule, warmup_epochs=2)
    plain = options(schedule=schedule)
    infos = [(0, 0, 4), (0, 2, 4), (1, 0, 4), (1, 3, 4), (2, 0, 4), (50, 1, 4)]
    share = np.array([1, 3, 5, 8, 8, 8]) / 8  # the first batch has a rate, too
    np.testing.assert_allclose(rates(config, infos), share * rates(plain, infos), rtol=1e-6)


def test_the_rate_is_read_from_the_clock_not_from_a_count_of_steps():
    optimizer = create_optimizer(options(schedule="step", decay_every=1, momentum=0.0), 10)
    params, g = {"w": jnp.zeros(())}, {"w": jnp.ones(())}
    state, moved = optimizer.init(params), []
    for epoch in (0, 0, 0, 1, 0, 2):  # the shared head takes several steps per batch
        new, state = optimizer.step(g, state, {"w": jnp.zeros(())}, StepInfo(epoch, 0, 10))
        moved.append(-float(new["w"]))
    np.testing.assert_allclose(moved, [0.1, 0.1, 0.1, 0.01, 0.1, 0.001], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adamm"}, "optimizer.name 'adamm'.*'adam"),
        ({"name": "lion"}, "known: adam, adamw, sgd"),
        ({"schedule": "cosin"}, "optimizer.schedule 'cosin'.*'cosine'"),
    ],
)
def test_what_cannot_be(changes, words):
    with pytest.raises(UserError, match=words):
        create_optimizer(options(**changes), epochs=1)


def test_gradients_are_clipped_as_pytorch_does():
    """``torch.nn.utils.clip_grad_norm_``, which adds 1e-6 to the norm."""
    gradients = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.array([12.0])}
    for largest, scale in ((2.0, 2 / (13 + 1e-6)), (20.0, 1.0)):
        clipped, _ = clip_by_norm(largest).update(gradients, ())
        for name, value in gradients.items():
            np.testing.assert_allclose(clipped[name], scale * value, rtol=3e-7)
    nothing = jax.tree.map(jnp.zeros_like, gradients)
    assert not any(leaf.any() for leaf in jax.tree.leaves(clip_by_norm(2.0).update(nothing, ())[0]))
