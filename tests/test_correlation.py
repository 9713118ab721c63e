"""Canonical correlations and the linear SVM: published values, numpy and scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import svm
from sklearn.cross_decomposition import CCA

from mla_jax.functional.correlation import correlation_loss, correlations, directions
from mla_jax.functional.svm import linear_svm

EVERYONE = np.ones(8, bool)


def golden(a, b, modulus, divisor):
    i, j = np.mgrid[:8, :2]
    return (((a * i + b * j) % modulus) / divisor).astype(np.float32)


H1, H2 = golden(3, 4, 13, 5), golden(7, 2, 11, 4)


# ---- Correlations ----------------------------------------------------------------------------


def test_golden_values():
    sigma = correlations(H1, H2, EVERYONE, 1e-3)
    np.testing.assert_allclose(sigma, (0.6510386, 0.2959384), rtol=2e-6)
    np.testing.assert_allclose(correlation_loss(H1, H2, EVERYONE, 1e-3), -0.9494292, rtol=1e-6)


def covariances_of(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return x.T @ x / (len(x) - 1), y.T @ y / (len(x) - 1), x.T @ y / (len(x) - 1)


def inverse_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def transcribed(x, y, k, r):
    """The closed form as published, in float64."""
    xx, yy, xy = covariances_of(x.astype(float), y.astype(float))
    a, b = inverse_root(xx + r * np.eye(len(xx))), inverse_root(yy + r * np.eye(len(yy)))
    U, sigma, Vt = np.linalg.svd(a @ xy @ b)
    return a @ U[:, :k], b @ Vt.T[:, :k], sigma[:k]


def two_views(seed=0, examples=60, widths=(6, 4)):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(examples, 3))
    return [shared @ rng.normal(size=(3, w)) + 0.7 * rng.normal(size=(examples, w)) for w in widths]


def signed(*sides):
    """Directions with the largest component of the first side positive: their sign is free."""
    first = sides[0]
    sign = np.sign(first[np.abs(first).argmax(0), np.arange(first.shape[1])])
    return [side * sign for side in sides]


def test_directions_are_those_of_scikit_learn():
    x, y = two_views()
    A, B, sigma = directions(*covariances_of(x, y), 3, 1e-12, 1e-12)
    theirs = CCA(n_components=3, scale=False, max_iter=5000, tol=1e-14).fit(x, y).transform(x, y)
    for mine, their in zip(signed(x @ A, y @ B), signed(*theirs), strict=True):
        mine = mine - mine.mean(0)
        np.testing.assert_allclose(
            np.abs(np.corrcoef(mine.T, their.T)[:3, 3:].diagonal()), 1, rtol=1e-6
        )
    of_codes = [np.corrcoef(x @ A[:, i], y @ B[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(of_codes, sigma, rtol=1e-8)


def test_directions_are_those_of_the_published_closed_form():
    x, y = two_views(1)
    mine, theirs = directions(*covariances_of(x, y), 2, 1e-2, 1e-2), transcribed(x, y, 2, 1e-2)
    for ours, expected in zip(signed(*mine[:2]), signed(*theirs[:2]), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-8)
    np.testing.assert_allclose(mine[2], theirs[2], rtol=1e-10)


def test_the_loss_is_that_of_the_published_closed_form():
    x, y = (view.astype(np.float32) for view in two_views(2))
    sigma = transcribed(x, y, 4, 1e-3)[2]
    np.testing.assert_allclose(correlations(x, y, np.ones(60, bool), 1e-3), sigma, rtol=1e-5)


def test_padding_counts_nowhere_in_the_loss():
    x, y = (view.astype(np.float32) for view in two_views(3))
    counted = np.arange(60) < 41
    garbage = [np.where(counted[:, None], view, np.nan) for view in (x, y)]
    exact = correlation_loss(x[:41], y[:41], counted[:41], 1e-3)
    np.testing.assert_allclose(correlation_loss(*garbage, counted, 1e-3), exact, rtol=1e-6)
    gradient = jax.grad(correlation_loss)(*garbage, counted, 1e-3)
    short = jax.grad(correlation_loss)(x[:41], y[:41], counted[:41], 1e-3)
    np.testing.assert_allclose(gradient[:41], short, rtol=1e-3, atol=1e-6)
    assert (gradient[41:] == 0).all()


def test_the_gradient_is_the_difference_quotient():
    x, y = (view.astype(np.float32) for view in two_views(4, 30))
    along = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    everyone, step = np.ones(30, bool), 1e-2
    slope = (jax.grad(correlation_loss)(x, y, everyone, 1e-3) * along).sum()
    ends = [correlation_loss(x + s * along, y, everyone, 1e-3) for s in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=2e-2)


@pytest.mark.parametrize("case", ["same", "constant", "dependent", "huge", "one", "none"])
def test_the_gradient_is_finite(case):
    x, y = (view.astype(np.float32) for view in two_views(5, 30, (4, 4)))
    counted = np.ones(30, bool)
    if case == "same":  # all correlations equal
        y = x
    elif case == "constant":  # all correlations 0
        y = np.ones_like(y)
    elif case == "dependent":
        x = np.repeat(x[:, :1], 4, axis=1)
    elif case == "huge":
        x = 1e6 * np.repeat(x[:, :1], 4, axis=1)
    else:
        counted = np.arange(30) < (case == "one")
    value, gradients = jax.value_and_grad(correlation_loss, argnums=(0, 1))(x, y, counted, 1e-3)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
    assert -4.1 < value < 0


# ---- The linear SVM --------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("cost", [0.01, 1.0, 100.0])
def test_the_svm_is_that_of_scikit_learn(classes, cost):
    rng = np.random.default_rng(classes)
    label = rng.integers(0, classes, 200)
    x = rng.normal(size=(classes, 5))[label] + rng.normal(size=(200, 5)) + 1
    theirs = svm.LinearSVC(C=cost, dual=False, tol=1e-12, max_iter=100_000).fit(x, label)
    ours = linear_svm(x, label, classes, cost)
    kernel, bias = ours["kernel"], ours["bias"]
    if classes == 2:
        np.testing.assert_allclose(kernel[:, 0], -kernel[:, 1], rtol=1e-9)
        kernel, bias = kernel[:, 1:], bias[1:]
    np.testing.assert_allclose(kernel.T, theirs.coef_, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(bias, theirs.intercept_, rtol=1e-6, atol=1e-7)
    logits = x @ ours["kernel"] + ours["bias"]
    np.testing.assert_array_equal(logits.argmax(1), theirs.predict(x))
    # The gradient of the objective is nothing.
    y = np.where(label[:, None] == np.arange(classes), 1, -1)
    slack = cost * y * np.maximum(1 - y * logits, 0)
    np.testing.assert_allclose(ours["kernel"], 2 * x.T @ slack, atol=1e-10 * max(1, cost))
    np.testing.assert_allclose(ours["bias"], 2 * slack.sum(0), atol=1e-10 * max(1, cost))


def test_an_svm_that_separates_and_one_without_a_class():
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    found = linear_svm(x, np.array([0, 0, 2, 2]), 3, 1e4)
    assert (x @ found["kernel"] + found["bias"]).argmax(1).tolist() == [0, 0, 2, 2]
    assert np.abs(found["kernel"][:, 1]).max() < 1e-3 and found["bias"][1] < -0.9
