"""From the declared streams of a data set to one pure function, run inside the jitted step.

The host delivers stored examples, pictures whole and in uint8; the device cuts, flips and
normalises them.  Every draw follows from ``batch["draw"]`` (``pipeline.py``), hence from the run's
seed, the epoch and the example alone: not from its place in the batch, nor from devices, processes
or workers, nor from where a run was resumed.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.data import augment, resample
from mla_jax.data.stream_checks import PICTURES, check_shape, check_stream
from mla_jax.data.streams import Stream
from mla_jax.datasets import Transform
from mla_jax.state import Batch


def create_transform(streams: Mapping[str, Stream], modalities: Sequence[str]) -> Transform | None:
    """The transform of a data set with these ``modalities``, in the order of ``present``.

    None where no stream is declared.  The input of an absent modality is zeros after everything
    else, as in the reference (quirk Q21).  ``batch["aspect"]: float[B, M]``, the width over the
    height that pictures had before they were stored, may be left out where storing kept it.  In
    training the batch must carry ``draw``.

    Raises:
      UserError: a field that is impossible, or that does not concern the stream's kind.
    """
    for modality, stream in streams.items():
        check_stream(modality, stream)
    if not streams:
        return None

    def transform(batch: Batch, train: bool) -> dict[str, Any]:
        if train and "draw" not in batch:
            raise ValueError("a training batch must carry 'draw': take it from training_batches")
        seeds = jnp.asarray(batch["draw" if train else "index"]).astype(jnp.uint32)
        keys = jax.vmap(jax.random.key)(seeds)
        inputs = dict(batch["inputs"])
        for position, modality in enumerate(modalities):
            if modality in streams:
                stream, x = streams[modality], jnp.asarray(inputs[modality])
                aspect = batch["aspect"][:, position] if "aspect" in batch else None
                x = _treat(modality, stream, keys, x, aspect, train)
                present = batch["present"][:, position].reshape(-1, *[1] * (x.ndim - 1))
                inputs[modality] = jnp.where(present, x, 0)
        return inputs

    return transform


def _treat(
    modality: str,
    stream: Stream,
    keys: jax.Array,
    x: jax.Array,
    aspect: jax.Array | None,
    train: bool,
) -> jax.Array:
    """Everything that is done to one modality of a batch; float32, tokens as they are."""
    check_shape(modality, stream, x.shape)
    if stream.kind == "tokens":
        return x
    name = zlib.crc32((stream.shared_draw or modality).encode())
    pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, name)))(keys)
    keys, noise_keys = pairs[:, 0], pairs[:, 1]
    if stream.kind in PICTURES:
        height, width = x.shape[-3:-1]
        if aspect is None:
            aspect = jnp.full(len(x), width / height)
        # What the width was when a stored picture had the height that it has now.
        true_width = jnp.maximum(jnp.round(height * aspect), 1).astype(jnp.int32)
        one = _picture if stream.kind == "image" else _frames
        x = jax.vmap(lambda *a: one(stream, *a, train))(keys, x, true_width)
        x = x / 255
    x = x.astype(jnp.float32)
    mean, std = stream.mean, stream.std
    if not train:
        mean, std = stream.test_mean or mean, stream.test_std or std
    x = augment.normalize(_noisy(stream, noise_keys, x, train), mean, std)
    if stream.kind == "spectrogram" and train:
        x = jax.vmap(lambda key, one: _masked(stream, key, one))(keys, x)
    return x


def _picture(
    stream: Stream, key: jax.Array, image: jax.Array, true_width: jax.Array, train: bool
) -> jax.Array:
    """One image or frame: crop, flip, jitter; grey levels, float32."""
    crop_key, flip_key, jitter_key = jax.random.split(key, 3)
    if stream.crop:
        image = _crop(stream, crop_key, image, true_width, train)
    image = image.astype(jnp.float32)
    if train and stream.flip == "horizontal":
        image = augment.flip(flip_key, image)
    elif train and stream.flip != "none":
        image = augment.flip_flow(flip_key, image, stream.flip == "released")
    if train and stream.jitter:
        image = augment.colour_jitter(jitter_key, image, stream.jitter)
    return image


def _crop(
    stream: Stream, key: jax.Array, image: jax.Array, true_width: jax.Array, train: bool
) -> jax.Array:
    height, width, _ = image.shape
    size = stream.crop
    stretch = width / true_width
    if train and stream.train_crop == "random_resized":
        box = resample.random_resized_box(key, height, true_width).stretched(stretch)
    elif train:
        box = resample.random_box(key, height, width, size)
    elif stream.test_crop == "center":
        box = resample.centre_box(height, true_width, size).stretched(stretch)
    elif stream.test_crop == "window":
        box = resample.Box(round((height - size) / 2), round((width - size) / 2), size, size)
    else:
        box = resample.Box(0, 0, height, width)
    return resample.resample(image, box, size, stream.interpolation, inside=train)


def _frames(
    stream: Stream, key: jax.Array, frames: jax.Array, true_width: jax.Array, train: bool
) -> jax.Array:
    """The frames of a clip, each with its own draws or all with the same."""
    keys = jax.random.split(key, len(frames)) if stream.per_frame else key
    one = jax.vmap(
        lambda key, frame: _picture(stream, key, frame, true_width, train),
        (0 if stream.per_frame else None, 0),
    )
    return one(keys, frames)


def _noisy(stream: Stream, keys: jax.Array, x: jax.Array, train: bool) -> jax.Array:
    shape = x.shape[1:]
    if stream.noise and stream.noise_law == "fixed":
        return x + stream.noise * augment.fixed_noise(shape)
    if stream.noise and train:
        return x + stream.noise * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return x


def _masked(stream: Stream, key: jax.Array, x: jax.Array) -> jax.Array:
    """One spectrogram ``[time, frequency, 1]`` with spans of it set to 0."""
    longest = (stream.time_mask, stream.frequency_mask)
    for axis, axis_key in enumerate(jax.random.split(key)):
        if longest[axis]:
            x = augment.mask_spans(axis_key, x, axis, longest[axis], stream.masks)
    return x
