"""What the stored examples of a modality are, and what may be done to them on the device.

A data set declares one ``Stream`` a modality (``Dataset.streams``); the transforms read nothing
else.  Nothing here computes.
"""

from typing import NamedTuple

KINDS = ("image", "clip", "flow", "spectrogram", "tokens", "vector")
"""How a batch of each looks: image ``uint8[B, H, W, C]``; clip ``uint8[B, T, H, W, C]``; flow
``uint8[B, T, H, W, 2]``, horizontal and vertical displacement around 127.5; spectrogram
``float16[B, time, frequency, 1]``; tokens ``int32[B, L]``, 0 is padding; vector ``float[B, F]``."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Stream(NamedTuple):
    """The declared facts of one modality.

    Pictures are stored whole, resized to ``shape`` whatever their proportions;
    ``batch["aspect"][:, m]`` is the width over the height they had, so that a crop drawn in the
    original's geometry can be mapped onto the stored one.
    """

    kind: str
    """One of ``KINDS``."""
    shape: tuple[int, ...]
    """Of one stored example."""
    dtype: str = "uint8"
    crop: int = 0
    """Side of the square that the encoder sees; 0: the stored picture as it is."""
    train_crop: str = "random_resized"
    """``random_resized`` (torchvision's rule), ``random`` (a plain window of ``crop`` pixels)."""
    test_crop: str = "squash"
    """``squash``: the whole picture, proportions ignored; ``center``: the square in the middle
    after the shorter side was brought to ``crop``; ``window``: ``crop`` pixels in the middle."""
    interpolation: str = "bilinear"
    flip: str = "horizontal"
    """``none``; ``horizontal``; for flow ``released`` (the horizontal component is mirrored, its
    sign and the vertical component stay) or ``corrected`` (both mirrored, the sign turned)."""
    jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter."""
    per_frame: bool = True
    """Whether each frame of a clip has its own crop and flip."""
    shared_draw: str = ""
    """Streams of the same non-empty name share crop and flip."""
    noise: float = 0.0
    """Standard deviation of additive noise on the [0, 1] scale."""
    mean: tuple[float, ...] = ()
    """Per channel, of pixels / 255, or of a spectrogram's values; (): not normalised."""
    std: tuple[float, ...] = ()
    test_mean: tuple[float, ...] = ()
    """For evaluation where it differs; (): as in training."""
    test_std: tuple[float, ...] = ()
    noise_kind: str = "fresh"
    """``fresh`` for each example, in training only; ``fixed``: one pattern for all examples, in
    evaluation too (DI-MML quirk 10)."""
    time_mask: int = 0
    """Spectrograms: masked spans of time are shorter than this many rows; 0: none."""
    frequency_mask: int = 0
    masks: int = 1
    """Spans along each of the two axes."""
