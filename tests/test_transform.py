"""The transform of a batch: what it depends on, what it leaves alone, what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from make_pillow_fixture import example, resampled

from mla_jax.data.streams import IMAGENET_MEAN, IMAGENET_STD, Stream
from mla_jax.data.transform import create_transform
from mla_jax.errors import UserError

B = 8
IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
STREAMS = {
    "image": Stream("image", (20, 24, 3), crop=16, jitter=1.0, **IMAGENET),
    "clip": Stream("clip", (3, 20, 24, 3), crop=16, noise=0.1, **IMAGENET),
    "flow": Stream("flow", (2, 20, 24, 2), crop=16, train_crop="random", flip="corrected"),
    "audio": Stream("spectrogram", (40, 12, 1), "float16", time_mask=9, frequency_mask=5, masks=2),
    "text": Stream("tokens", (7,), "int32"),
    "features": Stream("vector", (5,), "float32", noise=0.5, mean=(1.0,), std=(2.0,)),
}
MODALITIES = tuple(STREAMS)


def build_batch(streams=STREAMS, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {}
    for m, stream in streams.items():
        shape = (B, *stream.shape)
        numbers = (
            rng.integers(0, 256, shape) if stream.dtype != "float16" else rng.normal(size=shape)
        )
        inputs[m] = numbers.astype(stream.dtype)
    return {
        "inputs": inputs,
        "present": np.ones((B, len(streams)), bool),
        "index": np.arange(B, dtype=np.int32),
        "draw": rng.integers(0, 2**32, B, dtype=np.uint32),
    }


@functools.cache
def compiled(streams):
    transform = create_transform(dict(streams), tuple(m for m, _ in streams))
    return jax.jit(transform, static_argnums=1)


def run(batch, train=True, streams=STREAMS):
    found = compiled(tuple(streams.items()))(batch, train)
    return {m: np.asarray(x) for m, x in found.items()}


def single(stream, train=True, **changes):
    """One stream alone: ``(batch, outputs)``."""
    batch = build_batch({"x": stream})
    batch["inputs"]["x"] = changes.pop("x", batch["inputs"]["x"])
    return batch, run({**batch, **changes}, train, {"x": stream})["x"]


@pytest.mark.parametrize("train", [True, False])
def test_shapes_and_types(train):
    found = run(build_batch(), train)
    assert list(found) == sorted(MODALITIES)
    shapes = {m: x.shape[1:] for m, x in found.items()}
    expected = {m: s.shape for m, s in STREAMS.items()}
    expected |= {"image": (16, 16, 3), "clip": (3, 16, 16, 3), "flow": (2, 16, 16, 2)}
    assert shapes == expected
    assert {m: x.dtype.name for m, x in found.items()} == {
        m: "int32" if m == "text" else "float32" for m in MODALITIES
    }
    assert all(np.isfinite(x).all() for x in found.values())


def test_an_example_is_treated_the_same_wherever_it_stands():
    batch = build_batch()
    order = np.random.default_rng(1).permutation(B)
    whole, turned = run(batch), run(jax.tree.map(lambda x: x[order], batch))
    again = run(jax.tree.map(lambda x: np.roll(x, 3, axis=0), batch))
    for m in MODALITIES:
        np.testing.assert_array_equal(turned[m], whole[m][order], err_msg=m)
        np.testing.assert_array_equal(again[m], np.roll(whole[m], 3, axis=0), err_msg=m)


def test_devices_do_not_matter():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    streams = {m: STREAMS[m] for m in ("flow", "audio", "features")}
    batch = build_batch(streams)
    sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    alone = run(batch, streams=streams)
    for m, x in run(sharded, streams=streams).items():
        np.testing.assert_array_equal(x, alone[m], err_msg=m)
        assert len(np.unique(x)) > B


@pytest.mark.parametrize("train", [True, False])
def test_draws_matter_in_training_alone(train):
    batch = build_batch()
    other = {**batch, "draw": batch["draw"] + 1}
    changed = run(other, train)
    for m, x in run(batch, train).items():
        same = np.array_equal(x, changed[m])
        assert same == (not train or m == "text"), m


def test_modalities_draw_independently_unless_they_share():
    alone = Stream("image", (20, 24, 3), crop=16)
    for shared in (False, True):
        stream = alone._replace(shared_draw="video" if shared else "")
        streams = {"a": stream, "b": stream}
        batch = build_batch(streams)
        batch["inputs"]["b"] = batch["inputs"]["a"]
        found = run(batch, True, streams)
        equal = (found["a"] == found["b"]).all((1, 2, 3))
        assert equal.all() if shared else not equal.any()


@pytest.mark.parametrize("per_frame", [True, False])
def test_frames_draw_each_or_together(per_frame):
    stream = Stream("clip", (4, 20, 24, 3), crop=16, per_frame=per_frame, jitter=0.5)
    frames = np.repeat(build_batch({"x": stream})["inputs"]["x"][:, :1], 4, axis=1)
    _, found = single(stream, x=frames)
    equal = (found == found[:, :1]).all((2, 3, 4))[:, 1:]
    assert not equal.any() if per_frame else equal.all()


def test_evaluation_is_pillows_resize_normalised():
    image = example()
    stream = Stream("image", image.shape, crop=32, **IMAGENET)
    _, found = single(stream, False, x=np.repeat(image[None], B, 0))
    expected = resampled(image, (0, 0, 37, 53), 32, "bilinear", False) / 255
    expected = (expected - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(found[3], expected, atol=1.01 / 255 / min(IMAGENET_STD))


def test_windows_are_cut_as_they_are():
    stream = Stream("flow", (2, 20, 24, 2), crop=16, test_crop="window", flip="none")
    batch, found = single(stream, False)
    x = batch["inputs"]["x"] / np.float32(255)
    np.testing.assert_allclose(found, x[:, :, 2:18, 4:20], rtol=1e-6)
    stream = stream._replace(train_crop="random", per_frame=False)
    _, found = single(stream)
    for example_, source in zip(found, x, strict=True):
        places = [
            (i, j)
            for i in range(5)
            for j in range(9)
            if np.allclose(example_, source[:, i : i + 16, j : j + 16])
        ]
        assert len(places) == 1


def test_crop_0_leaves_the_picture():
    stream = Stream("image", (20, 24, 3), flip="none")
    batch, found = single(stream)
    np.testing.assert_allclose(found, batch["inputs"]["x"] / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize("test_crop", ["center", "squash"])
def test_a_squashed_picture_is_cut_as_the_original_would_be(test_crop):
    """A smooth original of 60 x 120 pixels, stored as 60 x 60."""
    row, column = np.mgrid[:60, :120] / 60
    original = 127 + 60 * np.sin(2 * row)[..., None] * np.cos(2 * column)[..., None] + 40
    original = np.repeat(original, 3, -1).clip(0, 255).astype(np.uint8)
    stored = original.reshape(60, 60, 2, 3).mean(2).round().astype(np.uint8)
    stream = Stream("image", stored.shape, crop=30, test_crop=test_crop)
    aspect = np.full((B, 1), 2.0, np.float32)
    _, found = single(stream, False, x=np.repeat(stored[None], B, 0), aspect=aspect)
    left, width = (30, 60) if test_crop == "center" else (0, 120)
    expected = resampled(original, (0, left, 60, width), 30, "bilinear", False)
    assert np.abs(found[0] * 255 - expected).max() <= 3
    assert np.ptp(expected) > 60


def test_random_crops_of_a_squashed_picture_have_the_originals_proportions():
    """Read from a ramp: the levels of a crop tell its place and its size."""
    ramp = np.linspace(0, 255, 64).round().astype(np.uint8)
    stored = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 0), -1).astype(np.uint8)
    stream = Stream("image", stored.shape, crop=32, flip="none")
    streams = {"x": stream}
    count = 600
    batch = {
        "inputs": {"x": np.broadcast_to(stored, (count, *stored.shape))},
        "present": np.ones((count, 1), bool),
        "aspect": np.full((count, 1), 1.5, np.float32),
        "draw": np.arange(count, dtype=np.uint32),
    }
    batch["index"] = batch["draw"]
    found = run(batch, True, streams)["x"]
    height = np.ptp(found[:, :, 16, 0], axis=1) * 32 / 31
    width = np.ptp(found[:, 16, :, 1], axis=1) * 32 / 31 * 1.5
    ratio = np.log(width / height)
    assert np.log(4 / 3) * 0.9 < np.quantile(ratio, 0.99) < np.log(4 / 3) * 1.15
    assert -np.log(4 / 3) * 1.15 < np.quantile(ratio, 0.01) < -np.log(4 / 3) * 0.9
    area = height * width / 1.5
    assert area.min() > 0.06 and np.quantile(area, 0.99) > 0.75


def test_noise_kinds():
    fresh = Stream("vector", (2000,), "float32", noise=0.5)
    x = np.ones((B, 2000), np.float32)
    _, found = single(fresh, x=x)
    assert found.std() == pytest.approx(0.5, rel=0.05)
    assert np.abs(np.corrcoef(found) - np.eye(B)).max() < 0.15
    np.testing.assert_array_equal(single(fresh, False, x=x)[1], 1)
    fixed = fresh._replace(noise_kind="fixed")
    trained, evaluated = single(fixed, x=x)[1], single(fixed, False, x=x)[1]
    np.testing.assert_array_equal(trained, evaluated)
    np.testing.assert_array_equal(trained, np.broadcast_to(trained[0], trained.shape))
    assert trained.std() == pytest.approx(0.5, rel=0.1)


def test_statistics_of_the_test_split():
    stream = Stream(
        "flow",
        (2, 20, 24, 2),
        flip="none",
        mean=(0.5, 0.25),
        std=(0.1, 0.2),
        test_mean=(0.0, 1.0),
        test_std=(1.0, 2.0),
    )
    batch, trained = single(stream)
    x = batch["inputs"]["x"] / 255
    np.testing.assert_allclose(trained, (x - [0.5, 0.25]) / [0.1, 0.2], atol=1e-5)
    np.testing.assert_allclose(single(stream, False)[1], (x - [0, 1]) / [1, 2], atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_an_absent_modality_is_zeros_in_the_end(train):
    batch = build_batch()
    present = np.random.default_rng(2).random((B, len(MODALITIES))) < 0.5
    whole, found = run(batch, train), run({**batch, "present": present}, train)
    for position, m in enumerate(MODALITIES):
        there = present[:, position]
        assert 0 < there.sum() < B
        np.testing.assert_array_equal(found[m][there], whole[m][there])
        assert not found[m][~there].any() and whole[m][~there].any()


def test_masks_are_for_training():
    stream = STREAMS["audio"]
    x = np.ones((B, *stream.shape), np.float16)
    assert (single(stream, False, x=x)[1] == 1).all()
    shares = (single(stream, x=x)[1] == 0).mean((1, 2, 3))
    assert (shares > 0).mean() > 0.7 and shares.max() < 0.9


def test_streams_may_be_fewer_than_modalities():
    transform = create_transform({"a": Stream("vector", (2,), mean=(1.0,), std=(1.0,))}, ("b", "a"))
    batch = {
        "inputs": {"a": jnp.ones((2, 2)), "b": jnp.full((2, 1), 7)},
        "present": np.array([[True, True], [True, False]]),
        "index": np.arange(2),
    }
    batch["inputs"]["a"] = batch["inputs"]["a"] + 1
    found = transform(batch, False)
    np.testing.assert_array_equal(found["b"], batch["inputs"]["b"])
    np.testing.assert_array_equal(found["a"], [[1, 1], [0, 0]])
    assert create_transform({}, ("a",)) is None


IMAGE = STREAMS["image"]


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (
            IMAGE._replace(kind="imagee"),
            "unknown kind of stream 'x' 'imagee'.*did you mean 'image'",
        ),
        (IMAGE._replace(train_crop="centre"), "unknown train_crop of stream 'x'"),
        (IMAGE._replace(flip="released"), "unknown flip of stream 'x' 'released'"),
        (STREAMS["flow"]._replace(flip="horizontal"), "unknown flip .* 'horizontal'"),
        (IMAGE._replace(jitter=-1.0), "jitter must be at least 0"),
        (IMAGE._replace(noise=-1.0), "noise must be at least 0"),
        (IMAGE._replace(time_mask=3), "'time_mask' does not apply to kind 'image'"),
        (STREAMS["flow"]._replace(jitter=0.4), "'jitter' does not apply to kind 'flow'"),
        (STREAMS["text"]._replace(noise=0.4), "'noise' does not apply to kind 'tokens'"),
        (IMAGE._replace(mean=(0.5,)), "mean and std go together"),
        (IMAGE._replace(std=(1.0, 0.0, 1.0)), "std and test_std must be positive"),
        (STREAMS["audio"]._replace(masks=0), "masks must be at least 1"),
    ],
)
def test_impossible_streams(stream, sentence):
    with pytest.raises(UserError, match=sentence):
        create_transform({"x": stream}, ("x",))


@pytest.mark.parametrize(
    ("stream", "shape", "sentence"),
    [
        (IMAGE, (B, 20, 24), "shape .* holds no examples of kind 'image'"),
        (IMAGE, (B, 20, 24, 1), "jitter needs 3 channels, not 1"),
        (STREAMS["flow"], (B, 2, 20, 24, 3), "no examples of kind 'flow'"),
        (STREAMS["flow"], (B, 2, 12, 24, 2), "12 x 24 pixels have no window of crop=16"),
    ],
)
def test_impossible_batches(stream, shape, sentence):
    batch = build_batch({"x": stream})
    batch["inputs"]["x"] = np.zeros(shape, np.uint8)
    with pytest.raises(UserError, match=sentence):
        create_transform({"x": stream}, ("x",))(batch, True)


def test_a_training_batch_without_draws_is_refused():
    batch = build_batch()
    del batch["draw"]
    with pytest.raises(ValueError, match="must carry 'draw'"):
        create_transform(STREAMS, MODALITIES)(batch, True)
