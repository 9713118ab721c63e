"""OGM-GE: gradient modulation with generalisation enhancement (Peng et al., CVPR 2022).

``ogm``, and Gaussian noise on every modulated tensor's gradient, of the standard deviation of that
gradient before scaling (equation 11):

    theta_m <- theta_m - eta (k_m g_m + eps),   eps ~ N(0, std(g_m)^2)

As published the noise falls on both encoders, whichever is slowed down, and only within the epochs
of modulation.  It is a function of the run's seed, the step, the modality and the tensor, so a
resumed run draws the same.
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
    """OGM-GE of any number of modalities."""
    return ogm.build(switches, encoders, optimizer, task, name="ogm_ge", noise=True)
