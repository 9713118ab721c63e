"""OGM's coefficients against values worked out by hand, and what its transformation touches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax.functional import modulation

ALPHA = 0.3
RULES = {name: jax.jit(rule, static_argnums=1) for name, rule in modulation.RATIOS.items()}


@pytest.mark.parametrize(
    ("rule", "scores", "expected"),
    [
        # Two modalities: 1 - tanh(0.3 rho) of the one that is ahead, here rho = 3.
        ("one_to_others", [0.6, 0.2], [0.283702, 1]),
        ("released", [0.6, 0.2], [0.283702, 1]),
        ("one_to_others", [0.2, 0.6], [1, 0.283702]),
        ("released", [0.2, 0.6], [1, 0.283702]),
        # Equals: nobody is ahead on paper, the first is in the code's else branch.
        ("one_to_others", [0.4, 0.4], [1, 1]),
        ("released", [0.4, 0.4], [0.708687, 1]),
        # Three: rho is the mean of pairwise ratios, here 2.5, 1 and 1/2 ...
        ("one_to_others", [0.6, 0.3, 0.2], [0.364851, 1, 1]),
        # ... or a score over the sum of the others; 2nd before 3rd before 1st, which is slowed
        # down whatever its ratio (main.py:327-338).
        ("released", [0.2, 0.2, 0.2], [0.851115, 1, 1]),
        ("released", [0.1, 0.5, 0.2], [1, 0.537883, 1]),
        ("released", [0.1, 0.2, 0.5], [1, 1, 0.537883]),
        ("released", [0.5, 0.2, 0.1], [0.537883, 1, 1]),
        # A modality that the whole batch lacks scores 0, and nobody is ahead of it.
        ("one_to_others", [0.4, 0.0], [1, 1]),
        ("released", [0.4, 0.0], [1, 1]),
        ("one_to_others", [0.6, 0.2, 0.0], [0.283702, 1, 1]),
        ("one_to_others", [0.7], [1]),
        ("released", [0.7], [1]),
    ],
)
def test_coefficients_by_hand(rule, scores, expected):
    found = RULES[rule](jnp.array(scores), ALPHA)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_scores_are_mean_probabilities_of_the_true_class():
    logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [0.2, 0.8]]]))
    present = jnp.array([[True, True], [True, False]])
    found = modulation.true_class_scores(logits, jnp.array([0, 1]), present)
    np.testing.assert_allclose(found, [(0.5 + 0.75) / 2, 0.1], rtol=1e-6)


GRADIENTS = {
    "conv": jnp.arange(9 * 64 * 64, dtype=jnp.float32).reshape(3, 3, 64, 64) / 1e4,
    "dense": jnp.ones((4, 5)),
    "scalar": jnp.ones(()),
}


def modulate(tensors="kernels_4d", noise=False, active=True, k=0.25):
    transform = modulation.gradient_modulation(tensors, noise)
    state, key = transform.init(GRADIENTS), jax.random.key(0)
    update = jax.jit(transform.update, compiler_options={"xla_backend_optimization_level": 0})
    return update(GRADIENTS, state, coefficient=k, active=active, key=key)[0]


@pytest.mark.parametrize(("tensors", "hit"), [("kernels_4d", {"conv"}), ("all", set(GRADIENTS))])
def test_which_tensors_are_scaled(tensors, hit):
    for name, value in modulate(tensors).items():
        expected = GRADIENTS[name] * (0.25 if name in hit else 1)
        np.testing.assert_array_equal(value, expected)


def test_outside_its_epochs_nothing_is_changed():
    jax.tree.map(np.testing.assert_array_equal, modulate("all", True, active=False), GRADIENTS)


def test_noise_has_the_deviation_of_the_gradient_before_scaling():
    noise = np.asarray(modulate(noise=True)["conv"] - 0.25 * GRADIENTS["conv"], np.float64)
    sigma = np.std(np.asarray(GRADIENTS["conv"], np.float64), ddof=1)
    assert abs(noise.std() / sigma - 1) < 0.02 and abs(noise.mean()) < 0.02 * sigma
