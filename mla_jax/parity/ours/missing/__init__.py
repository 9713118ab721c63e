"""Runs our methods for missing modalities on the weights and inputs of the references."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from mla_jax.parity.columns import Column
from mla_jax.parity.formula import Tensors
from mla_jax.parity.ours.missing import stages, views

RUN: Mapping[str, Callable[..., Tensors]] = {
    "reconstruction": stages.reconstruction,
    "imagination": stages.imagination,
    "correlation": views.deep,
    "closed": views.closed,
}
"""By ``Column.kind``: ``(column, what theirs found, dtype) -> rows``."""


def run(column: Column, found: Tensors, dtype: Any) -> Tensors:
    """Every quantity of a column.  Programs run once or thrice: compiling is what takes time."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        return RUN[column.kind](column, found, dtype)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
