"""AE: an autoencoder that fills in missing modalities, and a classifier on its output.

    c = [z_1; ...; z_M],   c^ = SimpleAE(c),   x^_m = decoder_m(c^),   logits = classifier(c^)
    L = CE(logits, y) + w sum_m hidden_m mean_d (x^_md - x_md)^2

Source: the baseline of GCNet's comparison (Lian et al., TPAMI 2023), ``baseline-mmin/models/
mmin_AE_model.py``, which is not the file of that name in the MMIN repository.  What it shares with
CRA is in ``reconstruction.py``; the autoencoder (M D -> 2/3 -> 1/3 of M D and back, 384 -> 256 ->
128 as published) in ``functional/autoencoders.py``.  Two quirks are kept: the classifier sees the
reconstruction and not the bottleneck, and the last activation is ReLU, so c^ is never negative
although features may be.

The published reconstruction loss is a sum over the batch times 0.002, 0.003 or 0.01 (a grid; 0.2 in
the README's example); ours is a mean, so ``reconstruction_weight`` is the published weight times
the batch size: 2.56 is 0.01 times 256.  ``layers`` and ``head_layers`` () are the published ones
relative to M D and D; the grid also has 256, 200, 128.  ``released`` initialises linear layers from
N(0, 0.02^2), as that code does; ``paper`` follows ``config.head_init``.

Any number of modalities.  A missing one is a zero input to its encoder; one that the data lack is
not reconstructed.
"""

import math
from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.functional.autoencoders import init_simple, simple_autoencoder
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.missing.networks import STARTS
from mla_jax.methods.missing.reconstruction import Autoencoder, reconstruction_method

HANDLES_MISSING = True
SEES_HIDDEN = True
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "layers": (),
        "head_layers": (),
        "reconstruction_weight": 2.56,
        "dropout": 0.5,
        "initialization": "head_init",
    },
    "released": {"initialization": "normal"},
}
CHOICES = {"initialization": STARTS}
LIMITS = {"reconstruction_weight": (0, math.inf), "dropout": (0, 1)}


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """AE for any number of modalities; with one, an autoencoder of its features."""
    autoencoder = Autoencoder(init_simple, simple_autoencoder)
    return reconstruction_method("ae", autoencoder, switches, encoders, optimizer, task)
