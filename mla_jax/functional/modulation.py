"""On-the-fly gradient modulation as an optax transformation (OGM-GE, Peng et al., CVPR 2022).

    g~ = k g + eps,   eps ~ N(0, std(g)^2)       (section 3.3, equations 9-11)

for each modulated tensor of an encoder, where k slows down the modality that is ahead.  The noise
makes up for the generalisation that a smaller step loses; it is the "GE" and is optional.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

TENSORS = ("all", "kernels_4d")
"""Which tensors of an encoder are modulated: the paper's "all" (the parameters of the encoder), or
only gradients of four axes, which are the kernels of two-dimensional convolutions, as published."""


def modulated(tensor: jax.Array, tensors: str) -> bool:
    """Whether a tensor of an encoder is among ``tensors``.

    >>> mla_jax.modulation.modulated(jnp.ones((3, 3, 1, 8)), "kernels_4d")
    True
    >>> mla_jax.modulation.modulated(jnp.ones(8), "kernels_4d")
    False
    """
    return tensors == "all" or tensor.ndim == 4


def gradient_modulation(tensors: str, noise: bool) -> optax.GradientTransformationExtraArgs:
    """Scales the gradients of one encoder; ``update`` takes ``coefficient`` and ``key``.

    ``coefficient: float32[]`` is k.  ``active: bool[]`` is False outside the epochs of modulation.
    ``key`` is the PRNG key of this step and modality; the noise of a tensor has the unbiased
    standard deviation of its gradient before scaling, plus 1e-8 (``main.py:396``).

    >>> tx = mla_jax.gradient_modulation("all", noise=False)
    >>> gradients = {"kernel": jnp.ones((2, 2))}
    >>> state = tx.init(gradients)
    >>> step = {"coefficient": 0.25, "active": True, "key": jax.random.key(0)}
    >>> tx.update(gradients, state, **step)[0]["kernel"]
    Array([[0.25, 0.25],
           [0.25, 0.25]], dtype=float32)
    """

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        coefficient: jax.Array,
        active: jax.Array,
        key: jax.Array,
        **others: Any,
    ) -> tuple[Any, Any]:
        del params, others
        leaves, structure = jax.tree.flatten(updates)
        chosen = [i for i, g in enumerate(leaves) if modulated(g, tensors)]
        draws = _normals(key, [leaves[i] for i in chosen]) if noise else []
        for place, i in enumerate(chosen):
            g = leaves[i]
            new = coefficient * g
            if noise and g.size > 1:
                new = new + (jnp.std(g, ddof=1) + 1e-8) * draws[place]
            leaves[i] = jnp.where(active, new, g)
        return jax.tree.unflatten(structure, leaves), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _normals(key: jax.Array, like: Sequence[jax.Array]) -> list[jax.Array]:
    """Standard normal arrays of the given shapes, cut from one draw, which compiles faster."""
    ends = np.cumsum([0, *(x.size for x in like)])
    flat = jax.random.normal(key, (int(ends[-1]),))
    return [
        flat[start:end].reshape(x.shape).astype(x.dtype)
        for start, end, x in zip(ends[:-1], ends[1:], like, strict=True)
    ]


def true_class_scores(logits: jax.Array, label: jax.Array, present: jax.Array) -> jax.Array:
    """Each modality's mean probability of the true class over the examples that have it: ``[M]``.

    ``logits: float[M, B, C]``, ``label: int[B]``, ``present: bool[B, M]`` (equation 7; the sum over
    the batch there and the mean here have the same ratios).

    >>> logits = jnp.array([[[9.0, 0.0], [9.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])  # [M, B, C]
    >>> label, present = jnp.array([0, 0]), jnp.ones((2, 2), bool)
    >>> mla_jax.modulation.true_class_scores(logits, label, present)
    Array([1. , 0.5], dtype=float32)
    """
    p = jnp.take_along_axis(jax.nn.softmax(logits), label[None, :, None], axis=-1)[..., 0]
    return jnp.where(present.T, p, 0).sum(1) / jnp.maximum(present.sum(0), 1)


def one_to_others(scores: jax.Array) -> jax.Array:
    """Discrepancy ratios ``[M]``: the mean of each score divided by each other score.

    Equation 8 for two modalities; the average over pairs is what the authors suggest for more
    (OGM-GE repository, issue 16).  A modality that no example of the batch has scores 0 and is left
    out; a ratio without any other modality is 0.

    >>> mla_jax.modulation.one_to_others(jnp.array([0.6, 0.3]))
    Array([2. , 0.5], dtype=float32)
    >>> mla_jax.modulation.one_to_others(jnp.array([0.6, 0.3, 0.2]))
    Array([2.5, 1. , 0.5], dtype=float32)
    """
    occurs = scores > 0
    others = occurs[None, :] & ~jnp.eye(len(scores), dtype=bool)
    pairs = jnp.where(others, scores[:, None] / jnp.where(occurs, scores, 1)[None, :], 0)
    return pairs.sum(1) / jnp.maximum(others.sum(1), 1)


def coefficients(scores: jax.Array, alpha: float) -> jax.Array:
    """k of every modality ``[M]``: ``1 - tanh(alpha rho)`` where its ratio rho > 1, else 1.

    >>> mla_jax.modulation.coefficients(jnp.array([0.6, 0.3]), alpha=0.5)
    Array([0.238, 1.   ], dtype=float32)
    """
    ratio = one_to_others(scores)
    return jnp.where(ratio > 1, 1 - jnp.tanh(alpha * ratio), 1.0)


def released_coefficients(scores: jax.Array, alpha: float) -> jax.Array:
    """k of every modality as published (``main.py:316-371``): exactly one is below 1.

    The ratio is a score over the *sum* of the others.  The first of modalities 2, 3, ... whose
    ratio exceeds 1 is slowed down; if there is none, the first modality is, even if its own
    ratio is small.  For two modalities this is the paper's rule.

    >>> mla_jax.modulation.released_coefficients(jnp.array([0.3, 0.3, 0.3]), alpha=0.5)
    Array([0.755, 1.   , 1.   ], dtype=float32)
    >>> mla_jax.modulation.coefficients(jnp.array([0.3, 0.3, 0.3]), alpha=0.5)
    Array([1., 1., 1.], dtype=float32)
    """
    M, comparable = len(scores), (scores > 0).sum() > 1
    ratio = jnp.where(comparable, scores / jnp.maximum(scores.sum() - scores, 1e-30), 0)
    ahead = jnp.concatenate([jnp.zeros(1, bool), ratio[1:] > 1])
    chosen = jnp.argmax(ahead)  # 0, the first modality, if none is ahead
    return jnp.where(jnp.arange(M) == chosen, 1 - jnp.tanh(alpha * ratio), 1.0)


RATIOS = {"one_to_others": coefficients, "released": released_coefficients}


def modulation_table(params: Mapping[str, Any], tensors: str, shown: int = 4) -> Sequence[str]:
    """One line per encoder: which of its tensors are modulated, the first few by name.

    >>> params = {"video": {"conv": jnp.ones((3, 3, 1, 8)), "dense": jnp.ones((8, 4))}}
    >>> mla_jax.modulation.modulation_table(params, "kernels_4d")
    ['modulated in video: 1 of 2 tensors (conv)']
    """
    lines = []
    for modality, tree in params.items():
        named = jax.tree_util.tree_leaves_with_path(tree)
        hit = [jax.tree_util.keystr(p, simple=True, separator="/") for p, x in named
               if modulated(x, tensors)]  # fmt: skip
        names = ", ".join(hit[:shown]) + (", ..." if len(hit) > shown else "")
        lines.append(
            f"modulated in {modality}: {len(hit)} of {len(named)} tensors"
            + (f" ({names})" if hit else ": this encoder trains as in plain joint training")
        )
    return lines
