"""The registry of training methods: a name, a module with ``FIDELITY``, ``CHOICES``, ``build``."""

from types import ModuleType
from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.errors import check_choice
from mla_jax.methods import concat, late_fusion, mla, unimodal
from mla_jax.methods.base import Method, Problem
from mla_jax.optim import Optimizer

REGISTRY: dict[str, ModuleType] = {
    "concat": concat,
    "late_fusion": late_fusion,
    "mla": mla,
    "unimodal": unimodal,
}


def get(name: str) -> ModuleType:
    """The module of a method; ``UserError`` with the nearest name if there is none."""
    check_choice("method", name, REGISTRY)
    return REGISTRY[name]


def create_method(
    switches: Any, encoders: Encoders, optimizer: Optimizer, problem: Problem
) -> Method:
    """Builds the method of ``config.method``, its switches resolved (``configuration.resolve``)."""
    return get(switches.name).build(switches, encoders, optimizer, problem)
