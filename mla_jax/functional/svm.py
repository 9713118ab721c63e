"""A linear support vector machine, solved exactly by Newton's method.

For each class c, with y_i = 1 for its examples and -1 for all others:

    minimise over w and b:   (|w|^2 + b^2) / 2 + C sum_i max(0, 1 - y_i (w x_i + b))^2

This is scikit-learn's ``LinearSVC(C, dual=False)``, which uses liblinear: the squared hinge, one
class against the rest, and the intercept b regularised like a weight (``intercept_scaling=1``).
The objective is strongly convex and piecewise quadratic, so Newton's method reaches its minimum in
a few steps, to float64 precision; liblinear stops at ``tol=1e-4``.  Two classes are two mirrored
problems, and the larger logit agrees with the sign that scikit-learn uses.

A class without examples has a logit of about -1 everywhere.
"""

import numpy as np

MOST_STEPS = 200


def linear_svm(
    x: np.ndarray, label: np.ndarray, classes: int, cost: float
) -> dict[str, np.ndarray]:
    """``{"kernel": float64[F, C], "bias": float64[C]}`` of ``x: [N, F]``, ``label: int[N]``.

    ``cost`` is the C above.  Runs on the host, in float64.

    >>> from mla_jax.functional import svm
    >>> x, label = np.array([[0.0], [1.0], [4.0], [5.0]]), np.array([0, 0, 1, 1])
    >>> head = svm.linear_svm(x, label, classes=2, cost=1.0)
    >>> (x @ head["kernel"] + head["bias"]).argmax(1)
    array([0, 0, 1, 1])
    """
    x = np.concatenate([np.asarray(x, np.float64), np.ones((len(x), 1))], axis=1)
    each = [_against_rest(x, np.where(label == c, 1.0, -1.0), cost) for c in range(classes)]
    weights = np.stack(each, axis=1)
    return {"kernel": weights[:-1], "bias": weights[-1]}


def _against_rest(x: np.ndarray, y: np.ndarray, cost: float) -> np.ndarray:
    """The weights ``float64[F + 1]`` of one class; ``x`` has a column of ones for the intercept."""
    w = np.zeros(x.shape[1])

    def value(w: np.ndarray) -> float:
        return w @ w / 2 + cost * np.square(np.maximum(1 - y * (x @ w), 0)).sum()

    for _ in range(MOST_STEPS):
        slack = 1 - y * (x @ w)
        inside = slack > 0
        X = x[inside]
        gradient = w - 2 * cost * X.T @ (y * slack)[inside]
        step = np.linalg.solve(np.eye(len(w)) + 2 * cost * X.T @ X, gradient)
        decrease, before, rate = gradient @ step, value(w), 1.0
        if decrease <= 1e-18 * before:
            break
        while value(w - rate * step) > before - 1e-4 * rate * decrease and rate > 1e-10:
            rate /= 2
        w = w - rate * step
    return w
