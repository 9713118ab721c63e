"""Compiler options that make training faster on a CPU."""

import functools
from typing import Any

import jax

from mla_jax.encoders import Encoders

NO_YNNPACK_CONVOLUTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
"""Uses XLA's own convolutions instead of YNNPACK's, which is kept for matrix products."""


def options_for(encoders: Encoders, platform: str) -> dict[str, Any] | None:
    """How to compile the training phases of these encoders; None for XLA's defaults.

    ``platform``: the platform of the devices that the phases are compiled for.

    With the wide convolutions of a ResNet-18 YNNPACK takes twice the time (docs/speed.md).  Small
    encoders keep the default: the published figures of this repository were made with it.
    """
    wide = any(getattr(module, "wide_convolutions", False) for module in encoders.modules.values())
    if not wide or platform != "cpu" or not _is_known():
        return None
    return dict(NO_YNNPACK_CONVOLUTIONS)


@functools.cache
def _is_known() -> bool:
    """Whether this version of XLA has the option, which is experimental."""
    try:
        jax.jit(lambda x: x, compiler_options=dict(NO_YNNPACK_CONVOLUTIONS)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
