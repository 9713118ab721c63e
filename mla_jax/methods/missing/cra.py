"""CRA: a cascaded residual autoencoder fills in missing modalities (Tran et al., CVPR 2017).

    u_1 = c = [z_1; ...; z_M],   u_{k+1} = u_k + dec_k(enc_k(u_k)),   c^ = T(u_{n+1})
    x^_m = decoder_m(c^),   logits = classifier(c^)
    L = CE(logits, y) + w sum_m hidden_m mean_d (x^_md - x_md)^2

Every block predicts what is still missing in the sum of the incomplete input and the residuals so
far.

Source: GCNet's ``baseline-mmin/models/mmin_CRA_model.py``, which is ``ae`` with this autoencoder
instead, and with a transition T that Tran et al. do not have; they train the cascade only on the
error of c^.  See ``ae`` for the losses, the switches and missing modalities.  The
published grid: 2, 3, 5 or 6 blocks of widths 256, 128 or 256, 200, 128; weights 0.01, 0.02, 0.03
of a sum over 256 examples (0.8 in the README's example): 5.12 is 0.02 times 256.
"""

import math
from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import init_residual, residual_autoencoder
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.missing.networks import STARTS
from mla_jax.methods.missing.reconstruction import Autoencoder, reconstruction_method

HANDLES_MISSING = True
SEES_HIDDEN = True
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "layers": (),
        "blocks": 2,
        "head_layers": (),
        "reconstruction_weight": 5.12,
        "dropout": 0.5,
        "initialization": "head_init",
    },
    "released": {"initialization": "normal"},
}
CHOICES = {"initialization": STARTS}
LIMITS = {"reconstruction_weight": (0, math.inf), "dropout": (0, 1), "blocks": (1, 100)}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """CRA for any number of modalities; with one, a residual autoencoder of its features."""

    def init(rng, features, widths, initialization):
        return init_residual(rng, features, widths, switches.blocks, initialization)

    autoencoder = Autoencoder(init, residual_autoencoder)
    return reconstruction_method("cra", autoencoder, switches, encoders, optimizer, task)
