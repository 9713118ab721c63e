"""Deep canonically correlated autoencoders: deep CCA whose codes can be decoded (Wang et al.).

Deep CCA (see ``dcca.py`` for stages, filling, switches, prediction) with one more term in stage 1,

    L = sum over pairs of  -sum_i sqrt(sigma_i^2 + r)  +  lambda sum_m mean (dec_m(c_m) - x_m)^2

where x_m is the flattened input if that is at most 4096 floating-point numbers, and otherwise the
features z_m, which get no gradient as a target (``targets.py``); lambda = 0.001
(``reconstruction_weight``), and the mean is over the examples and the numbers of x_m.  The decoder
mirrors the published encoder: three layers of Linear, BatchNorm and ReLU, as wide as the features,
and a Linear one.  It is only used in training, so its batch normalisation keeps no running
averages.

Source: GCNet's baseline (``baseline-cca/dccae.py``); the idea is of Wang et al., ICML 2015.
Filled entries are reconstructed too, as published; under ``pairs=present`` they are not.  The
released code keeps the checkpoint with the lowest validation loss, judged one epoch late; ours
keeps the last.
With one modality it is an autoencoder.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.encoders import Encoders
from mla_jax.functional.heads import apply_head, init_head
from mla_jax.functional.losses import masked_mean
from mla_jax.functional.optimizers import Optimizer
from mla_jax.methods.base import Method, Task
from mla_jax.methods.missing import dcca
from mla_jax.methods.missing.deep_correlation import Named, Term, correlation_method

HANDLES_MISSING = True
FIDELITY: dict[str, dict[str, Any]] = {
    "paper": {**dcca.FIDELITY["paper"], "reconstruction_weight": 1e-3},
    "released": dcca.FIDELITY["released"],
}
CHOICES = dcca.CHOICES
LIMITS = {**dcca.LIMITS, "reconstruction_weight": (0, math.inf)}
DEPENDS_ON_EPOCHS = "dccae fits its SVM after the last epoch of its first stage"
HIDDEN_LAYERS = 3
EPSILON = 1e-5
"""The epsilon of PyTorch's batch normalisation."""


def build(switches: Any, encoders: Encoders, optimizer: Optimizer, task: Task) -> Method:
    """DCCAE for any number of modalities."""
    D = encoders.feature_dim

    def init_decoder(rng: jax.Array, k: int, width: int) -> dict[str, Any]:
        sizes = [k, *[D] * HIDDEN_LAYERS, width]
        keys = jax.random.split(rng, len(sizes))
        layers = zip(keys, sizes, sizes[1:], strict=False)
        linear = [init_head(key, a, b, task.head_init) for key, a, b in layers]
        norm = {"scale": jnp.ones(D), "bias": jnp.zeros(D)}
        names = [f"layer_{i}" for i in range(HIDDEN_LAYERS)]
        hidden = {name: {**layer, "norm": norm} for name, layer in zip(names, linear, strict=False)}
        return {**hidden, "output": linear[-1]}

    def reconstruction(heads: Named, codes: Named, raw: Named, counted: Named) -> jax.Array:
        total = jnp.zeros(())
        for m, x in raw.items():
            error = jnp.square(decode(heads[m], codes[m], counted[m]) - x).mean(1)
            total += masked_mean(error, counted[m])
        return switches.reconstruction_weight * total

    term = Term(init_decoder, reconstruction, "_decoder")
    return correlation_method("dccae", switches, encoders, optimizer, task, term)


def decode(decoder: dict[str, Any], code: jax.Array, counted: jax.Array) -> jax.Array:
    """``float32[B, F_m]`` of ``code: float32[B, k]``; batch statistics of ``counted: bool[B]``."""
    h = code
    for i in range(HIDDEN_LAYERS):
        layer = decoder[f"layer_{i}"]
        norm = layer["norm"]
        h = apply_head({"kernel": layer["kernel"], "bias": layer["bias"]}, h)
        h = h - masked_mean(h, counted)
        variance = masked_mean(jnp.square(h), counted)
        h = jax.nn.relu(h * jax.lax.rsqrt(variance + EPSILON) * norm["scale"] + norm["bias"])
    return apply_head(decoder["output"], h)
