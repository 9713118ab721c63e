"""The type of a modality's stored examples, and how they may be transformed on the device.

A data set declares one ``Stream`` per modality (``Dataset.streams``); the transforms depend on
nothing else.  Nothing is computed here.
"""

from typing import NamedTuple

KINDS = ("image", "clip", "flow", "spectrogram", "tokens", "vector")
"""Their batches are: image ``uint8[B, H, W, C]``; clip ``uint8[B, T, H, W, C]``; flow
``uint8[B, T, H, W, 2]``, horizontal and vertical displacement around 127.5; spectrogram
``float16[B, time, frequency, 1]``; tokens ``int32[B, L]``, 0 is padding; vector ``float[B, F]``."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Stream(NamedTuple):
    """The declaration of one modality.

    Images are stored whole, resized to ``shape`` without keeping their aspect ratio;
    ``batch["aspect"][:, m]`` is their original width / height, so that a crop drawn in the
    original's geometry can be mapped onto the stored one.
    """

    kind: str
    """One of ``KINDS``."""
    shape: tuple[int, ...]
    """The shape of one stored example."""
    dtype: str = "uint8"
    crop: int = 0
    """The side of the square that the encoder gets; 0: the stored image unchanged."""
    train_crop: str = "random_resized"
    """``random_resized`` (torchvision's rule) or ``random`` (a window of ``crop`` pixels)."""
    test_crop: str = "squash"
    """``squash``: the whole image, ignoring its aspect ratio; ``center``: the square in the middle
    after resizing the shorter side to ``crop``; ``window``: ``crop`` pixels in the middle."""
    interpolation: str = "bilinear"
    flip: str = "horizontal"
    """``none``; ``horizontal``; for flow ``released`` (only the horizontal component is mirrored,
    without changing its sign) or ``corrected`` (both mirrored, and its sign changed)."""
    jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter."""
    per_frame: bool = True
    """Whether each frame of a clip has its own crop and flip."""
    shared_draw: str = ""
    """Streams with the same non-empty name share crop and flip."""
    noise: float = 0.0
    """Standard deviation of additive noise on the [0, 1] scale."""
    mean: tuple[float, ...] = ()
    """Per channel, of pixels / 255, or of a spectrogram's values; (): not normalised."""
    std: tuple[float, ...] = ()
    test_mean: tuple[float, ...] = ()
    """The mean for evaluation if it differs; (): as in training."""
    test_std: tuple[float, ...] = ()
    noise_kind: str = "fresh"
    """``fresh`` for each example, in training only; ``fixed``: one pattern for all examples, in
    evaluation too (DI-MML quirk 10)."""
    time_mask: int = 0
    """Spectrograms: masked time spans are shorter than this many rows; 0: none."""
    frequency_mask: int = 0
    masks: int = 1
    """Spans along each of the two axes."""
