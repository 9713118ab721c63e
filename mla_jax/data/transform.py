"""From the declared streams of a data set to one pure function, run inside the jitted step.

The host delivers stored examples, pictures whole and in uint8; the device cuts, flips and
normalises them.  Every draw follows from ``batch["draw"]`` (``pipeline.py``), hence from the run's
seed, the epoch and the example alone: not from its place in the batch, nor from devices, processes
or workers, nor from where a run was resumed.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mla_jax.data import augment, resample
from mla_jax.data.dataset import Transform
from mla_jax.data.stream_checks import PICTURES, check_shape, check_stream
from mla_jax.data.streams import Stream
from mla_jax.state import Batch

PICTURE_DRAWS = resample.BOX_DRAWS + 1 + augment.JITTER_DRAWS
NOISE = 2**31 - 1
"""Folded into an example's key for its noise; the other draws count from 0."""


def create_transform(streams: Mapping[str, Stream], modalities: Sequence[str]) -> Transform | None:
    """The transform of a data set with these ``modalities``, in the order of ``present``.

    None where no stream is declared.  The input of an absent modality is zeros after everything
    else, as in the reference (quirk Q21).  ``batch["aspect"]: float[B, M]``, the width over the
    height that pictures had before they were stored, may be left out where storing kept it.  In
    training the batch must carry ``draw``.  A batch may hold the inputs of some modalities, and
    then has their columns of ``present`` and ``aspect``; ``draw_name: uint32``, in the batch of one
    modality, takes the place of ``draw_name(...)``.

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
        # One key per example, not one per batch: the draws of an example are then the same whatever
        # its neighbours.  In evaluation nothing is drawn, and any number will do.
        seeds = jnp.asarray(batch["draw" if train else "index"]).astype(jnp.uint32)
        keys = jax.vmap(jax.random.key)(seeds)
        inputs = dict(batch["inputs"])
        for position, modality in enumerate(m for m in modalities if m in inputs):
            if modality in streams:
                stream, x = streams[modality], jnp.asarray(inputs[modality])
                aspect = batch["aspect"][:, position] if "aspect" in batch else None
                name = batch.get("draw_name", draw_name(modality, stream))
                x = _treat(modality, stream, keys, name, x, aspect, train)
                # Last of all: normalisation has made another number of the zeros of a gap.
                present = batch["present"][:, position].reshape(-1, *[1] * (x.ndim - 1))
                inputs[modality] = jnp.where(present, x, 0)
        return inputs

    return transform


def draw_name(modality: str, stream: Stream) -> int:
    """The number that stands for a modality in its draws; one for streams of a ``shared_draw``."""
    # Not hash(): Python salts that of a string, so each process would draw other numbers.
    return zlib.crc32((stream.shared_draw or modality).encode())


def _treat(
    modality: str,
    stream: Stream,
    keys: jax.Array,
    name: Any,
    x: jax.Array,
    aspect: jax.Array | None,
    train: bool,
) -> jax.Array:
    """Everything that is done to one modality of a batch; float32, tokens as they are."""
    check_shape(modality, stream, x.shape)
    if stream.kind == "tokens":
        return x
    keys = jax.vmap(lambda key: jax.random.fold_in(key, name))(keys)
    if stream.kind in PICTURES:
        height, width = x.shape[-3:-1]
        if aspect is None:
            aspect = jnp.full(x.shape[0], width / height)
        # What the width was when a stored picture had the height that it has now.
        true_width = jnp.maximum(jnp.round(height * aspect), 1).astype(jnp.int32)
        frames = x.shape[1] if stream.kind != "image" and stream.per_frame else 1
        draws = _uniform(keys, (frames, PICTURE_DRAWS))
        one: Callable[..., jax.Array] = _picture if stream.kind == "image" else _frames
        x = jax.vmap(lambda *a: one(stream, *a, train))(draws, x, true_width)
        x = x / 255  # after the crop, which rounds to whole grey levels as Pillow does
    x = x.astype(jnp.float32)
    mean, std = stream.mean, stream.std
    if not train:
        mean, std = stream.test_mean or mean, stream.test_std or std
    x = augment.normalize(_noisy(stream, keys, x, train), mean, std)
    if stream.kind == "spectrogram" and train:
        draws = _uniform(keys, (2, 2, stream.masks))
        x = jax.vmap(lambda d, one: _masked(stream, d, one))(draws, x)
    return x


def _uniform(keys: jax.Array, shape: Sequence[int]) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)


def _picture(
    stream: Stream, draws: jax.Array, image: jax.Array, true_width: jax.Array, train: bool
) -> jax.Array:
    """One image or frame: crop, flip, jitter; grey levels, float32; ``draws: [1, n]``."""
    # Every draw has its place in the row, used or not: turning one augmentation on or off leaves
    # the others as they were.
    box, flip, jitter = jnp.split(draws[0], (resample.BOX_DRAWS, resample.BOX_DRAWS + 1))
    if stream.crop:
        image = _crop(stream, box, image, true_width, train)
    image = image.astype(jnp.float32)
    if train and stream.flip == "horizontal":
        image = augment.flip(flip, image)
    elif train and stream.flip != "none":
        image = augment.flip_flow(flip, image, stream.flip == "released")
    if train and stream.jitter:
        image = augment.colour_jitter(jitter, image, stream.jitter)
    return image


def _crop(
    stream: Stream, draws: jax.Array, image: jax.Array, true_width: jax.Array, train: bool
) -> jax.Array:
    height, width, _ = image.shape
    size = stream.crop
    # Boxes are chosen in the picture's own proportions, then stretched to those it is stored in.
    stretch = width / true_width
    if train and stream.train_crop == "random_resized":
        box = resample.random_resized_box(draws, height, true_width).stretched(stretch)
    elif train:
        box = resample.random_box(draws, height, width, size)
    elif stream.test_crop == "center":
        box = resample.centre_box(height, true_width, size).stretched(stretch)
    elif stream.test_crop == "window":
        box = resample.Box(round((height - size) / 2), round((width - size) / 2), size, size)
    else:
        box = resample.Box(0, 0, height, width)
    return resample.resample(image, box, size, stream.interpolation, inside=train)


def _frames(
    stream: Stream, draws: jax.Array, frames: jax.Array, true_width: jax.Array, train: bool
) -> jax.Array:
    """The frames of a clip, each with its own draws or all with the same."""
    draws = jnp.broadcast_to(draws, (len(frames), draws.shape[1]))
    return jax.vmap(lambda d, frame: _picture(stream, d[None], frame, true_width, train))(
        draws, frames
    )


def _noisy(stream: Stream, keys: jax.Array, x: jax.Array, train: bool) -> jax.Array:
    shape = x.shape[1:]
    if stream.noise and stream.noise_kind == "fixed":
        return x + stream.noise * augment.fixed_noise(shape)
    if stream.noise and train:
        keys = jax.vmap(lambda key: jax.random.fold_in(key, NOISE))(keys)
        return x + stream.noise * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    return x


def _masked(stream: Stream, draws: jax.Array, x: jax.Array) -> jax.Array:
    """One spectrogram ``[time, frequency, 1]`` with spans of it set to 0."""
    for axis, longest in enumerate((stream.time_mask, stream.frequency_mask)):
        if longest:
            x = augment.mask_spans(draws[axis], x, axis, longest)
    return x
