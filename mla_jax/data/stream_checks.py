"""Checks that a declared stream is possible, and that a batch matches it."""

from collections.abc import Sequence

from mla_jax.data.streams import KINDS, Stream
from mla_jax.errors import UserError, check_choice

PICTURES = ("image", "clip", "flow")
RANKS = {"image": 3, "clip": 4, "flow": 4, "spectrogram": 3}
"""The number of axes of an example; other kinds may have any number."""

CHOICES = {
    "train_crop": ("random_resized", "random"),
    "test_crop": ("squash", "center", "window"),
    "interpolation": ("bilinear", "bicubic"),
    "flip": ("none", "horizontal"),
    "noise_kind": ("fresh", "fixed"),
}
FLOW_FLIPS = ("none", "released", "corrected")

NUMERIC = {"noise", "noise_kind", "mean", "std", "test_mean", "test_std"}
PICTORIAL = {"crop", "train_crop", "test_crop", "interpolation", "flip", "shared_draw"} | NUMERIC
CONCERNED = {
    "image": PICTORIAL | {"jitter"},
    "clip": PICTORIAL | {"jitter", "per_frame"},
    "flow": PICTORIAL | {"per_frame"},
    "spectrogram": {"time_mask", "frequency_mask", "masks"} | NUMERIC,
    "tokens": set(),
    "vector": NUMERIC,
}
"""The fields that apply to a kind, besides ``shape`` and ``dtype``; others keep their defaults."""


def check_stream(modality: str, stream: Stream) -> None:
    """Raises ``UserError`` unless every field is possible and applies to the stream's kind."""
    where = f"stream '{modality}'"
    check_choice(f"kind of {where}", stream.kind, KINDS)
    for field, value in stream._asdict().items():
        known = {"kind", "shape", "dtype", *CONCERNED[stream.kind]}
        if field not in known and value != Stream._field_defaults[field]:
            raise UserError(
                f"{where}: '{field}' does not apply to kind '{stream.kind}': leave it out"
            )
    for field, choices in CHOICES.items():
        if field == "flip" and stream.kind == "flow":
            choices = FLOW_FLIPS
        check_choice(f"{field} of {where}", getattr(stream, field), choices)
    for field in ("crop", "jitter", "noise", "time_mask", "frequency_mask"):
        if getattr(stream, field) < 0:
            raise UserError(f"{where}: {field} must be at least 0, not {getattr(stream, field)}")
    if stream.masks < 1:
        raise UserError(f"{where}: masks must be at least 1, not {stream.masks}")
    for mean, std in (("mean", "std"), ("test_mean", "test_std")):
        if len(getattr(stream, mean)) != len(getattr(stream, std)):
            raise UserError(f"{where}: {mean} and {std} go together, with one number per channel")
    if not all(number > 0 for number in (*stream.std, *stream.test_std)):
        raise UserError(f"{where}: std and test_std must be positive")


def check_shape(modality: str, stream: Stream, shape: Sequence[int]) -> None:
    """Raises ``UserError`` unless a batch of this ``shape`` matches the stream."""
    where, shape = f"stream '{modality}'", tuple(shape)
    rank = RANKS.get(stream.kind, len(shape) - 1)
    if len(shape) != rank + 1 or (stream.kind == "flow" and shape[-1] != 2):
        raise UserError(
            f"{where}: a batch of shape {list(shape)} holds no examples of kind '{stream.kind}': "
            "declare what is stored"
        )
    if stream.kind not in PICTURES:
        return
    if stream.jitter and shape[-1] != 3:
        raise UserError(f"{where}: jitter needs 3 channels, not {shape[-1]}: leave it out")
    window = stream.train_crop == "random" or stream.test_crop == "window"
    if window and min(shape[-3:-1]) < stream.crop:
        raise UserError(
            f"{where}: images of {shape[-3]} x {shape[-2]} pixels have no window of "
            f"crop={stream.crop}: store them larger, or use train_crop=random_resized and "
            "test_crop=center"
        )
