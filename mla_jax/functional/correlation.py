"""Canonical correlations of two views: their directions in closed form, and a loss on a batch.

    Sigma_x = X'X / (n - 1) + r I,   Sigma_y likewise,   Sigma_xy = X'Y / (n - 1)     (X, Y centred)
    T = Sigma_x^(-1/2) Sigma_xy Sigma_y^(-1/2) = U diag(sigma) V'
    directions  A = Sigma_x^(-1/2) U_k,   B = Sigma_y^(-1/2) V_k
    loss        -sum_i sqrt(sigma_i^2 + r)

Hotelling, Biometrika 1936; the loss is deep CCA's (Andrew et al., ICML 2013).  Both have the
stabilisers of GCNet's baselines (``baseline-cca/cca.py`` and ``dcca.py``): r on the diagonals, and
in the loss also under the root, where it keeps the gradient finite at sigma = 0.

The loss whitens with Cholesky factors, T = L_x^-1 Sigma_xy L_y^-T: a rotation of the T above, with
the same singular values.  It avoids the gradient of ``eigh``, which does not exist for equal
eigenvalues; the gradient of a sum over singular values does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.functional.heads import HIGHEST
from mla_jax.functional.shapes import check_axes

ROUNDING = 1e-6
"""The share of the largest variance that float32 sums cannot distinguish from 0."""


def directions(
    covariance_x: np.ndarray,
    covariance_y: np.ndarray,
    cross: np.ndarray,
    k: int,
    r_x: float | np.ndarray,
    r_y: float | np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k leading pairs of directions ``A: [Fx, k]``, ``B: [Fy, k]``, and their sigma ``[k]``.

    In float64 on the host.  ``covariance_x: [Fx, Fx]``, ``covariance_y: [Fy, Fy]`` and ``cross:
    [Fx, Fy]`` do not include r, which is one number per view, or one per feature.

    >>> from mla_jax.functional import correlation
    >>> cross = np.array([[0.9, 0.0], [0.0, 0.1]])  # the first features of both go together
    >>> A, B, sigma = correlation.directions(np.eye(2), np.eye(2), cross, k=1, r_x=0.0, r_y=0.0)
    >>> sigma, abs(A[:, 0]), abs(B[:, 0])
    (array([0.9]), array([1., 0.]), array([1., 0.]))
    """
    root_x, root_y = _inverse_root(covariance_x, r_x), _inverse_root(covariance_y, r_y)
    U, sigma, Vt = np.linalg.svd(root_x @ cross @ root_y, full_matrices=False)
    return root_x @ U[:, :k], root_y @ Vt[:k].T, sigma[:k]


def covariances(
    n: int, a: np.ndarray, b: np.ndarray, aa: np.ndarray, bb: np.ndarray, ab: np.ndarray
) -> list[np.ndarray]:
    """The covariances of two views and between them, in float64, from sums over n examples.

    ``a: [Fx]``, ``b: [Fy]`` are the sums of the views, ``aa: [Fx, Fx]``, ``bb``, ``ab`` those of
    the products.  Subtract something near the mean first, for precision.

    >>> from mla_jax.functional import correlation
    >>> x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [4.0], [6.0]])
    >>> found = correlation.covariances(3, x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y)
    >>> [float(c[0, 0]) for c in found]
    [1.0, 4.0, 2.0]
    """
    count, a, b = np.float64(n), np.asarray(a, np.float64), np.asarray(b, np.float64)
    of_both = ((aa, a, a), (bb, b, b), (ab, a, b))
    return [(s - np.outer(u, v) / max(count, 1)) / max(count - 1, 1) for s, u, v in of_both]


def deviations(covariance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Standard deviations; infinite, so that it has no effect, for a feature that does not vary
    beyond the rounding of its mean.

    >>> from mla_jax.functional import correlation
    >>> correlation.deviations(np.diag([4.0, 0.0]), mean=np.array([1.0, 5.0]))
    array([ 2., inf])
    """
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 0))
    return np.where(deviation <= ROUNDING * np.abs(mean), np.inf, deviation)


def _inverse_root(covariance: np.ndarray, r: float | np.ndarray) -> np.ndarray:
    """``(covariance + r I)^(-1/2)``, symmetric; eigenvalues below 0 from rounding are raised."""
    eigenvalues, vectors = np.linalg.eigh(covariance + np.diag(np.broadcast_to(r, len(covariance))))
    eigenvalues = np.maximum(eigenvalues, ROUNDING / 10 * eigenvalues[-1])
    return (vectors / np.sqrt(eigenvalues)) @ vectors.T


def correlations(x: jax.Array, y: jax.Array, counted: jax.Array, r: float) -> jax.Array:
    """The canonical correlations ``sigma: float32[min(Kx, Ky)]`` of a batch, largest first.

    ``x: float[B, Kx]``, ``y: float[B, Ky]``; examples outside ``counted: bool[B]`` are ignored.
    If r is less than a view's largest variance times 1e-6, that product is used: float32 would lose
    r, and the Cholesky factor of dependent features would be NaN.

    >>> from mla_jax.functional import correlation
    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    >>> y = x[:, :1] * 5 + 1  # one number, which the first of x tells
    >>> correlation.correlations(x, y, jnp.ones(4, bool), r=1e-6)
    Array([1.], dtype=float32)
    """
    check_axes(x=(x, "B K"), y=(y, "B L"), counted=(counted, "B"))
    n = counted.sum()

    def centred(z: jax.Array) -> jax.Array:
        z = jnp.where(counted[:, None], z, 0)
        return jnp.where(counted[:, None], z - z.sum(0) / jnp.maximum(n, 1), 0)

    def covariance(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a.T, b, precision=HIGHEST) / jnp.maximum(n - 1, 1)

    def factor(z: jax.Array) -> jax.Array:
        sigma = covariance(z, z)
        largest = jax.lax.stop_gradient(jnp.diagonal(sigma).max())
        return jnp.linalg.cholesky(sigma + jnp.maximum(r, ROUNDING * largest) * jnp.eye(len(sigma)))

    def solved(factor: jax.Array, matrix: jax.Array) -> jax.Array:
        return jax.scipy.linalg.solve_triangular(factor, matrix, lower=True)

    x, y = centred(x), centred(y)
    T = solved(factor(y), solved(factor(x), covariance(x, y)).T).T
    return jnp.linalg.svd(T, compute_uv=False)


def correlation_loss(x: jax.Array, y: jax.Array, counted: jax.Array, r: float) -> jax.Array:
    """Deep CCA's loss of a batch, a number: the negative sum of its ``correlations``, see above.

    >>> from mla_jax.functional import correlation
    >>> x = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    >>> round(float(correlation.correlation_loss(x, 5 * x, jnp.ones(4, bool), r=1e-6)), 3)
    -2.0
    """
    return -jnp.sqrt(correlations(x, y, counted, r) ** 2 + r).sum()
