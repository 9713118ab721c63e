"""Orthogonal projection of the shared head's gradient, MLA's head gradient modification (HGM).

MLA, section 3.2 and equations 2-3: after each sub-step on a modality whose mean feature is
:math:`\\bar h` the projection matrix is updated by recursive least squares,

.. math::  q = P\\bar h / (\\alpha + \\bar h^\\top P \\bar h), \\qquad
           P \\leftarrow P - q\\,\\bar h^\\top P,

and the next sub-step moves the head's kernel along :math:`P\\,\\nabla W` only, that is (nearly)
orthogonally to the features the head has already seen.  It is the one-layer case of orthogonal
weight modification (Zeng et al., 2019).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mla_jax.errors import UserError, check_choice
from mla_jax.functional.shapes import check_axes

HIGHEST = jax.lax.Precision.HIGHEST

DENOMINATORS = ("scalar", "elementwise")
NORMALIZATIONS = ("none", "frobenius")
ORDERS = ("project_then_update", "update_then_project")
APPLICATIONS = ("replace", "add")


class ProjectionState(NamedTuple):
    """``P: float32[D, D]``, initially the identity and never reset, and the number of calls.

    P is float64 if ``jax_enable_x64`` is set, as the parity tool does on request.

    >>> params = {"kernel": jnp.ones((2, 3))}
    >>> state = mla_jax.orthogonal_projection(2).init(params)
    >>> state.P
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    >>> int(state.count)
    0
    """

    P: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as optax's states do


Mask = Any | Callable[[Any], Any]
"""A tree of booleans like the parameters, or a function from parameters to one, as in optax."""


def kernels(dim: int) -> Callable[[Any], Any]:
    """The default mask: leaves named ``kernel``, or a bare array, of shape ``[dim, C]``.

    Those are the kernels of linear layers on features of width ``dim`` in Flax.

    >>> params = {"encoder": {"kernel": jnp.ones((5, 2))}, "head": {"kernel": jnp.ones((2, 3))}}
    >>> mla_jax.projection.kernels(2)(params)
    {'encoder': {'kernel': False}, 'head': {'kernel': True}}
    """

    def choose(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True) if path else "kernel"
        return name == "kernel" and jnp.ndim(leaf) == 2 and jnp.shape(leaf)[0] == dim

    return lambda params: jax.tree_util.tree_map_with_path(choose, params)


def orthogonal_projection(
    dim: int,
    denominator: str = "scalar",
    normalize: str = "none",
    order: str = "project_then_update",
    apply: str = "replace",
    skip_first: bool = False,
    mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Projects the gradients of the kernels of a head; all other leaves pass unchanged.

    ``update`` takes two extra arguments: ``feature_mean: float[D]``, the mean encoder output of
    this batch and modality, through which no gradient flows, and ``alpha``, a positive scalar.
    Put it before weight decay and momentum.  Every product is full float32 (``HIGHEST``): with
    TF32 or bfloat16 operands, the defaults of GPU and TPU, P becomes indefinite.

    It works on any tree of parameters, inside ``optax.chain``, ``optax.masked`` and
    ``optax.multi_transform``.  All projected leaves share one P.

    The defaults are the paper's.  The published code's first version is ``elementwise``,
    ``frobenius``, ``update_then_project``, ``skip_first=True`` (quirks Q2, Q3, Q4, Q39).

    Args:
      dim: D, the width of the features.
      denominator: ``scalar``, alpha + h'Ph; or ``elementwise``, the D x D outer product of Ph and
        h plus alpha, divided entry by entry (``utils/utils.py:36``).
      normalize: ``frobenius`` divides P by its Frobenius norm after each update (``:38``).
      order: ``update_then_project`` applies this batch's mean feature to its own gradient too.
      apply: ``replace`` the gradient by the projected one, or ``add`` it (BalanceMM's variant).
      skip_first: leaves gradient and P unchanged in the very first call (``exp_count != 0``).
      mask: which leaves are projected; a chosen leaf has D rows.  The default is every leaf that
        ``kernels(dim)`` selects: if hidden layers are also D wide, choose the head yourself.

    Raises:
      UserError: an option has an unknown value.  ``init`` raises it for a tree without a leaf to
        project, ``update`` for a ``feature_mean`` of another shape.

    >>> tx = optax.chain(mla_jax.orthogonal_projection(2), optax.sgd(1.0))
    >>> tree = {"encoder": {"kernel": jnp.ones((5, 2))}, "head": {"kernel": jnp.ones((2, 3))}}
    >>> seen = {"feature_mean": jnp.array([3.0, 0.0]), "alpha": 0.1}  # along the first axis
    >>> _, state = tx.update(tree, tx.init(tree), tree, **seen)
    >>> updates, state = tx.update(tree, state, tree, **seen)  # the next step: hardly along it
    >>> updates["head"]["kernel"]
    Array([[-0.011, -0.011, -0.011],
           [-1.   , -1.   , -1.   ]], dtype=float32)
    >>> updates["encoder"]["kernel"][0]
    Array([-1., -1.], dtype=float32)
    """
    check_choice("projection denominator", denominator, DENOMINATORS)
    check_choice("projection normalize", normalize, NORMALIZATIONS)
    check_choice("projection order", order, ORDERS)
    check_choice("projection apply", apply, APPLICATIONS)
    mask = kernels(dim) if mask is None else mask

    def chosen_of(tree: Any) -> Any:
        return _broadcast(mask(tree) if callable(mask) else mask, tree)

    def updated(P: jax.Array, h: jax.Array, alpha: jax.Array) -> jax.Array:
        Ph = jnp.matmul(P, h, precision=HIGHEST)
        if denominator == "scalar":
            scale = alpha + jnp.vdot(h, Ph, precision=HIGHEST)
        else:
            scale = alpha + jnp.outer(Ph, h)
        P = P - jnp.outer(Ph, Ph) / scale
        return P / jnp.linalg.norm(P) if normalize == "frobenius" else P

    def init(params: Any) -> ProjectionState:
        _check_chosen(chosen_of(params), params, dim)
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
        check_axes(feature_mean=(feature_mean, str(dim)), alpha=(alpha, ""))
        h = jax.lax.stop_gradient(feature_mean).astype(state.P.dtype)
        active = (state.count > 0) if skip_first else jnp.array(True)
        P = jnp.where(active, updated(state.P, h, alpha), state.P)
        acting = P if order == "update_then_project" else state.P

        def project(chosen: bool, leaf: jax.Array) -> jax.Array:
            if not chosen:
                return leaf
            gradient = leaf.astype(state.P.dtype).reshape(dim, -1)
            projected = jnp.matmul(acting, gradient, precision=HIGHEST)
            if apply == "add":
                projected = gradient + projected
            return jnp.where(active, projected, gradient).reshape(leaf.shape)

        updates = jax.tree.map(project, chosen_of(updates), updates)
        return updates, ProjectionState(P, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def _broadcast(mask: Any, tree: Any) -> Any:
    """A mask that is a prefix of ``tree``, expanded to a tree of booleans like ``tree``."""
    try:
        return jax.tree.map(lambda flag, part: jax.tree.map(lambda _: flag, part), mask, tree)
    except (ValueError, TypeError) as error:
        raise UserError(
            "the mask of orthogonal_projection has another structure than the parameters: give a "
            "tree like theirs, a prefix of it, or a function from one to the other"
        ) from error


def _check_chosen(chosen: Any, params: Any, dim: int) -> None:
    """Raises ``UserError`` unless a leaf is chosen and every chosen leaf has ``dim`` rows."""
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/") or "the array": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    flags = dict(zip(named, jax.tree.leaves(chosen), strict=True))
    wrong = [name for name, flag in flags.items() if flag and jnp.shape(named[name])[:1] != (dim,)]
    if wrong:
        raise UserError(
            f"orthogonal_projection({dim}) cannot project {wrong[0]}, of shape "
            f"{list(jnp.shape(named[wrong[0]]))}: its first axis must be {dim}"
        )
    if not any(flags.values()):
        shown = [f"{name} {list(jnp.shape(leaf))}" for name, leaf in named.items()]
        more = ", ..." if len(shown) > 8 else ""
        raise UserError(
            f"orthogonal_projection({dim}) finds nothing to project: by default a leaf called "
            f"'kernel' of shape [{dim}, C], and the tree has {', '.join(shown[:8]) or 'no leaf'}"
            f"{more}: give the width of that head, or mask="
        )


def alpha_schedule(batch_index: Any, batches_per_epoch: Any) -> jax.Array:
    """The reference's alpha: 0.1 at the start of each epoch, falling towards 0.01 at its end.

    ``0.1 ** (1 + batch_index / batches_per_epoch)`` (``utils/utils.py:26-27``); the paper asks
    only for a small positive constant.

    >>> mla_jax.alpha_schedule(jnp.arange(4), batches_per_epoch=4)
    Array([0.1  , 0.056, 0.032, 0.018], dtype=float32)
    """
    return 0.1 ** (1.0 + jnp.asarray(batch_index, float) / batches_per_epoch)
