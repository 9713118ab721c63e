"""Runs this package on the weights and batches of the references."""

from collections.abc import Callable

from mla_jax.convert.names import Tensors
from mla_jax.parity.ours import dimml, joint, mla

RUN: dict[str, Callable[..., Tensors]] = {
    "mla": mla.run,
    "joint": joint.run,
    "detached": dimml.detached,
    "fused": dimml.fused,
    "module": dimml.fusion_module,
}
"""``{kind of column: (column, case, found, dtype, broken="") -> every quantity}``.

``found`` is what ``theirs.RUN`` gave, or what a fixture holds of it.
"""
