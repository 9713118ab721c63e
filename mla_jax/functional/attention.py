"""Attention over a few steps: the block of the original transformer, and gated pooling.

    a = norm(x + concat_h softmax(q_h k_h' / sqrt(d_h)) v_h)        no output matrix, no biases
    y = norm(a + W2 relu(W1 a + b1) + b2)                           four times as wide inside

as in ``module.py`` of ``JaydenZeng/TATE``, which is Kyubyong Park's.  Its masks of zero vectors
are left out: the value of a zero vector is zero, and no step that the joint blocks see is zero.
B examples, T steps of width W.
"""

from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.errors import UserError
from mla_jax.functional.heads import HIGHEST, init_head
from mla_jax.functional.shapes import check_axes

Params = dict[str, Any]


def init_block(rng: jax.Array, width: int, law: str) -> Params:
    """The parameters of ``block``; ``law`` is one of ``heads.INITIALIZATIONS``.

    >>> from mla_jax.functional import attention
    >>> init = lambda key: attention.init_block(key, width=4, law="torch")
    >>> shapes = jax.tree.map(jnp.shape, jax.eval_shape(init, jax.random.key(0)))
    >>> shapes["attend"], shapes["inner"]
    ((3, 4, 4), {'bias': (16,), 'kernel': (4, 16)})
    """
    attend, inner, outer = jax.random.split(rng, 3)
    norm = {"scale": jnp.ones((width,)), "shift": jnp.zeros((width,))}
    return {
        "attend": init_matrices(jax.random.split(attend, 3), width, width, law),
        "inner": init_head(inner, width, 4 * width, law),
        "outer": init_head(outer, 4 * width, width, law),
        "norm_attention": dict(norm),
        "norm_perceptron": dict(norm),
    }


def init_matrices(keys: jax.Array, rows: int, columns: int, law: str) -> jax.Array:
    """A matrix without a bias for each of N keys: ``float32[N, rows, columns]``.

    All are drawn at once, because each separate draw takes a second to compile.

    >>> from mla_jax.functional import attention
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> attention.init_matrices(keys, 4, 2, "torch").shape
    (3, 4, 2)
    """
    return jax.vmap(lambda key: init_head(key, rows, columns, law)["kernel"])(keys)


def check_width(width: int, heads: int) -> None:
    """Raises ``UserError`` unless the number of heads divides the width.

    >>> from mla_jax.functional import attention
    >>> attention.check_width(width=10, heads=4)
    Traceback (most recent call last):
        ...
    mla_jax.errors.UserError: method.attention_heads=4 must divide method.width=10: set
    method.width=12 or another number of heads
    """
    if width % heads:
        raise UserError(
            f"method.attention_heads={heads} must divide method.width={width}: set "
            f"method.width={-(-width // heads) * heads} or another number of heads"
        )


def block(
    params: Params,
    x: jax.Array,
    heads: int,
    epsilon: float,
    kept: jax.Array | None = None,
) -> jax.Array:
    """``float32[B, T, W]`` of ``x: float[B, T, W]``.

    ``kept: float[B, heads, T, T]`` multiplies the attention weights: dropout's 0 or 1 / (1 - rate).

    >>> from mla_jax.functional import attention
    >>> def transformed(key, x):
    ...     params = attention.init_block(key, width=4, law="torch")
    ...     return attention.block(params, x, heads=2, epsilon=1e-6)
    >>> jax.eval_shape(transformed, jax.random.key(0), jnp.ones((2, 3, 4))).shape
    (2, 3, 4)
    """
    check_axes(x=(x, "B T W"))
    parts = jnp.einsum("btd,kde->kbte", x, params["attend"], precision=HIGHEST)
    query, key, value = parts.reshape(3, *x.shape[:2], heads, -1)
    scores = jnp.einsum("bthd,bshd->bhts", query, key, precision=HIGHEST)
    weights = jax.nn.softmax(scores / jnp.sqrt(query.shape[-1]))
    if kept is not None:
        weights = weights * kept
    seen = jnp.einsum("bhts,bshd->bthd", weights, value, precision=HIGHEST).reshape(x.shape)
    x = layer_norm(params["norm_attention"], x + seen, epsilon)
    inner = jax.nn.relu(_linear(params["inner"], x))
    return layer_norm(params["norm_perceptron"], x + _linear(params["outer"], inner), epsilon)


def layer_norm(params: Params, x: jax.Array, epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 over the last axis, scaled and shifted.

    >>> from mla_jax.functional import attention
    >>> params = {"scale": jnp.ones(2), "shift": jnp.zeros(2)}
    >>> attention.layer_norm(params, jnp.array([[1.0, 5.0]]), epsilon=1e-6)
    Array([[-1.,  1.]], dtype=float32)
    """
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return params["scale"] * centred * jax.lax.rsqrt(variance + epsilon) + params["shift"]


def init_pool(rng: jax.Array, width: int, law: str) -> Params:
    """The parameters of ``pool``.

    >>> from mla_jax.functional import attention
    >>> init = lambda key: attention.init_pool(key, 4, "torch")
    >>> jax.tree.map(jnp.shape, jax.eval_shape(init, jax.random.key(0)))
    {'score': (4, 1), 'value_and_gate': (2, 4, 4)}
    """
    square, score = jax.random.split(rng)
    return {
        "value_and_gate": init_matrices(jax.random.split(square), width, width, law),
        "score": init_head(score, width, 1, law)["kernel"],
    }


def pool(params: Params, x: jax.Array) -> jax.Array:
    """``sum_t softmax_t(r' (U x_t * sigmoid(G x_t))) x_t``: ``[B, T, W]`` -> ``[B, W]``.

    >>> from mla_jax.functional import attention
    >>> params = {"value_and_gate": jnp.ones((2, 2, 2)), "score": jnp.ones((2, 1))}
    >>> x = jnp.array([[[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]])  # [B=1, T=3, W=2]
    >>> attention.pool(params, x)  # a weighted mean over the steps
    Array([[1., 2.]], dtype=float32)
    """
    value, gate = params["value_and_gate"]
    gated = _matmul(x, value) * jax.nn.sigmoid(_matmul(x, gate))
    weights = jax.nn.softmax(_matmul(gated, params["score"])[..., 0])
    return (weights[..., None] * x).sum(1)


def symmetric_divergence(a: jax.Array, b: jax.Array) -> jax.Array:
    """KL both ways between the softmaxes of ``a, b: float[..., W]`` over the last axis: ``[...]``.

    ``sum (p - q) (log p - log q)``; Keras, which TATE uses, clips p and q at 1e-7 first.

    >>> from mla_jax.functional import attention
    >>> a, b = jnp.array([[0.0, 0.0], [2.0, 0.0]]), jnp.array([[5.0, 5.0], [0.0, 2.0]])
    >>> attention.symmetric_divergence(a, b)  # the first two have the same softmax
    Array([0.   , 3.046], dtype=float32)
    """
    log_p, log_q = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
    return ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1)


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.matmul(x, kernel, precision=HIGHEST)


def _linear(layer: Params, x: jax.Array) -> jax.Array:
    return _matmul(x, layer["kernel"]) + layer["bias"]
