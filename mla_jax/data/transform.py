"""What is done to the inputs of each modality, declared: a data set names a ``Stream`` a modality.

``create_transform`` turns the declarations into one pure function that runs inside the jitted
step: the host delivers whole, stored images in uint8, and the device cuts, flips and normalises
them.  Every draw follows from ``batch["draw"]`` (``pipeline.py``), hence from the run's seed, the
epoch and the example alone: not from its place in the batch, nor from devices, processes or
workers, nor from where a run was resumed.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mla_jax.data import augment, resample
from mla_jax.errors import UserError, check_choice
from mla_jax.state import Batch

Transform = Callable[[Batch, bool], dict[str, Any]]
"""``transform(batch, train) -> inputs``: the batch's ``inputs`` as the encoders get them."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

PICTURES = ("image", "clip", "flow")


class Stream(NamedTuple):
    """The treatment of one modality; what does not concern its kind stays at its default.

    Kinds, each with its input for one example: ``image`` ``uint8[H, W, F]``, ``clip``
    ``uint8[T, H, W, F]``, ``flow`` ``uint8[T, H, W, 2]`` (u, v), ``spectrogram``
    ``float[time, frequency]`` or the reverse, ``vector`` any numbers, ``tokens`` anything, which is
    passed on as it is.  All but tokens come out in float32.
    """

    kind: str

    # Pictures, in training.
    size: int = 224
    """Pixels a side, after the crop."""
    crop: str = "random_resized"
    """``random_resized``; ``random``, a square of ``size`` as it is; ``none``, as in evaluation."""
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    flip: float = 0.0
    """Probability of mirroring left to right."""
    flow_flip: str = "corrected"
    """``corrected`` or ``released`` (DI-MML quirk 14)."""
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Strength of the jitter of brightness, contrast and saturation (quirk Q25)."""
    per_frame: bool = True
    """Whether each frame of a clip has crop, flip and jitter of its own (quirk Q24)."""
    group: str = ""
    """Modalities of one group share their draws, as flow and frames of one video; empty: alone."""

    # Pictures, in evaluation.
    evaluation: str = "resize"
    """``resize`` to ``size`` x ``size`` whatever the aspect; ``centre_crop`` of ``size``, after
    resizing the short side to ``short_side``, unless that is 0."""
    short_side: int = 0

    # Spectrograms, in training.
    layout: str = "time_frequency"
    time_mask: int = 0
    """Upper bound of the length of a masked span; 0: none."""
    frequency_mask: int = 0
    masks: int = 1
    """Spans along each of the two axes."""

    # All but tokens.
    noise: float = 0.0
    """Standard deviation of additive noise, before mean and std are applied."""
    noise_law: str = "fresh"
    """``fresh`` for each example, in training; ``fixed``: one pattern for all of them, also in
    evaluation (DI-MML quirk 10)."""
    scale: float | None = None
    """The input is divided by it first; None: 255 for image and clip, 1 for the others."""
    mean: Sequence[float] | float = 0.0
    std: Sequence[float] | float = 1.0
    evaluation_mean: Sequence[float] | float | None = None
    """None: ``mean``; DI-MML's UCF-101 has others for its test split (quirk 15)."""
    evaluation_std: Sequence[float] | float | None = None


CHOICES = {
    "crop": ("random_resized", "random", "none"),
    "interpolation": tuple(resample.KERNELS),
    "flow_flip": ("corrected", "released"),
    "evaluation": ("resize", "centre_crop"),
    "layout": ("time_frequency", "frequency_time"),
    "noise_law": ("fresh", "fixed"),
}
PICTURE_FIELDS = (
    *("size", "crop", "area", "aspect", "interpolation", "flip", "evaluation", "short_side"),
    *("flow_flip", "jitter", "per_frame"),
)
FIELDS = {
    "image": set(PICTURE_FIELDS) - {"flow_flip", "per_frame"},
    "clip": set(PICTURE_FIELDS) - {"flow_flip"},
    "flow": set(PICTURE_FIELDS) - {"jitter"},
    "spectrogram": {"layout", "time_mask", "frequency_mask", "masks"},
    "vector": set(),
    "tokens": set(),
}
"""The fields that concern a kind, beside those that concern all but tokens."""
COMMON_FIELDS = {"group", "noise", "noise_law", "scale", "mean", "std"}
COMMON_FIELDS |= {"evaluation_mean", "evaluation_std"}


