"""Losses against values worked out by hand and against the specification's golden ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mla_jax.functional import losses

EVERYONE = jnp.ones(3, bool)
rank = jax.jit(losses.confidence_ranking, static_argnums=3)


def test_golden_dimension_contrast():
    """DUC on the example of DI-MML's specification, from its published code (section 6)."""
    i, j = np.arange(3)[:, None], np.arange(4)[None]
    a, v = ((3 * i + 5 * j) % 7) / 3, ((2 * i + 3 * j) % 5) / 2
    a_teaches, v_teaches = np.array([1, 0, 1, 0], bool), np.array([0, 0, 0, 1], bool)

    def loss(a, v):
        there = losses.dimension_contrastive(v, a, a_teaches, EVERYONE, 2.0)
        back = losses.dimension_contrastive(a, v, v_teaches, EVERYONE, 2.0)
        return (there + back).mean()

    value, (by_a, by_v) = jax.jit(jax.value_and_grad(loss, (0, 1)))(jnp.array(a), jnp.array(v))
    np.testing.assert_allclose(value, 2.0120439529, rtol=1e-6)
    expected_a, expected_v = np.zeros((3, 4)), np.zeros((3, 4))
    expected_a[:, 3] = -0.100551, 0.177231, -0.027778
    expected_v[:, 0] = 0.162508, 0.028176, -0.070798
    expected_v[:, 2] = 0.050839, -0.096425, 0.059386
    np.testing.assert_allclose(by_a, expected_a, atol=1e-6)
    np.testing.assert_allclose(by_v, expected_v, atol=1e-6)


def test_dimension_contrast_without_dimensions_is_log_b_and_survives_large_features():
    z = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32) * 100
    none, every = jnp.zeros(4, bool), jnp.ones(4, bool)

    @jax.jit
    @jax.value_and_grad
    def grad(z, mask):
        return losses.dimension_contrastive(z, z[::-1], mask, EVERYONE, 1.0).mean()

    value, gradient = grad(z, none)
    np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)
    value, gradient = grad(z, every)  # dot products of 1e4: the published form overflows past 88
    assert value > 88 and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("enforce_margin", "expected", "slopes"),
    [
        # t (c_i - c_j) is 0.3, 0.6 and -0.3, the margins are 0.6, 0.2 and 0.4.
        (True, [0.9, 0.8, 0.1], [2, -2, 0]),
        (False, [0.0, 0.4, 0.0], [0, -1, 1]),
    ],
)
def test_ranking_by_hand(enforce_margin, expected, slopes):
    """Neighbours (0, 1), (1, 2), (2, 0); the worse of each pair should be the less confident."""
    confidence, badness = jnp.array([0.5, 0.2, 0.8]), jnp.array([1.0, 0.4, 0.6])
    np.testing.assert_allclose(
        rank(confidence, badness, EVERYONE, enforce_margin), expected, atol=1e-6
    )
    slope = jax.jit(jax.grad(lambda c: rank(c, badness, EVERYONE, enforce_margin).sum()))
    gradient = slope(confidence)
    np.testing.assert_allclose(gradient, slopes, atol=1e-6)


@pytest.mark.parametrize("enforce_margin", [True, False])
def test_ranking_of_equals_and_of_the_absent(enforce_margin):
    confidence = jnp.array([0.5, 0.2, 3.0])
    np.testing.assert_array_equal(rank(confidence, jnp.ones(3), EVERYONE, enforce_margin), 0)
    # Without example 1 the one pair left is (2, 0), which then stands for all three.
    present = jnp.array([True, False, True])
    found = rank(confidence, jnp.array([0.0, 0.0, 1.0]), present, enforce_margin)
    margin = 1.0 if enforce_margin else -1.0
    np.testing.assert_allclose(found, [0, 0, 3 * (2.5 + margin)], atol=1e-5)


def test_unimodal_cross_entropy_counts_those_that_have_the_modality():
    logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [0.2, 0.8]]]))
    label, present = jnp.array([0, 1]), jnp.array([[True, True], [True, False]])
    found = losses.unimodal_cross_entropy(logits, label, present).mean()
    np.testing.assert_allclose(found, -np.log([0.5, 0.75]).mean() - np.log(0.1), rtol=1e-6)
