"""The networks of methods that reconstruct missing modalities, as plain parameter dictionaries.

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

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mla_jax.functional.heads import apply_head

Layers = dict[str, dict[str, jax.Array]]
Drop = Callable[[jax.Array, int], jax.Array]
"""``(activations: [B, F], number of the layer) -> activations``: dropout."""


def keep(activations: jax.Array, layer: int) -> jax.Array:
    """No dropout, as in evaluation.

    >>> from mla_jax.functional import autoencoders
    >>> autoencoders.keep(jnp.array([[1.0, 2.0]]), 0)
    Array([[1., 2.]], dtype=float32)
    """
    del layer
    return activations


def dropout(keys: jax.Array, rate: float) -> Drop:
    """Dropout that depends on each example's own key: ``keys: key[B]``, ``rate`` in [0, 1).

    >>> from mla_jax.functional import autoencoders
    >>> keys = jax.random.split(jax.random.key(0), 2)  # one per example
    >>> drop = autoencoders.dropout(keys, rate=0.5)
    >>> dropped = drop(jnp.ones((2, 8)), 0)
    >>> sorted(set(dropped.ravel().tolist()))
    [0.0, 2.0]
    """
    if not rate:
        return keep

    def drop(activations: jax.Array, layer: int) -> jax.Array:
        def kept(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, shape)

        shape = activations.shape[1:]
        return jnp.where(jax.vmap(kept)(keys), activations / (1 - rate), 0)

    return drop


def leaky_relu(x: jax.Array) -> jax.Array:
    """Slope 0.01 below zero and, as in PyTorch but not in JAX, at zero.

    >>> from mla_jax.functional import autoencoders
    >>> autoencoders.leaky_relu(jnp.array([-1.0, 0.0, 2.0]))
    Array([-0.01,  0.  ,  2.  ], dtype=float32)
    """
    return jnp.where(x > 0, x, 0.01 * x)


def _bound(inputs: int, outputs: int) -> float:
    return 1 / math.sqrt(inputs)


def _glorot(inputs: int, outputs: int) -> float:
    return math.sqrt(2 / (inputs + outputs))


TRUNCATED_STD = 0.87962566103423978
"""The deviation of a normal distribution truncated at 2 standard deviations."""


def _truncated(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.truncated_normal(rng, -2, 2, shape) / TRUNCATED_STD


def _uniform(rng: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(rng, shape, minval=-1, maxval=1)


INITIALIZATIONS: dict[str, tuple[Callable[..., jax.Array], Callable[[int, int], float]]] = {
    "xavier": (_truncated, _glorot),
    "xavier_untruncated": (jax.random.normal, _glorot),
    "torch": (_uniform, _bound),
    "normal": (jax.random.normal, lambda inputs, outputs: 0.02),
    "kaiming": (jax.random.normal, lambda inputs, outputs: math.sqrt(2 / inputs)),
}
"""The distributions of kernels: ``(rng, shape) -> draws``, ``(inputs, outputs) -> factor``.  The
first three are those of ``heads.init_head``; only ``torch`` has biases that are not 0."""


def init_layers(rng: jax.Array, widths: Sequence[int], initialization: str) -> Layers:
    """Linear layers from each width to the next, with one of ``INITIALIZATIONS``.

    All numbers are drawn at once: separate draws for every layer would take minutes to compile.

    >>> from mla_jax.functional import autoencoders
    >>> init = lambda key: autoencoders.init_layers(key, (6, 4, 2), "torch")
    >>> jax.tree.map(jnp.shape, jax.eval_shape(init, jax.random.key(0)))
    {'0': {'bias': (4,), 'kernel': (6, 4)}, '1': {'bias': (2,), 'kernel': (4, 2)}}
    """
    draw, factor = INITIALIZATIONS[initialization]
    sizes = list(itertools.pairwise(widths))
    drawn = draw(rng, (sum(n_in * n_out + n_out for n_in, n_out in sizes),))
    layers, start = {}, 0
    for i, (n_in, n_out) in enumerate(sizes):
        mine = drawn[start : start + n_in * n_out + n_out] * factor(n_in, n_out)
        kernel, bias = mine[: n_in * n_out].reshape(n_in, n_out), mine[n_in * n_out :]
        layers[str(i)] = {
            "kernel": kernel,
            "bias": bias if initialization == "torch" else jnp.zeros_like(bias),
        }
        start += n_in * n_out + n_out
    return layers


def _apply(
    layers: Layers, x: jax.Array, between: Callable, last: Callable = lambda x: x
) -> jax.Array:
    """Linear layers with an activation after each but the last, and one after that."""
    for i in range(len(layers)):
        x = apply_head(layers[str(i)], x)
        x = between(x) if i + 1 < len(layers) else last(x)
    return x


def perceptron(layers: Layers, x: jax.Array, drop: Drop = keep) -> jax.Array:
    """``[B, F] -> [B, F']``: Linear, ReLU, Dropout for each layer but the last, which is linear.

    >>> from mla_jax.functional import autoencoders
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> autoencoders.perceptron({"0": head, "1": head}, jnp.array([[-1.0, 2.0]]))
    Array([[0., 2.]], dtype=float32)
    """
    for i in range(len(layers) - 1):
        x = drop(jax.nn.relu(apply_head(layers[str(i)], x)), i)
    return apply_head(layers[str(len(layers) - 1)], x)


def leaky_layers(layers: Layers, x: jax.Array) -> jax.Array:
    """``[B, F] -> [B, F']``: LeakyReLU after every layer, as in IF-MMIN's shared encoder.

    >>> from mla_jax.functional import autoencoders
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> autoencoders.leaky_layers({"0": head}, jnp.array([[-1.0, 2.0]]))
    Array([[-0.01,  2.  ]], dtype=float32)
    """
    return _apply(layers, x, leaky_relu, leaky_relu)


def init_simple(
    rng: jax.Array, features: int, widths: Sequence[int], initialization: str
) -> dict[str, Layers]:
    """The parameters of a simple autoencoder of vectors of ``features`` numbers.

    >>> from mla_jax.functional import autoencoders
    >>> init = lambda key: autoencoders.init_simple(key, 6, (4, 2), "torch")
    >>> jax.tree.map(jnp.shape, jax.eval_shape(init, jax.random.key(0))["decoder"])
    {'0': {'bias': (4,), 'kernel': (2, 4)}, '1': {'bias': (6,), 'kernel': (4, 6)}}
    """
    encoder_rng, decoder_rng = jax.random.split(rng)
    encoder = (features, *widths)
    return {
        "encoder": init_layers(encoder_rng, encoder, initialization),
        "decoder": init_layers(decoder_rng, encoder[::-1], initialization),
    }


def simple_autoencoder(params: dict[str, Layers], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x: [B, F]`` -> its reconstruction ``[B, F]``, at least 0, and the latent ``[B, K]``.

    >>> from mla_jax.functional import autoencoders
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> params = {"encoder": {"0": head}, "decoder": {"0": head}}
    >>> autoencoders.simple_autoencoder(params, jnp.array([[-1.0, 2.0]]))
    (Array([[0., 2.]], dtype=float32), Array([[-0.01,  2.  ]], dtype=float32))
    """
    latent = leaky_layers(params["encoder"], x)
    return _apply(params["decoder"], latent, leaky_relu, jax.nn.relu), latent


def init_residual(
    rng: jax.Array, features: int, widths: Sequence[int], blocks: int, initialization: str
) -> dict[str, Layers]:
    """The parameters for ``residual_autoencoder`` and ``invariant_autoencoder``.

    >>> from mla_jax.functional import autoencoders
    >>> init = lambda key: autoencoders.init_residual(key, 6, (4, 2), 3, "torch")
    >>> sorted(jax.eval_shape(init, jax.random.key(0)))
    ['decoder_0', 'decoder_1', 'decoder_2', 'encoder_0', 'encoder_1', 'encoder_2', 'transition']
    """
    encoder_rng, decoder_rng, transition_rng = jax.random.split(rng, 3)
    encoder, params = (features, *widths), {}
    for kind, kind_rng, sizes in (
        ("encoder", encoder_rng, encoder),
        ("decoder", decoder_rng, encoder[::-1]),
    ):
        draw = functools.partial(init_layers, widths=sizes, initialization=initialization)
        drawn = jax.vmap(draw)(jax.random.split(kind_rng, blocks))
        for k in range(blocks):
            params[f"{kind}_{k}"] = jax.tree.map(lambda leaf, k=k: leaf[k], drawn)
    params["transition"] = init_layers(transition_rng, (features,) * 3, initialization)
    return params


def residual_autoencoder(params: dict[str, Layers], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The cascade: ``x: [B, F]`` -> output ``[B, F]`` and latent ``[B, n K]``.

    >>> from mla_jax.functional import autoencoders
    >>> def repaired(key, x):
    ...     params = autoencoders.init_residual(key, 6, (4, 2), 3, "torch")
    ...     return autoencoders.residual_autoencoder(params, x)
    >>> output, latent = jax.eval_shape(repaired, jax.random.key(0), jnp.ones((5, 6)))
    >>> output.shape, latent.shape  # three blocks, two numbers of each
    ((5, 6), (5, 6))
    """
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

    ``invariant`` is added again before every block, and there is no running sum.

    >>> from mla_jax.functional import autoencoders
    >>> def imagined(key, x):
    ...     params = autoencoders.init_residual(key, 6, (4, 2), 3, "torch")
    ...     return autoencoders.invariant_autoencoder(params, x, jnp.zeros_like(x))
    >>> output, latent = jax.eval_shape(imagined, jax.random.key(0), jnp.ones((5, 6)))
    >>> output.shape, latent.shape
    ((5, 6), (5, 6))
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