def create_transform(streams: Mapping[str, Stream]) -> Transform:
    """The transform of a data set; ``streams`` in the order of its modalities.

    The input of an absent modality is zeros after everything else, as in the reference (quirk
    Q21).  In training the batch must carry ``draw``.

    Raises:
      UserError: a field that makes no sense, or that does not concern the stream's kind.
    """
    for modality, stream in streams.items():
        check_stream(modality, stream)

    def transform(batch: Batch, train: bool) -> dict[str, Any]:
        inputs = dict(batch["inputs"])
        if train and "draw" not in batch:
            raise ValueError("a training batch must carry 'draw': take it from training_batches")
        seeds = batch["draw"] if train else batch["index"]
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds).astype(jnp.uint32))
        for position, (modality, stream) in enumerate(streams.items()):
            if modality not in inputs:
                continue
            inputs[modality] = _absent_to_zeros(
                _apply(modality, stream, keys, inputs[modality], train),
                jnp.asarray(batch["present"])[:, position],
            )
        return inputs

    return transform


def check_stream(modality: str, stream: Stream) -> None:
    """Raises ``UserError`` unless the fields of the stream are possible, and apply to its kind."""
    where = f"stream '{modality}'"
    check_choice(f"kind of {where}", stream.kind, FIELDS)
    concerned = FIELDS[stream.kind] | (COMMON_FIELDS if stream.kind != "tokens" else set())
    for field, value in stream._asdict().items():
        if field not in ("kind", *concerned) and value != Stream._field_defaults[field]:
            raise UserError(
                f"{where}: '{field}' does not concern kind '{stream.kind}': leave it out"
            )
    for field, known in CHOICES.items():
        check_choice(f"{field} of {where}", getattr(stream, field), known)
    requirements = {
        "size must be at least 1": stream.size >= 1,
        "flip must be a probability": 0 <= stream.flip <= 1,
        "area must be two shares, 0 < low <= high <= 1": 0 < stream.area[0] <= stream.area[1] <= 1,
        "aspect must be two ratios, 0 < low <= high": 0 < stream.aspect[0] <= stream.aspect[1],
        "jitter must be three strengths of at least 0": len(stream.jitter) == 3
        and min(stream.jitter) >= 0,
        "noise must be a standard deviation of at least 0": stream.noise >= 0,
        "time_mask, frequency_mask must be at least 0, masks at least 1": min(
            stream.time_mask, stream.frequency_mask, stream.masks - 1
        )
        >= 0,
        "short_side must be 0 or at least size, and goes with evaluation=centre_crop": not (
            stream.short_side
        )
        or (stream.short_side >= stream.size and stream.evaluation == "centre_crop"),
    }
    for sentence, holds in requirements.items():
        if not holds:
            raise UserError(f"{where}: {sentence}")


def _apply(modality: str, stream: Stream, keys: jax.Array, x: Any, train: bool) -> Any:
    if stream.kind == "tokens":
        return x
    name = zlib.crc32((stream.group or modality).encode())
    keys = jax.vmap(lambda key: jax.random.fold_in(key, name))(keys)
    x = jnp.asarray(x)
    if stream.kind in PICTURES:
        _check_shape(modality, stream, x.shape)
        treat = _picture if stream.kind == "image" else _frames
        x = jax.vmap(lambda key, one: treat(stream, key, one, train))(keys, x)
    x = x.astype(jnp.float32)
    mean, std = stream.mean, stream.std
    if not train:
        mean = mean if stream.evaluation_mean is None else stream.evaluation_mean
        std = std if stream.evaluation_std is None else stream.evaluation_std
    scale = stream.scale or (255.0 if stream.kind in ("image", "clip") else 1.0)
    x = augment.normalize(_noisy(stream, keys, x, scale, train), scale, mean, std)
    if stream.kind == "spectrogram" and train:
        x = jax.vmap(lambda key, one: _masked(stream, key, one))(keys, x)
    return x


