"""Colours against Pillow; flips, masks and noise against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_pillow_fixture import FACTORS, FILE, ORDERS, enhanced, example
from scipy import stats

from mla_jax.data import augment

DRAWS = 3000


def uniform(*shape):
    return jax.random.uniform(jax.random.key(0), (DRAWS, *shape))


def adjusted(image, factors, order):
    arguments = jnp.asarray(image, jnp.float32), jnp.asarray(factors), jnp.asarray(order)
    return np.asarray(jax.jit(augment.adjust_colours)(*arguments))


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: "".join(map(str, o)))
def test_colours_are_pillows(order):
    with np.load(FILE) as fixture:
        expected = fixture["colours_" + "".join(map(str, order))].astype(float)
        found = adjusted(fixture["image"], FACTORS, order)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01
    assert np.abs(expected - adjusted(example(), FACTORS, order[::-1])).max() > 5, "order matters"


@pytest.mark.parametrize("seed", range(3))
def test_colours_are_pillows_live(seed):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (64, 48, 3)).astype(np.uint8)
    factors, order = rng.uniform(0, 2, 3).astype(np.float32), rng.permutation(3)
    difference = np.abs(adjusted(image, factors, order) - enhanced(image, factors, order))
    assert difference.max() <= 2, "an off-by-one that a later factor of up to 2 enlarges"
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize(("strength", "low", "high"), [(1.0, 0, 2), (0.4, 0.6, 1.4), (1.5, 0, 2.5)])
def test_jitter_draws_factors_and_orders_uniformly(strength, low, high, monkeypatch):
    """The draws themselves, read where they reach ``adjust_colours``."""
    monkeypatch.setattr(augment, "adjust_colours", lambda image, factors, order: (factors, order))
    draw = jax.vmap(lambda d: augment.colour_jitter(d, jnp.zeros((1, 1, 3)), strength))
    factors, orders = map(np.asarray, draw(uniform(augment.JITTER_DRAWS)))
    for column in factors.T:
        assert stats.kstest(column, "uniform", (low, high - low)).pvalue > 1e-3
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.1
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-3


def test_a_flip_mirrors_half_of_the_images():
    image = jnp.arange(24.0).reshape(2, 4, 3)
    flipped = np.asarray(jax.vmap(lambda d: augment.flip(d, image))(uniform()))
    mirrored = (flipped == np.asarray(image)[:, ::-1]).all((1, 2, 3))
    same = (flipped == np.asarray(image)).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert stats.binomtest(int(mirrored.sum()), DRAWS).pvalue > 1e-3


@pytest.mark.parametrize("released", [False, True])
def test_flow_flip(released):
    """Something that moves right by 3 moves left by 3 in the mirror, and up stays up."""
    flow = np.random.default_rng(0).integers(0, 256, (2, 5, 2)).astype(np.float32)
    flipped = np.asarray(
        jax.vmap(lambda d: augment.flip_flow(d, jnp.asarray(flow), released))(uniform()[:64])
    )
    changed = flipped[(flipped != flow).any((1, 2, 3))]
    assert 10 < len(changed) < 54
    u, v = flow[..., 0], flow[..., 1]
    expected = (u[:, ::-1], v) if released else (255 - u[:, ::-1], v[:, ::-1])
    np.testing.assert_array_equal(changed, np.broadcast_to(np.stack(expected, -1), changed.shape))


@pytest.mark.parametrize(("axis", "longest"), [(0, 12), (1, 7)])
def test_masks_have_torchaudios_lengths_and_places(axis, longest):
    size = (40, 24)[axis]
    masked = jax.vmap(lambda d: augment.mask_spans(d, jnp.ones((40, 24, 1)), axis, longest))
    gone = np.asarray(masked(uniform(2, 1)))[..., 0] == 0
    along = gone.any(2 - axis)
    np.testing.assert_array_equal(gone.sum((1, 2)), along.sum(1) * (40, 24)[1 - axis])
    lengths = along.sum(1)
    counts = np.bincount(lengths, minlength=longest)
    assert len(counts) == longest and stats.chisquare(counts).pvalue > 1e-3
    edges = np.diff(np.pad(along.astype(int), ((0, 0), (1, 1))), axis=1)
    assert ((edges == 1).sum(1) == (lengths > 0)).all(), "one span"
    rng = np.random.default_rng(1)
    value = rng.random(DRAWS) * longest
    starts = np.floor(rng.random(DRAWS) * (size - value))[np.floor(value) > 0]
    found = np.argmax(along, 1)[lengths > 0]
    assert stats.ks_2samp(found, starts).pvalue > 1e-3


def test_several_masks_and_none():
    ones = jnp.ones((400, 8, 1))
    lengths = [
        float((augment.mask_spans(uniform(2, count)[0], ones, 0, 20) == 0).mean())
        for count in (1, 10)
    ]
    assert lengths[1] > 2 * lengths[0] > 0


def test_fixed_noise_is_one_pattern():
    noise = np.asarray(jax.jit(augment.fixed_noise, static_argnums=0)((3, 40, 40, 3)))
    np.testing.assert_array_equal(noise, augment.fixed_noise((3, 40, 40, 3)))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.reshape(3, -1)) - np.eye(3)).max() < 0.1, "another each frame"


def test_normalize():
    x = jnp.asarray(np.random.default_rng(0).random((2, 3, 4)), jnp.float32)
    mean, std = (0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0)
    expected = (np.asarray(x) - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(augment.normalize(x, mean, std), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(augment.normalize(x, (5,), (2,)), (x - 5) / 2, rtol=1e-6)
    assert augment.normalize(x, (), ()) is x
