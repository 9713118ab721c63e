"""Unimodal training: one encoder and one head.  The ceiling for a single modality.

``compare`` runs it once for each modality of the configuration.
"""

from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.errors import UserError
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods import late_fusion
from mla_jax.methods.base import Method, Task

FIDELITY: dict[str, dict[str, Any]] = {"paper": {"fusion": "equal"}, "released": {}}
CHOICES = {"fusion": ("equal",)}
TRAINS_ONE_MODALITY = True


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """Raises ``UserError`` unless there is exactly one modality."""
    if len(encoders.modalities) != 1:
        raise UserError(
            f"method 'unimodal' trains exactly one modality, not {'+'.join(encoders.modalities)}: "
            f"set modalities={encoders.modalities[0]}, or use 'late_fusion' to train all of them"
        )
    method = late_fusion.build(switches, encoders, optimizer, task)
    return method._replace(name="unimodal")
