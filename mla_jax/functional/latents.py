"""Latent vectors that give the class and reconstruct the views: the equations of CPM-Net.

    R_n     = sum_v s_nv || W_v' h_n + b_v - x_nv ||^2
    M_nc    = mean over j != n with y_j = c of <h_n, h_j>
    Lambda_n = max(0, 1[argmax_c M_nc != y_n] + max_c M_nc - M_n,y_n)

Zhang et al., NeurIPS 2019; ``util/model.py`` of ``hanmenghan/CPM_Nets``.  N examples, K numbers per
latent vector, C classes.  The label -1 belongs to no class.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.functional.heads import HIGHEST, Head, apply_head
from mla_jax.functional.shapes import check_axes


class ClassSums(NamedTuple):
    """The sums and counts that class means are computed from.

    >>> from mla_jax.functional import latents
    >>> sums = latents.ClassSums(jnp.array([[2.0, 4.0], [0.0, 0.0]]), jnp.array([2.0, 0.0]))
    >>> sums.means()
    Array([[1., 2.],
           [0., 0.]], dtype=float32)
    >>> (sums + sums).count
    Array([4., 0.], dtype=float32)
    """

    total: jax.Array
    """``float32[C, K]``: the sum of the latent vectors of each class."""
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    """``float32[C]``: the number of examples of each class."""

    def means(self) -> jax.Array:
        """``float32[C, K]``; 0 for a class without examples."""
        return self.total / jnp.maximum(self.count, 1)[:, None]

    def __add__(self, other: "ClassSums") -> "ClassSums":  # type: ignore[override]
        return ClassSums(self.total + other.total, self.count + other.count)


def class_sums(latents: jax.Array, label: jax.Array, classes: int) -> ClassSums:
    """The sums over ``latents: float[N, K]`` of ``label: int[N]``.

    >>> from mla_jax.functional import latents
    >>> h = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    >>> latents.class_sums(h, jnp.array([0, 0, 1]), classes=2)
    ClassSums(total=Array([[4., 0.],
           [0., 5.]], dtype=float32), count=Array([2., 1.], dtype=float32))
    """
    check_axes(latents=(latents, "N K"), label=(label, "N"))
    mine = jax.nn.one_hot(label, classes)  # a product, whose sum has the same order everywhere
    return ClassSums(jnp.matmul(mine.T, latents, precision=HIGHEST), mine.sum(0))


def class_scores(latents: jax.Array, label: jax.Array, sums: ClassSums) -> jax.Array:
    """M: ``float32[N, C]``; each example is left out of the mean of its own class.

    ``sums`` include these ``latents: float[N, K]``, ``label: int[N]``, and maybe others.  A class
    without other examples scores -inf.

    >>> from mla_jax.functional import latents
    >>> h, label = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), jnp.array([0, 0, 1])
    >>> latents.class_scores(h, label, latents.class_sums(h, label, 2))  # class 1 has no other
    Array([[  3.,   0.],
           [  3.,   0.],
           [  0., -inf]], dtype=float32)
    """
    mine = jax.nn.one_hot(label, len(sums.count))
    own = (latents**2).sum(1, keepdims=True) * mine
    total = jnp.matmul(latents, sums.total.T, precision=HIGHEST) - own
    count = sums.count - mine
    return jnp.where(count > 0, total / jnp.maximum(count, 1), -jnp.inf)


def class_loss(scores: jax.Array, label: jax.Array) -> jax.Array:
    """Lambda, ``float32[N]``, of ``scores: float[N, C]``, -inf for classes that do not count.

    0 if the example's own class does not count.

    >>> from mla_jax.functional import latents
    >>> scores = jnp.array([[3.0, 1.0], [3.0, 1.0]])
    >>> latents.class_loss(scores, jnp.array([0, 1]))  # right; wrong, which adds 1
    Array([0., 3.], dtype=float32)
    """
    check_axes(scores=(scores, "N C"), label=(label, "N"))
    own = jnp.take_along_axis(scores, label[:, None], 1)[:, 0]
    counts = jnp.isfinite(own)
    scores = jnp.where(counts[:, None], scores, 0)
    wrong = (scores.argmax(1) != label).astype(scores.dtype)
    own = jnp.where(counts, own, 0)
    return jnp.where(counts, jax.nn.relu(wrong + scores.max(1) - own), 0)


def reconstruction(
    heads: Sequence[Head], latents: jax.Array, views: Sequence[jax.Array], observed: jax.Array
) -> jax.Array:
    """R, ``float32[B]``.  ``latents: [B, K]``, ``views: [B, F_v]`` each, ``observed: [B, V]``.

    >>> from mla_jax.functional import latents
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> h, view = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])
    >>> latents.reconstruction([head, head], h, [view, view], jnp.array([[True, False]]))
    Array([9.], dtype=float32)
    """
    errors = jnp.stack(
        [((apply_head(h, latents) - x) ** 2).sum(1) for h, x in zip(heads, views, strict=True)], 1
    )
    return jnp.where(observed, errors, 0).sum(1)


class Normal(NamedTuple):
    """R as a quadratic form: half its gradient is ``sum_v s_nv (h_n gram_v - target_nv)``.

    It avoids the products with all F_v numbers of a view in each of many steps.

    >>> from mla_jax.functional import latents
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> normal = latents.normal_equations([head], [jnp.array([[1.0, 5.0]])])
    >>> normal.gradient(jnp.array([[1.0, 2.0]]), observed=jnp.array([[True]]))  # 2 (h - x)
    Array([[ 0., -6.]], dtype=float32)
    """

    gram: jax.Array
    """``float32[V, K, K]``: W_v W_v'."""
    target: jax.Array
    """``float32[V, B, K]``: W_v (x_v - b_v)."""

    def gradient(self, latents: jax.Array, observed: jax.Array) -> jax.Array:
        """Half the gradient of R, ``float32[B, K]``."""
        found = jnp.einsum("bk,vkl->vbl", latents, self.gram, precision=HIGHEST) - self.target
        return 2 * jnp.where(observed.T[:, :, None], found, 0).sum(0)


