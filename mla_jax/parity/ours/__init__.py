"""Runs this package on the weights and batches of the references."""

from typing import Any

from mla_jax.parity.cases import Case
from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.ours import dimml, joint, missing, mla
from mla_jax.parity.ours.compiled import CompiledMethod

RUN = {
    "mla": mla.run,
    "joint": joint.run,
    "detached": dimml.detached,
    "fused": dimml.fused,
    "module": dimml.fusion_module,
}
"""By ``Column.kind``."""


def run(column: Column, case: Case | None, found: Tensors, dtype: Any, broken: str = "") -> Tensors:
    """Every quantity of a column; ``found`` is what ``theirs.run`` gave, or a fixture of it."""
    if column.published:
        return missing.run(column, found, dtype)
    assert case is not None  # the other columns have one
    return RUN[column.kind](CompiledMethod(column, case, dtype, broken), found)
