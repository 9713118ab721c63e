"""The networks of the methods that imagine missing modalities, as plain parameter dictionaries.

    perceptron   Linear, ReLU, Dropout, ..., Linear               (``FcClassifier``)
    simple       encoder: Linear, LeakyReLU for each width; decoder: Linear, LeakyReLU, ..., Linear,
                 ReLU, so that nothing that it reconstructs is negative       (``SimpleFcAE``)
    residual     n blocks of encoder and decoder and a transition T           (``ResidualAE``)

A residual block's encoder has LeakyReLU and its decoder ReLU between layers, and neither after its
last one; T is Linear, ReLU, Linear.  With l_k = enc_k(u_k) and d_k = dec_k(l_k):

    cascade      u_k = x + sum_{j<k} d_j,        output = T(x + sum_j d_j)    (Tran et al., 2017)
    invariant    u_1 = x + H, u_{k+1} = d_k + H, output = T(d_n)              (IF-MMIN)

and the latent vector is [l_1; ...; l_n].

Source: ``models/networks/{autoencoder,autoencoder_2,classifier,shared}.py`` of MMIN, IF-MMIN and
GCNet's ``baseline-mmin``.  Layers are ``{"0": {"kernel", "bias"}, ...}`` in the published order.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.functional.heads import apply_head, init_head

Layers = dict[str, dict[str, jax.Array]]
Drop = Callable[[jax.Array, int], jax.Array]
"""``(activations: [B, F], number of the layer) -> activations``: dropout."""


def keep(activations: jax.Array, layer: int) -> jax.Array:
    """No dropout, as in evaluation."""
    del layer
    return activations


def dropout(keys: jax.Array, rate: float) -> Drop:
    """Dropout that depends on each example's own key: ``keys: key[B]``, ``rate`` in [0, 1)."""
    if not rate:
        return keep

    def drop(activations: jax.Array, layer: int) -> jax.Array:
        def kept(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, shape)

        shape = activations.shape[1:]
        return jnp.where(jax.vmap(kept)(keys), activations / (1 - rate), 0)

    return drop


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.01 below zero and, as in PyTorch but not in JAX, at zero."""
    return jnp.where(x > 0, x, 0.01 * x)


NORMAL_STD = 0.02


def init_linear(rng: jax.Array, inputs: int, outputs: int, initialization: str) -> dict[str, Any]:
    """A linear layer that starts as one of ``heads.INITIALIZATIONS``, ``normal`` or ``kaiming``.

    ``normal``: N(0, 0.02^2), zero bias.  ``kaiming``: N(0, 2 / inputs), zero bias.
    """
    if initialization == "normal":
        draw = jax.nn.initializers.normal(NORMAL_STD)
    elif initialization == "kaiming":
        draw = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    else:
        return init_head(rng, inputs, outputs, initialization)
    kernel = draw(rng, (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros((outputs,), jnp.float32)}


def init_layers(rng: jax.Array, widths: Sequence[int], initialization: str) -> Layers:
    """Linear layers from each width to the next."""
    return {
        str(i): init_linear(jax.random.fold_in(rng, i), inputs, outputs, initialization)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    }


def _apply(
    layers: Layers, x: jax.Array, between: Callable, last: Callable = lambda x: x
) -> jax.Array:
    """Linear layers with an activation after each but the last, and one after that."""
    for i in range(len(layers)):
        x = apply_head(layers[str(i)], x)
        x = between(x) if i + 1 < len(layers) else last(x)
    return x


def perceptron(layers: Layers, x: jax.Array, drop: Drop = keep) -> jax.Array:
    """``[B, F] -> [B, F']``: Linear, ReLU, Dropout for each layer but the last, which is linear."""
    for i in range(len(layers) - 1):
        x = drop(jax.nn.relu(apply_head(layers[str(i)], x)), i)
    return apply_head(layers[str(len(layers) - 1)], x)


def leaky_layers(layers: Layers, x: jax.Array) -> jax.Array:
    """``[B, F] -> [B, F']``: LeakyReLU after every layer, as in IF-MMIN's shared encoder."""
    return _apply(layers, x, leaky_relu, leaky_relu)


def init_simple(
    rng: jax.Array, features: int, widths: Sequence[int], initialization: str
) -> dict[str, Layers]:
    """A simple autoencoder of vectors of ``features`` numbers."""
    encoder_rng, decoder_rng = jax.random.split(rng)
    encoder = (features, *widths)
    return {
        "encoder": init_layers(encoder_rng, encoder, initialization),
        "decoder": init_layers(decoder_rng, encoder[::-1], initialization),
    }


def simple_autoencoder(params: dict[str, Layers], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x: [B, F]`` -> its reconstruction ``[B, F]``, at least 0, and the latent ``[B, K]``."""
    latent = leaky_layers(params["encoder"], x)
    return _apply(params["decoder"], latent, leaky_relu, jax.nn.relu), latent


def init_residual(
    rng: jax.Array, features: int, widths: Sequence[int], blocks: int, initialization: str
) -> dict[str, Layers]:
    """A residual autoencoder, for ``residual_autoencoder`` and ``invariant_autoencoder``."""
    *rngs, transition_rng = jax.random.split(rng, 2 * blocks + 1)
    encoder, params = (features, *widths), {}
    for k in range(blocks):
        params[f"encoder_{k}"] = init_layers(rngs[2 * k], encoder, initialization)
        params[f"decoder_{k}"] = init_layers(rngs[2 * k + 1], encoder[::-1], initialization)
    params["transition"] = init_layers(transition_rng, (features,) * 3, initialization)
    return params


def residual_autoencoder(params: dict[str, Layers], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cascade: ``x: [B, F]`` -> output ``[B, F]`` and latent ``[B, n K]``."""
    latents = []
    for k in _blocks(params):
        latent, residual = _block(params, k, x)
        x = x + residual
        latents.append(latent)
    return _apply(params["transition"], x, jax.nn.relu), jnp.concatenate(latents, axis=-1)


def invariant_autoencoder(
    params: dict[str, Layers], x: jax.Array, invariant: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """IF-MMIN's chain: ``x``, ``invariant: [B, F]`` -> output ``[B, F]`` and latent ``[B, n K]``.

    ``invariant`` is added anew before every block, and there is no running sum.
    """
    latents = []
    for k in _blocks(params):
        latent, x = _block(params, k, x + invariant)
        latents.append(latent)
    return _apply(params["transition"], x, jax.nn.relu), jnp.concatenate(latents, axis=-1)


def _blocks(params: dict[str, Layers]) -> range:
    return range((len(params) - 1) // 2)


def _block(params: dict[str, Layers], k: int, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``(l_k, d_k)`` of ``u_k: [B, F]``."""
    latent = _apply(params[f"encoder_{k}"], u, leaky_relu)
    return latent, _apply(params[f"decoder_{k}"], latent, jax.nn.relu)
