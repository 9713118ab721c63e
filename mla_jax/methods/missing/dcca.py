"""Deep CCA: encoders learn codes that correlate in pairs, then a linear SVM (Andrew et al.).

Stage 1, ``correlation``, without labels:

    c_m = V_m z_m + d_m          z_m the encoder's features, c_m of k numbers
    L = sum over pairs of  -sum_i sqrt(sigma_i^2 + r)

where sigma are the canonical correlations of two codes over the batch
(``functional/correlation.py``).  Stage 2, ``svm``, in closed form, on the codes in evaluation mode:

    logits = W [c_1; ...; c_M] + b

Source: GCNet's baseline (``baseline-cca/dcca.py``: k = 2 to 20, r = 1e-3, batches of 1024, Adam,
``LinearSVC`` with C = 0.01); the loss is of Andrew et al., ICML 2013.  There an encoder is three
layers of Linear, BatchNorm and ReLU; the last layer, to k, is the same here.  Covariances need
batches larger than k, preferably many times larger.

A missing input is filled with the mean of the training examples that have it, and then goes through
the encoder, its batch statistics and the loss like any other, as published; ``pairs=present`` keeps
filled entries out of both.  Tokens have no mean: their features are filled, with the mean
over the batch in stage 1 and over the training set afterwards.

``third_encoder=second`` is the released code, which uses the encoder and last layer of the second
modality for the third (``model2(x3)``); both must be of one kind and shape.  It has no effect
with fewer than three modalities.

Every unordered pair has its own term.  With one modality there is no pair and no loss: the encoder
does not change.
"""

import math
from typing import Any

from mla_jax.encoders import Encoders
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.missing.deep_correlation import correlation_method

HANDLES_MISSING = True
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {
        "projections": 0,
        "regularization": 1e-3,
        "pairs": "filled",
        "third_encoder": "own",
        "svm_cost": 0.01,
    },
    "released": {"third_encoder": "second"},
}
CHOICES = {"pairs": ("filled", "present"), "third_encoder": ("own", "second")}
LIMITS = {
    "projections": (0, 4096),
    "regularization": (0, math.inf),
    "svm_cost": (0, math.inf),
}
DEPENDS_ON_EPOCHS = "dcca fits its SVM after the last epoch of its first stage"


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """Deep CCA for any number of modalities; ``projections=0``: 10, or feature_dim if less."""
    return correlation_method("dcca", switches, encoders, optimizer, task)
