"""Compiler options that pay on a CPU."""

import functools
from typing import Any

import jax

from mla_jax.encoders import Encoders

NO_YNNPACK_CONVOLUTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
"""XLA's own convolutions in the place of YNNPACK's, which stays for matrix products."""


def options_for(encoders: Encoders, platform: str) -> dict[str, Any] | None:
    """How to compile the training phases of these encoders; None for XLA's defaults.

    ``platform``: that of the devices that they are compiled for.

    With the wide convolutions of a ResNet-18 YNNPACK takes twice the time (docs/speed.md).  Small
    encoders keep the default, with which the published figures of this repository were made.
    """
    wide = any(getattr(module, "wide_convolutions", False) for module in encoders.modules.values())
    if not wide or platform != "cpu" or not _is_known():
        return None
    return dict(NO_YNNPACK_CONVOLUTIONS)


@functools.cache
def _is_known() -> bool:
    """Whether this XLA has the option; it is an experimental one."""
    try:
        jax.jit(lambda x: x, compiler_options=dict(NO_YNNPACK_CONVOLUTIONS)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
