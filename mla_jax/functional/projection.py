"""Orthogonal projection of the shared head's gradient, MLA's head gradient modification (HGM).

MLA, section 3.2 and equations 2-3: after each sub-step on a modality whose mean feature is
:math:`\\bar h` the projection matrix is updated by recursive least squares,

.. math::  q = P\\bar h / (\\alpha + \\bar h^\\top P \\bar h), \\qquad
           P \\leftarrow P - q\\,\\bar h^\\top P,

and the next sub-step moves the head's kernel along :math:`P\\,\\nabla W` only, that is (nearly)
orthogonally to the features the head has already seen.  It is the one-layer case of orthogonal
weight modification (Zeng et al., 2019).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mla_jax.errors import check_choice

HIGHEST = jax.lax.Precision.HIGHEST

DENOMINATORS = ("scalar", "elementwise")
NORMALIZATIONS = ("none", "frobenius")
ORDERS = ("project_then_update", "update_then_project")
APPLICATIONS = ("replace", "add")


class ProjectionState(NamedTuple):
    """``P: float32[D, D]``, starting at the identity and never reset, and the calls so far.

    float64 in a process that has set ``jax_enable_x64``, as the parity tool does on request.
    """

    P: jax.Array
    count: jax.Array


def orthogonal_projection(
    dim: int,
    denominator: str = "scalar",
    normalize: str = "none",
    order: str = "project_then_update",
    apply: str = "replace",
    skip_first: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Projects the ``kernel`` of a head's gradient; the bias passes unchanged.

    ``update`` takes two extra arguments: ``feature_mean: float[D]``, the mean encoder output of
    this batch and modality, through which no gradient flows, and ``alpha``, a positive scalar.
    Put it before weight decay and momentum.  Every product is full float32 (``HIGHEST``): with
    TF32 or bfloat16 operands, the defaults of GPU and TPU, P becomes indefinite.

    The defaults are the paper's.  The published code's first version is ``elementwise``,
    ``frobenius``, ``update_then_project``, ``skip_first=True`` (quirks Q2, Q3, Q4, Q39).

    Args:
      dim: D, the width of the features.
      denominator: ``scalar``, alpha + h'Ph; or ``elementwise``, the D x D outer product of Ph and
        h plus alpha, divided entry by entry (``utils/utils.py:36``).
      normalize: ``frobenius`` divides P by its Frobenius norm after each update (``:38``).
      order: ``update_then_project`` lets this batch's own mean feature act on its own gradient.
      apply: ``replace`` the gradient by the projected one, or ``add`` it (BalanceMM's variant).
      skip_first: leaves gradient and P alone in the very first call (``exp_count != 0``).

    Raises:
      UserError: an option has an unknown value.
    """
    check_choice("projection denominator", denominator, DENOMINATORS)
    check_choice("projection normalize", normalize, NORMALIZATIONS)
    check_choice("projection order", order, ORDERS)
    check_choice("projection apply", apply, APPLICATIONS)

    def updated(P: jax.Array, h: jax.Array, alpha: jax.Array) -> jax.Array:
        Ph = jnp.matmul(P, h, precision=HIGHEST)
        if denominator == "scalar":
            scale = alpha + jnp.vdot(h, Ph, precision=HIGHEST)
        else:
            scale = alpha + jnp.outer(Ph, h)
        P = P - jnp.outer(Ph, Ph) / scale
        return P / jnp.linalg.norm(P) if normalize == "frobenius" else P

    def init(params: Any) -> ProjectionState:
        del params
        return ProjectionState(jnp.eye(dim, dtype=float), jnp.zeros((), jnp.int32))

    def update(
        updates: Any,
        state: ProjectionState,
        params: Any = None,
        *,
        feature_mean: jax.Array,
        alpha: jax.Array,
        **_: Any,
    ) -> tuple[Any, ProjectionState]:
        del params
        h = jax.lax.stop_gradient(feature_mean).astype(state.P.dtype)
        active = (state.count > 0) if skip_first else jnp.array(True)
        P = jnp.where(active, updated(state.P, h, alpha), state.P)
        gradient = updates["kernel"].astype(state.P.dtype)
        acting = P if order == "update_then_project" else state.P
        projected = jnp.matmul(acting, gradient, precision=HIGHEST)
        if apply == "add":
            projected = gradient + projected
        kernel = jnp.where(active, projected, gradient)
        return {**updates, "kernel": kernel}, ProjectionState(P, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def alpha_schedule(batch_index: Any, batches_per_epoch: Any) -> jax.Array:
    """The reference's alpha: 0.1 at the start of each epoch, falling towards 0.01 at its end.

    ``0.1 ** (1 + batch_index / batches_per_epoch)`` (``utils/utils.py:26-27``); the paper asks
    only for a small positive constant.
    """
    return 0.1 ** (1.0 + jnp.asarray(batch_index, float) / batches_per_epoch)
