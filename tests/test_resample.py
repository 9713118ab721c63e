"""Resampling against Pillow, and the rules of the random boxes against loops of plain Python.

``tests/fixtures/pictures/pillow.npz`` comes from ``python tests/make_pillow_fixture.py``.
"""

import functools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_pillow_fixture import FILE, RESAMPLED, resampled
from scipy import stats

from mla_jax.data.resample import (
    BOX_DRAWS,
    Box,
    centre_box,
    random_box,
    random_resized_box,
    resample,
    resample_by_products,
    resample_by_taps,
    resampling_matrix,
    resampling_taps,
)

DRAWS = 12000


WAYS = {"products": resample_by_products, "taps": resample_by_taps}


def ours(image, box, size, interpolation, cut, way=resample):
    function = functools.partial(way, size=size, interpolation=interpolation, inside=cut)
    return np.asarray(jax.jit(function)(image, Box(*map(float, box))))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", RESAMPLED)
def test_pillow_to_one_grey_level(name, way):
    with np.load(FILE) as fixture:
        image, expected = fixture["image"], fixture[f"resampled_{name}"].astype(float)
    found = ours(image, *RESAMPLED[name], WAYS[way])
    assert np.abs(found - expected).max() <= 1
    assert abs((found - expected).mean()) < 0.1, "rounded, not cut"
    assert expected.std() > 20


@pytest.mark.parametrize(
    ("shape", "interpolation"),
    [((256, 256, 3), "bilinear"), ((180, 320, 3), "bicubic"), ((240, 160, 1), "bilinear")],
)
def test_pillow_live(shape, interpolation):
    pytest.importorskip("PIL")
    rng = np.random.default_rng(sum(shape))
    image = np.clip(rng.normal(128, 60, shape), 0, 255).astype(np.uint8)
    height, width, channels = shape
    boxes = [(0, 0, height, width, False)]
    h, w = rng.integers(20, height + 1), rng.integers(20, width + 1)
    boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w, True))
    for *box, cut in boxes:
        box = tuple(map(int, box))
        squeezed = image if channels == 3 else image[..., 0]
        expected = resampled(squeezed, box, 224, interpolation, cut).reshape(224, 224, channels)
        found = ours(image, box, 224, interpolation, cut)
        assert np.abs(found - expected.astype(float)).max() <= 1


@pytest.mark.parametrize(
    ("size", "outputs", "inside", "interpolation"),
    [
        (40, 24, True, "bilinear"),
        (24, 40, True, "bicubic"),
        (100, 7, False, "bilinear"),
        (40, 40, False, "bicubic"),
    ],
)
def test_taps_are_the_matrix_without_its_zeros(size, outputs, inside, interpolation):
    rng = np.random.default_rng(size)
    lengths = np.array([size, 1, *rng.uniform(1, size, 20)])
    starts = np.array([0, size - 1, *(rng.random(20) * (size - lengths[2:]))])
    options = {"size": size, "outputs": outputs, "interpolation": interpolation, "inside": inside}
    matrices = jax.vmap(functools.partial(resampling_matrix, **options))(starts, lengths)
    pixel, weights = jax.vmap(functools.partial(resampling_taps, **options))(starts, lengths)
    dense = np.zeros(matrices.shape)
    box, output, _ = np.indices(pixel.shape)
    np.add.at(dense, (box, output, np.asarray(pixel)), np.asarray(weights))
    np.testing.assert_allclose(dense, matrices, atol=1e-4)


def test_only_the_way_of_the_platform_is_compiled():
    lowered = jax.jit(functools.partial(resample, size=8)).lower(
        np.zeros((20, 24, 3), np.uint8), Box(0, 0, 20, 24)
    )
    text = lowered.compile().as_text()
    assert " gather(" in text
    assert " conditional(" not in text and " dot(" not in text


def test_weights_sum_to_one_and_see_only_the_box():
    for start, length in ((0, 40), (13, 5), (39, 1), (7.3, 11.9), (0.2, 1.0)):
        matrix = np.asarray(resampling_matrix(start, length, 40, 24))
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)
        seen = np.flatnonzero(matrix.any(0))
        assert seen.min() >= math.floor(start) and seen.max() < math.ceil(start + length)
    np.testing.assert_array_equal(resampling_matrix(0, 24, 24, 24), np.eye(24))
    np.testing.assert_array_equal(resampling_matrix(5, 8, 24, 8), np.eye(24)[5:13])


def reference_box(rng: random.Random, height: int, width: int):
    """The published rule in plain Python: ten tries, then the centre."""
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(256, 256), (240, 320), (60, 300), (300, 60)])
def test_random_resized_boxes_follow_torchvisions_law(height, width):
    draws = jax.random.uniform(jax.random.key(1), (DRAWS, BOX_DRAWS))
    found = np.asarray(jax.vmap(lambda d: jnp.stack(random_resized_box(d, height, width)))(draws))
    rng = random.Random(2)
    expected = np.array([reference_box(rng, height, width) for _ in range(DRAWS)])
    top, left, h, w = found.T
    assert found.min() >= 0 and (top + h).max() <= height and (left + w).max() <= width
    for measure in (
        lambda b: b[:, 2] * b[:, 3],  # area
        lambda b: np.log(b[:, 3] / b[:, 2]),  # aspect
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 0] / np.maximum(height - b[:, 2], 1),  # place, as a share of the room
        lambda b: b[:, 1] / np.maximum(width - b[:, 3], 1),
    ):
        assert stats.ks_2samp(measure(found), measure(expected)).pvalue > 1e-3
    if (height, width) == (60, 300):  # where the centre is often all that is left
        shares = [(b == (0, 110, 60, 80)).all(1).mean() for b in (found, expected)]
        assert 0.05 < shares[0] < 0.95
        assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_random_box_is_uniform():
    draws = jax.random.uniform(jax.random.key(3), (DRAWS, BOX_DRAWS))
    found = np.asarray(jax.vmap(lambda d: jnp.stack(random_box(d, 10, 14, 8)))(draws))
    np.testing.assert_array_equal(found[:, 2:], 8)
    for axis, places in ((0, 3), (1, 7)):
        counts = np.bincount(found[:, axis], minlength=places)
        assert len(counts) == places and stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(180, 320), (320, 180), (256, 256), (97, 131)])
def test_centre_box_is_resize_and_centre_crop(height, width):
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(height)
    image = np.clip(rng.normal(128, 60, (height, width, 3)), 0, 255).astype(np.uint8)
    scale = 128 / min(height, width)
    new = (int(width * scale + 1e-9), int(height * scale + 1e-9))
    resized = image_module.fromarray(image).resize(new, image_module.Resampling.BILINEAR)
    left, top = (round((side - 128) / 2) for side in new)
    expected = np.asarray(resized.crop((left, top, left + 128, top + 128)))
    found = ours(image, centre_box(height, width, 128), 128, "bilinear", False)
    assert np.abs(found - expected.astype(float)).max() <= 1
