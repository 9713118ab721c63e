"""Runs our methods for missing modalities on the weights and inputs of the references."""

from collections.abc import Callable, Mapping

from mla_jax.convert.names import Tensors
from mla_jax.parity.ours.missing import stages

RUN: Mapping[str, Callable[..., Tensors]] = {
    "reconstruction": stages.reconstruction,
    "imagination": stages.imagination,
}
"""By ``Column.kind``: ``(column, what theirs found, dtype) -> rows``."""
