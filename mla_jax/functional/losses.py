"""Losses over a batch in which some modalities may be missing."""

import jax
import jax.numpy as jnp
import optax

from mla_jax.functional.heads import HIGHEST
from mla_jax.functional.shapes import check_axes


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy in nats of ``logits: float[B, C]`` against ``label: int[B]``, as ``[B]``.

    >>> logits = jnp.array([[0.0, 0.0], [9.0, 0.0]])
    >>> mla_jax.losses.cross_entropy(logits, jnp.array([0, 1]))
    Array([0.693, 9.   ], dtype=float32)
    """
    check_axes(logits=(logits, "B C"), label=(label, "B"))
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the batch axis of ``values: [B, ...]`` where ``mask: bool[B]``; 0 if it is empty.

    >>> mask = jnp.array([True, True, False])
    >>> float(mla_jax.losses.masked_mean(jnp.array([1.0, 3.0, 99.0]), mask))
    2.0
    """
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - 1))
    return jnp.where(mask, values, 0).sum(0) / jnp.maximum(mask.sum(), 1)


def accuracy(logits: jax.Array, label: jax.Array, mask: jax.Array) -> jax.Array:
    """Share of the examples in the mask whose largest logit is the label's.

    >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    >>> label, mask = jnp.array([0, 0, 0]), jnp.array([True, True, False])
    >>> float(mla_jax.losses.accuracy(logits, label, mask))
    0.5
    """
    return masked_mean((logits.argmax(-1) == label).astype(jnp.float32), mask)