def _picture(stream: Stream, key: jax.Array, image: jax.Array, train: bool) -> jax.Array:
    """One image or frame: crop, flip, jitter."""
    height, width, _ = image.shape
    crop_key, flip_key, jitter_key = jax.random.split(key, 3)
    inside = True
    if train and stream.crop == "random_resized":
        box = resample.random_resized_box(crop_key, height, width, stream.area, stream.aspect)
    elif train and stream.crop == "random":
        box = resample.random_box(crop_key, height, width, stream.size)
    else:
        box, inside = _evaluation_box(stream, height, width), False
    image = resample.resample(image, box, stream.size, stream.interpolation, inside)
    if not train:
        return image
    if stream.flip and stream.kind == "flow":
        image = augment.flip_flow(flip_key, image, stream.flip, stream.flow_flip == "released")
    elif stream.flip:
        image = augment.flip(flip_key, image, stream.flip)
    if any(stream.jitter):
        image = augment.colour_jitter(jitter_key, image, stream.jitter)
    return image


def _frames(stream: Stream, key: jax.Array, frames: jax.Array, train: bool) -> jax.Array:
    """The frames of a clip, each with its own draws or all with the same."""
    keys = jax.random.split(key, len(frames)) if stream.per_frame else key
    in_axes = (0 if stream.per_frame else None, 0)
    return jax.vmap(lambda k, f: _picture(stream, k, f, train), in_axes)(keys, frames)


def _evaluation_box(stream: Stream, height: int, width: int) -> resample.Box:
    if stream.evaluation == "resize":
        return resample.Box(0, 0, height, width)
    return resample.centre_box(height, width, stream.size, stream.short_side)


def _noisy(stream: Stream, keys: jax.Array, x: jax.Array, scale: float, train: bool) -> jax.Array:
    if not stream.noise:
        return x
    if stream.noise_law == "fixed":
        return x + stream.noise * scale * augment.fixed_noise(x.shape[1:])
    if not train:
        return x

    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, 1), x.shape[1:])

    return x + stream.noise * scale * jax.vmap(draw)(keys)


def _masked(stream: Stream, key: jax.Array, x: jax.Array) -> jax.Array:
    time_key, frequency_key = jax.random.split(key)
    time = stream.layout.split("_").index("time")
    if stream.time_mask:
        x = augment.mask_span(time_key, x, time, stream.time_mask, stream.masks)
    if stream.frequency_mask:
        x = augment.mask_span(frequency_key, x, 1 - time, stream.frequency_mask, stream.masks)
    return x


def _absent_to_zeros(x: Any, present: jax.Array) -> Any:
    def zeros(leaf):
        leaf = jnp.asarray(leaf)
        return jnp.where(present.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    return jax.tree.map(zeros, x)


def _check_shape(modality: str, stream: Stream, shape: Sequence[int]) -> None:
    """Raises ``UserError`` unless pictures of this shape can be treated as the stream says."""
    rank = 4 if stream.kind == "image" else 5
    if len(shape) != rank or (stream.kind == "flow" and shape[-1] != 2):
        wanted = {"image": "[B, H, W, F]", "clip": "[B, T, H, W, F]", "flow": "[B, T, H, W, 2]"}
        raise UserError(
            f"stream '{modality}' of kind '{stream.kind}' takes {wanted[stream.kind]}, not "
            f"{list(shape)}"
        )
    if any(stream.jitter) and shape[-1] != 3:
        raise UserError(
            f"stream '{modality}': jitter needs 3 channels, not {shape[-1]}: leave it out"
        )
    cut = stream.crop == "random" or (stream.evaluation == "centre_crop" and not stream.short_side)
    if cut and min(shape[-3:-1]) < stream.size:
        raise UserError(
            f"stream '{modality}': images of {shape[-3]} x {shape[-2]} pixels have no square of "
            f"size={stream.size}: store them larger, or set short_side and "
            "crop=random_resized"
        )
