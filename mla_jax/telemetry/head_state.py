"""What optimisers keep for the heads: the projection, and what is left of the steps before."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mla_jax.functional.projection import HIGHEST, ProjectionState, kernels
from mla_jax.state import TrainState


def is_projection(node: Any) -> bool:
    return isinstance(node, ProjectionState)


def projection_of(state: TrainState) -> list[jax.Array]:
    """``[P: float32[D, D]]`` where the head's gradient is projected, else ``[]``."""
    nodes = jax.tree.leaves(state.opt_state["head"], is_leaf=is_projection)
    return [node.P for node in nodes if is_projection(node)]


def project(P: jax.Array, head: Any) -> Any:
    """The gradient of a head after the projection: kernels only, as ``orthogonal_projection``."""
    chosen = kernels(len(P))(head)
    return jax.tree.map(
        lambda leaf, yes: jnp.matmul(P, leaf, precision=HIGHEST) if yes else leaf, head, chosen
    )


def without_projection(state: TrainState) -> TrainState:
    """``state`` with every P replaced by the identity."""
    opt_state = jax.tree.map(
        lambda node: (
            node._replace(P=jnp.eye(len(node.P), dtype=node.P.dtype))
            if is_projection(node)
            else node
        ),
        state.opt_state,
        is_leaf=is_projection,
    )
    return state.replace(opt_state=opt_state)


def without_past(state: TrainState) -> TrainState:
    """``state`` with the momentum of the heads' optimisers cleared; every P stays."""
    head = jax.tree.map(
        lambda node: node if is_projection(node) else jnp.zeros_like(node),
        state.opt_state["head"],
        is_leaf=is_projection,
    )
    return state.replace(opt_state={**state.opt_state, "head": head})


def uses_adam(state: TrainState) -> bool:
    """Whether the step of a head is not a linear function of its gradients."""

    def is_adam(node: Any) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    return any(map(is_adam, jax.tree.leaves(state.opt_state["head"], is_leaf=is_adam)))


def spectrum(P: jax.Array) -> dict[str, jax.Array]:
    """What P lets through: its eigenvalues, and its effective rank (Roy & Vetterli, 2007).

    The effective rank is the exponential of the entropy of the eigenvalues' shares: D for the
    identity, 1 if only one direction is left.
    """
    values = jnp.maximum(jnp.linalg.eigvalsh(P), 0)
    shares = values / jnp.maximum(values.sum(), 1e-30)
    return {
        "largest": values[-1],
        "median": jnp.median(values),
        "smallest": values[0],
        "mean": values.mean(),
        "effective_rank": jnp.exp(jax.scipy.special.entr(shares).sum()),
    }