def shared_out(losses: jax.Array, mask: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """``losses: [B]``, 0 outside ``mask: bool[B]`` and scaled so that their mean over the batch, or
    over its ``valid: bool[B]`` examples, is the mean over the mask.

    >>> mask = jnp.array([True, True, False, False])
    >>> losses = mla_jax.losses.shared_out(jnp.array([1.0, 3.0, 5.0, 7.0]), mask)
    >>> losses
    Array([2., 6., 0., 0.], dtype=float32)
    >>> float(losses.mean())  # that of 1 and 3
    2.0
    """
    among = len(losses) if valid is None else valid.sum()
    return jnp.where(mask, losses, 0) * (among / jnp.maximum(mask.sum(), 1))


def unimodal_cross_entropy(
    logits: jax.Array, label: jax.Array, present: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """The sum over modalities of their cross-entropies, as each example's share ``float32[B]``.

    ``logits: float[M, B, C]``, ``present: bool[B, M]``: each modality adds the mean over the
    examples that have it.  ``valid: bool[B]`` is False on padding.

    >>> logits = jnp.zeros((2, 2, 4))  # [M, B, C]: each modality loses log 4 = 1.386
    >>> present = jnp.array([[True, True], [True, False]])
    >>> mla_jax.losses.unimodal_cross_entropy(logits, jnp.array([0, 1]), present)
    Array([4.159, 1.386], dtype=float32)
    """
    losses = jax.vmap(cross_entropy, in_axes=(0, None))(logits, label)
    return jax.vmap(shared_out, in_axes=(0, 0, None))(losses, present.T, valid).sum(0)


def confidence_ranking(
    confidence: jax.Array,
    badness: jax.Array,
    present: jax.Array,
    enforce_margin: bool,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Ranks confidences against badness (Moon et al., ICML 2020): each example's loss ``[B]``.

    For neighbours i and j = i + 1 in the batch (the last is paired with the first), with
    t = sign(badness_i - badness_j):

        max(0, t (confidence_i - confidence_j) + |badness_i - badness_j|)

    so that the worse one must be less confident by that margin.  The published QMF code, and
    MLA's copy of it, flip the sign of t but not of the margin (``main.py:108-124``): there the
    worse one may be *more* confident by up to the margin (``enforce_margin=False``).  Pairs of
    equal badness and pairs that lack the modality (``present: bool[B]``) count 0.  The padding
    of a batch, where ``valid: bool[B]`` is False, comes last.

    >>> confidence, badness = jnp.array([0.9, 0.5]), jnp.array([2.0, 1.0])
    >>> there = jnp.ones(2, bool)  # the first example is worse, and more confident
    >>> mla_jax.losses.confidence_ranking(confidence, badness, there, enforce_margin=True)
    Array([1.4, 1.4], dtype=float32)
    >>> mla_jax.losses.confidence_ranking(confidence, badness, there, enforce_margin=False)
    Array([0., 0.], dtype=float32)
    """
    count = len(confidence) if valid is None else valid.sum()
    neighbour = jnp.arange(1, len(confidence) + 1)
    neighbour = jnp.where(neighbour < count, neighbour, 0)
    following = confidence[neighbour]
    difference = badness - badness[neighbour]
    t, margin = jnp.sign(difference), jnp.abs(difference)
    margin = margin if enforce_margin else -margin
    loss = jnp.maximum(t * (confidence - following) + margin, 0)
    return shared_out(jnp.where(t == 0, 0, loss), present & present[neighbour], valid)


def dimension_contrastive(
    student: jax.Array,
    teacher: jax.Array,
    dimensions: jax.Array,
    present: jax.Array,
    temperature: float,
    valid: jax.Array | None = None,
) -> jax.Array:
    """DI-MML's DUC loss in one direction: each example's loss ``float32[B]``.

    InfoNCE from ``student`` to ``teacher: float[B, D]``, which gets no gradient, on the masked
    ``dimensions: bool[D]`` only; the positive is the same example, the negatives are the rest of
    the batch.  Similarities are dot products over ``temperature``.  Examples outside ``present:
    bool[B]`` are neither.  Without any dimension it is log B, and its gradient 0, as in
    ``loss/contrast_loss.py``; unlike there it does not overflow.  ``valid: bool[B]`` is False on
    padding.

    >>> z = jnp.eye(3)  # three examples, three dimensions
    >>> there, all_of_them = jnp.ones(3, bool), jnp.ones(3, bool)
    >>> mla_jax.losses.dimension_contrastive(z, z, all_of_them, there, temperature=0.5)
    Array([0.24, 0.24, 0.24], dtype=float32)
    >>> none = jnp.zeros(3, bool)  # log 3, and no gradient
    >>> mla_jax.losses.dimension_contrastive(z, z, none, there, temperature=0.5)
    Array([1.099, 1.099, 1.099], dtype=float32)
    """
    teacher = jax.lax.stop_gradient(jnp.where(present[:, None], teacher, 0) * dimensions)
    student = jnp.where(present[:, None], student, 0) * dimensions
    similarity = jnp.matmul(student, teacher.T, precision=HIGHEST) / temperature
    similarity = jnp.where(present[None, :], similarity, -jnp.inf)
    losses = cross_entropy(jnp.where(present[:, None], similarity, 0), jnp.arange(len(student)))
    return shared_out(losses, present, valid)


def central_moment_discrepancy(
    x: jax.Array,
    y: jax.Array,
    moments: int,
    x_mask: jax.Array | None = None,
    y_mask: jax.Array | None = None,
) -> jax.Array:
    """CMD (Zellinger et al., ICLR 2017) of samples ``x: [B, D]`` and ``y: [N, D]``; 0 if equal.

        || E x - E y || + sum_{k=2}^{moments} || E (x - E x)^k - E (y - E y)^k ||

    with elementwise powers and means over a sample, or over its ``x_mask: bool[B]`` or
    ``y_mask: bool[N]``, and no division by an interval's width, as in IF-MMIN
    (``models/utils/functions.py``).  0 if a sample is empty.

    >>> x, y = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])  # means 1 and 4, alike else
    >>> float(mla_jax.losses.central_moment_discrepancy(x, y, moments=3))
    3.0
    >>> float(mla_jax.losses.central_moment_discrepancy(x, 2 * x, moments=2))  # 1 + |1 - 4|
    4.0
    """
    check_axes(x=(x, "B D"), y=(y, "N D"))
    x_mask = jnp.ones(len(x), bool) if x_mask is None else x_mask
    y_mask = jnp.ones(len(y), bool) if y_mask is None else y_mask
    x_mean, y_mean = masked_mean(x, x_mask), masked_mean(y, y_mask)
    total = _length(x_mean - y_mean)
    # Outside the masks a power could overflow, and its gradient would be NaN.
    x, y = jnp.where(x_mask[:, None], x - x_mean, 0), jnp.where(y_mask[:, None], y - y_mean, 0)
    for k in range(2, moments + 1):
        total += _length(masked_mean(x**k, x_mask) - masked_mean(y**k, y_mask))
    return jnp.where(x_mask.any() & y_mask.any(), total, 0)


def _length(vector: jax.Array) -> jax.Array:
    """The Euclidean norm; its gradient at 0 is 0, not NaN."""
    square = jnp.square(vector).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
