"""OGM-GE: gradient modulation with generalisation enhancement (Peng et al., CVPR 2022).

``ogm`` with Gaussian noise on every modulated tensor's gradient.  Its deviation is that of the
gradient before scaling (equation 11):

    theta_m <- theta_m - eta (k_m g_m + eps),   eps ~ N(0, std(g_m)^2)

As published, the noise is added to both encoders, whichever is slowed down, and only within the
epochs of modulation.  It depends on the run's seed, the step, the modality and the tensor, so a
resumed run draws the same noise.
"""

from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods import ogm
from mla_jax.methods.base import Method, Task

FIDELITY = ogm.FIDELITY
CHOICES = ogm.CHOICES
LIMITS = ogm.LIMITS


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """OGM-GE for any number of modalities."""
    return ogm.build(switches, encoders, optimizer, task, name="ogm_ge", noise=True)