def normal_equations(heads: Sequence[Head], views: Sequence[jax.Array]) -> Normal:
    """The quadratic forms of ``views: float[B, F_v]`` each.

    >>> from mla_jax.functional import latents
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> normal = latents.normal_equations([head, head], [jnp.ones((3, 2)), jnp.zeros((3, 2))])
    >>> normal.gram.shape, normal.target.shape
    ((2, 2, 2), (2, 3, 2))
    """
    kernels = [head["kernel"] for head in heads]
    rest = [x - head["bias"] for x, head in zip(views, heads, strict=True)]
    gram = [jnp.matmul(w, w.T, precision=HIGHEST) for w in kernels]
    target = [jnp.matmul(x, w.T, precision=HIGHEST) for x, w in zip(rest, kernels, strict=True)]
    return Normal(jnp.stack(gram), jnp.stack(target))


Moments = Mapping[str, jax.Array]
"""Adam's ``{"first": [B, K], "second": [B, K], "count": int32[B]}``, with one count per row."""


def no_moments(rows: int, width: int) -> dict[str, jax.Array]:
    """The state of Adam before any step.

    >>> from mla_jax.functional import latents
    >>> latents.no_moments(rows=2, width=3)["count"]
    Array([0, 0], dtype=int32)
    """
    zeros = jnp.zeros((rows, width))
    return {"first": zeros, "second": zeros, "count": jnp.zeros((rows,), jnp.int32)}


def adam_step(
    gradient: jax.Array, moments: Moments, latents: jax.Array, rate: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One step of Adam on each row by itself, with TensorFlow 1's use of epsilon, 1e-8.

    Epsilon is outside the bias correction: ``h - rate c m / (sqrt(v) + epsilon)``.

    >>> from mla_jax.functional import latents
    >>> h, gradient = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, -4.0]])
    >>> h, moments = latents.adam_step(gradient, latents.no_moments(1, 2), h, rate=0.1)
    >>> h  # the first step of Adam is as long as the rate
    Array([[0.9, 2.1]], dtype=float32)
    """
    count = moments["count"] + 1
    first = 0.9 * moments["first"] + 0.1 * gradient
    second = 0.999 * moments["second"] + 0.001 * gradient**2
    steps = count[:, None].astype(gradient.dtype)
    corrected = rate * jnp.sqrt(1 - 0.999**steps) / (1 - 0.9**steps)
    latents = latents - corrected * first / (jnp.sqrt(second) + 1e-8)
    return latents, {"first": first, "second": second, "count": count}


def infer(
    normal: Normal, observed: jax.Array, start: jax.Array, steps: int, rate: float
) -> jax.Array:
    """The latent vectors ``float32[B, K]`` after some steps of Adam on R, from ``start: [K]``.

    ``observed: bool[B, V]``; no example depends on another.

    >>> from mla_jax.functional import latents
    >>> head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> normal = latents.normal_equations([head], [jnp.array([[1.0, 0.5]])])
    >>> start = jnp.zeros(2)
    >>> latents.infer(normal, jnp.array([[True]]), start, steps=300, rate=0.05)  # finds the view
    Array([[1. , 0.5]], dtype=float32)
    """
    latents = jnp.broadcast_to(start, (observed.shape[0], len(start)))

    def step(_: int, carry: tuple) -> tuple:
        latents, moments = carry
        return adam_step(normal.gradient(latents, observed), moments, latents, rate)

    return jax.lax.fori_loop(0, steps, step, (latents, no_moments(*latents.shape)))[0]
