"""DI-MML's split of feature dimensions against a plain implementation of its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mla_jax.encoders import Encoders
from mla_jax.methods.dimml_dimensions import effective_dimensions

EXAMPLES, BATCH, D = 50, 16, 24
NAMES = ("a", "b")


class Identity(nn.Module):
    """Features as they come."""

    @nn.compact
    def __call__(self, x, train=False):
        return x


ENCODERS = Encoders({m: Identity() for m in NAMES}, D)
VARIABLES = {"params": {"encoder": {m: {} for m in NAMES}}, "batch_stats": {m: {} for m in NAMES}}


def data(classes, missing=0.0, seed=0):
    """Features that separate classes along some dimensions; 3 and 4 are dead."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, EXAMPLES)
    inputs = {}
    for m in NAMES:
        strength = rng.random(D) * 3
        inputs[m] = rng.normal(size=(EXAMPLES, D)) + strength * rng.normal(size=(classes, D))[label]
        inputs[m] = np.maximum(inputs[m], 0).astype(np.float32)
        inputs[m][:, 3:5] = 0
    return inputs, label, rng.random((EXAMPLES, len(NAMES))) >= missing


def ours(inputs, label, present, classes):
    """Over batches, the last of them padded with nonsense."""

    def reduce_training(accumulate, variables, carry):
        accumulate = jax.jit(accumulate)
        for start in range(0, EXAMPLES, BATCH):
            at = np.minimum(np.arange(start, start + BATCH), EXAMPLES - 1)
            batch = {
                "inputs": {m: jnp.asarray(x[at]) for m, x in inputs.items()},
                "label": label[at],
                "present": present[at],
                "valid": np.arange(start, start + BATCH) < EXAMPLES,
            }
            carry = accumulate(variables, carry, batch)
        return carry

    return np.asarray(effective_dimensions(ENCODERS, classes)(VARIABLES, reduce_training))


def plain(z, label, classes):
    """``bool[D]`` by the definition, one dimension and one example at a time."""
    seen = [c for c in range(classes) if (label == c).any()]
    right = np.zeros(z.shape[1])
    for d in range(z.shape[1]):
        centroid = {c: np.mean(z[label == c, d], dtype=np.float64) for c in seen}
        for value, own in zip(z[:, d], label, strict=True):
            nearest = min(seen, key=lambda c: (abs(value - centroid[c]), c))
            right[d] += nearest == own
    return right / len(label) > np.mean(right / len(label))


@pytest.mark.parametrize(("classes", "missing"), [(2, 0.0), (5, 0.0), (5, 0.4)])
def test_the_split_is_that_of_the_definition(classes, missing):
    inputs, label, present = data(classes, missing)
    found = ours(inputs, label, present, classes)
    for i, m in enumerate(NAMES):
        has = present[:, i]
        expected = plain(inputs[m][has], label[has], classes)
        assert 0 < expected.sum() < D
        np.testing.assert_array_equal(found[i], expected)
    assert (found[0] != found[1]).any()


def test_dead_dimensions_go_to_the_smallest_class():
    """All distances tie there: such a dimension is right on class 0 alone, here on 9 in 10."""
    rng = np.random.default_rng(1)
    label = (np.arange(EXAMPLES) % 10 == 9).astype(int)
    inputs = {m: rng.normal(size=(EXAMPLES, D)).astype(np.float32) for m in NAMES}
    for m in NAMES:
        inputs[m][:, 3:5] = 0
    found = ours(inputs, label, np.ones((EXAMPLES, 2), bool), 2)
    assert found[:, 3:5].all() and not found.all()
    found = ours(inputs, 1 - label, np.ones((EXAMPLES, 2), bool), 2)
    assert not found[:, 3:5].any() and found.any()


def test_a_class_without_examples_is_nobody_s_nearest():
    inputs, label, present = data(3)
    label[label == 1] = 2
    assert set(label) == {0, 2}
    found = ours(inputs, label, present, 3)
    np.testing.assert_array_equal(found[0], plain(inputs["a"], label, 3))


def test_a_modality_that_nobody_has_has_no_effective_dimension():
    inputs, label, present = data(3)
    inputs["b"][:], present[:, 1] = np.nan, False
    found = ours(inputs, label, present, 3)
    assert found[0].any() and not found[1].any()
