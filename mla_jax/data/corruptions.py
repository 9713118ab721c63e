"""Corruptions of one modality at test time, on the host, before any other processing.

The kinds of corruption depend on the type of the examples (``nature_of``), not on the name:

* ``noise``: Gaussian noise on images and vectors.  Its standard deviation is in units of the
  modality's own, or of the 0..1 range for uint8 images, which are clipped and rounded.
* ``blur``: a Gaussian blur of every image; its deviation is a share of the shorter side.
* ``frames``: a share of the frames, of images or of sound, becomes the training mean, or zeros
  (``_blank``).  Each frame is dropped independently, so the share is the expected one.
* ``snr``: Gaussian noise on frames of sound, at a signal-to-noise ratio in dB.  It is defined on
  the features from the loader, not on the waveform: the noise has the power of the
  example's own features around the training mean, over all its frames, divided by 10^(dB / 10).
* ``dropout``: a share of the tokens becomes 0, padding, which every text encoder here leaves out of
  attention and means.  No encoder has a separate id for a masked token.

All draws depend on the seed, the modality, the kind and the number of the example, not on its
batch, the method or the seed of the run.  They are the same at every severity, so a severe level
also drops whatever a mild one drops.

MultiBench (Liang et al., 2021) adds noise and drops time steps and words at levels from 0 to 1; QMF
(Zhang et al., 2023) adds noise of 50 and 100 grey levels (0.2 and 0.4 here) to half of the images
and masks words with probability 0.5 and 1 in half of the texts.  Here every example is corrupted.
Blur, the ratios in dB and the levels for vectors are ours.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import ndimage

from mla_jax.data.dataset import DataSpec, Split, fetch_wanted
from mla_jax.errors import UserError, check_choice

if TYPE_CHECKING:
    from mla_jax.state import Batch

SALT = 0x6E6F6973
"""Separates these draws from others with the same seed."""
CLEAN_DB = 25
"""The position of ``inf`` dB on the axis of ``snr``: one step of 5 dB before the first noise."""
MEASURED = 1000
"""How many examples are used to estimate a modality's deviation if the data set does not state
it."""
CHANNELS = 4
"""The most channels of an array that counts as an image without a declared stream."""


class Kind(NamedTuple):
    """One kind of corruption."""

    unit: str
    """The unit of the severity, in words."""
    levels: tuple[float, ...]
    """The severities of a curve, from clean to the most severe."""
    least: float = 0.0
    most: float = math.inf
    """The bounds of the severity."""

    @property
    def clean(self) -> float:
        """The severity that changes nothing."""
        return self.levels[0]


SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
KINDS: Mapping[str, Kind] = {
    "noise": Kind("standard deviations", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
    "blur": Kind("shares of the shorter side", (0.0, 0.05, 0.1, 0.15, 0.2), most=1.0),
    "frames": Kind("share of frames dropped", SHARES, most=1.0),
    "snr": Kind("dB", (math.inf, 20.0, 15.0, 10.0, 5.0, 0.0, -5.0, -10.0), least=-100.0),
    "dropout": Kind("share of tokens dropped", SHARES, most=1.0),
}
PIXEL_NOISE = Kind("of the 0..1 range", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
"""``noise`` for uint8 images."""
SUFFERS: Mapping[str, tuple[str, ...]] = {
    "image": ("noise", "blur"),
    "clip": ("noise", "blur", "frames"),
    "flow": ("noise", "blur", "frames"),
    "spectrogram": ("snr", "frames"),
    "sequence": ("snr", "frames"),
    "vector": ("noise",),
    "tokens": ("dropout",),
    "other": (),
}
"""Kinds of corruption by the type of modality: those of ``data/streams.py``, ``sequence`` (frames
of numbers) and ``other``."""

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""``(one example, its draws) -> the example, corrupted``; any float type comes back."""


def nature_of(spec: DataSpec, modality: str) -> str:
    """The type of a modality's examples: a key of ``SUFFERS``.

    The stream gives it.  Without a stream, or if the stream is a ``vector`` of several axes, the
    shape and the dtype decide: integers ``[L]`` are tokens; floats ``[F]`` a vector, ``[T, F]`` a
    sequence; ``[H, W, C]``, floats or uint8, with at most four channels is an image, and
    ``[T, H, W, C]`` a clip.  Other floats are a vector.
    """
    shape, dtype = spec.shapes[modality], np.dtype(spec.dtypes[modality])
    stream = spec.streams.get(modality)
    if stream and stream.kind != "vector":
        return stream.kind
    if dtype.kind in "iu" and len(shape) == 1:
        return "tokens"
    if dtype.kind != "f" and dtype != np.uint8:
        return "other"
    if len(shape) in (3, 4) and shape[-1] <= CHANNELS:
        return ("image", "clip")[len(shape) - 3]
    if dtype.kind != "f":
        return "other"
    return "sequence" if len(shape) == 2 else "vector"


def kinds_of(spec: DataSpec, modality: str) -> dict[str, Kind]:
    """``{name: kind}`` of the corruptions for a modality, with levels that suit it."""
    pixels = np.dtype(spec.dtypes[modality]).kind in "iu"
    found = {name: KINDS[name] for name in SUFFERS[nature_of(spec, modality)]}
    return found | {"noise": PIXEL_NOISE} if pixels and "noise" in found else found


def position(name: str, severity: float) -> float:
    """The position of a severity on the axis of its kind, which grows with the corruption.

    It is the severity itself; for ``snr`` minus the dB, with ``CLEAN_DB`` for ``inf``.
    """
    return -min(severity, CLEAN_DB) if name == "snr" else severity


def parse(text: str) -> tuple[str, str, float]:
    """``audio:snr=0`` -> ``("audio", "snr", 0.0)``.

    Raises:
      UserError: the text has another form.
    """
    modality, colon, setting = text.rpartition(":")
    name, equals, severity = setting.partition("=")
    try:
        if colon and equals:
            return modality, name, float(severity)
    except ValueError:
        pass
    raise UserError(f"'{text}' is not a corruption: write MODALITY:KIND=NUMBER, as in audio:snr=0")


def check(spec: DataSpec, modality: str, name: str, severity: float) -> None:
    """Raises ``UserError`` unless this kind and severity can be applied to a modality."""
    what = f"modality of this run ({'+'.join(spec.modalities)})"
    check_choice(what, modality, spec.modalities)
    check_choice("kind of corruption", name, KINDS)
    possible = kinds_of(spec, modality)
    if name not in possible:
        shape = ", ".join(map(str, spec.shapes[modality]))
        nature = f"'{modality}' of the kind {nature_of(spec, modality)}"
        remedy = f"take {' or '.join(possible)}" if possible else "corrupt another modality"
        raise UserError(
            f"'{name}' does not apply to {nature}, {spec.dtypes[modality]}[{shape}]: {remedy}"
        )
    kind = possible[name]
    finite = math.isfinite(severity) or severity == kind.clean
    if not (finite and kind.least <= severity <= kind.most):
        most = "" if kind.most == math.inf else f" and at most {kind.most:g}"
        raise UserError(
            f"{modality}:{name}={severity:g} must be a number ({kind.unit}) of at least "
            f"{kind.least:g}{most}; {kind.clean:g} changes nothing"
        )


def corrupted(
    split: Split, spec: DataSpec, modality: str, name: str, severity: float, seed: int = 0
) -> Split:
    """A split with one modality corrupted in every example that has it.

    Args:
      split: a split of the data set.
      spec: the run's record of the data set (``run.data``).
      modality: one of its modalities.
      name: one of the modality's kinds of corruption (``kinds_of``).
      severity: in the kind's unit; the clean one returns the split itself.
      seed: the seed of the draws.

    Raises:
      UserError: an unknown modality, a kind or severity that does not apply, or no example has
        the modality.

    >>> split = run.dataset().splits["test"]                                # doctest: +SKIP
    >>> run.evaluate(corrupted(split, run.data, "audio", "snr", 0))         # doctest: +SKIP
    """
    check(spec, modality, name, severity)
    if severity == KINDS[name].clean:
        return split
    column = spec.modalities.index(modality)
    if not split.present[:, column].any():
        raise UserError(f"no example of the split has '{modality}': corrupt another modality")
    change = _change(split, spec, modality, name, severity)
    key = (SALT, seed, zlib.crc32(modality.encode()), list(KINDS).index(name))
    return CorruptedSplit(split, modality, column, change, key)


class CorruptedSplit:
    """A split with one modality changed, one example at a time."""

    def __init__(
        self, split: Split, modality: str, column: int, change: Change, key: tuple[int, ...]
    ):
        """``column``: the modality's in ``present``; ``key`` and an example's number seed its
        draws."""
        self._split, self._modality, self._column = split, modality, column
        self._change, self._key = change, key
        self.label, self.present = split.label, split.present

    @property
    def examples(self) -> int:
        return self._split.examples

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._split.shapes

    @property
    def unmasked(self) -> Split:
        """The split without the masks that hide modalities, as ``MaskedSplit.unmasked``."""
        split = getattr(self._split, "unmasked", self._split)
        return CorruptedSplit(split, self._modality, self._column, self._change, self._key)

    def fetch(self, index: np.ndarray) -> "Batch":
        """The batch of examples ``index: int[B]``, all valid."""
        batch = self._split.fetch(index)
        return self._corrupted(batch, batch["present"][:, self._column])

    def fetch_wanted(self, index: np.ndarray, wanted: np.ndarray) -> "Batch":
        """The same, where only the ``wanted: bool[B, M]`` inputs are needed."""
        batch = fetch_wanted(self._split, index, wanted)
        return self._corrupted(batch, (batch["present"] & wanted)[:, self._column])

    def _corrupted(self, batch: "Batch", there: np.ndarray) -> "Batch":
        examples = np.array(batch["inputs"][self._modality])  # a copy
        for row in np.flatnonzero(there):
            draws = np.random.default_rng((*self._key, int(batch["index"][row])))
            examples[row] = _like(examples, self._change(examples[row], draws))
        return {**batch, "inputs": {**batch["inputs"], self._modality: examples}}


def _like(array: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values in the dtype of an array; integers are rounded and clipped to its range."""
    if array.dtype.kind in "iu" and values.dtype.kind == "f":
        limits = np.iinfo(array.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(array.dtype)


def _change(split: Split, spec: DataSpec, modality: str, name: str, severity: float) -> Change:
    if name == "noise":
        deviation = severity * _deviation(split, spec, modality)
        return lambda x, draws: x + deviation * draws.standard_normal(x.shape)
    if name == "blur":
        return lambda x, draws: _blurred(x, severity)
    if name == "dropout":
        return lambda x, draws: np.where(draws.random(x.shape) < severity, 0, x)
    blank = _blank(spec, modality)
    if name == "snr":
        return lambda x, draws: _with_noise(x, draws, severity, blank)

    def without_frames(x: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        dropped = draws.random(len(x)) < severity
        return np.where(dropped.reshape(-1, *[1] * (x.ndim - 1)), blank, x)

    return without_frames


def _deviation(split: Split, spec: DataSpec, modality: str) -> np.ndarray | float:
    """The standard deviation that is the unit of ``noise``.

    255 for uint8, whose unit is the 0..1 range.  For floats: 1 if the data set standardised
    them; the stream's, if it has one; else that of the first ``MEASURED`` examples of the split,
    as one number: the root of the mean variance of the example's entries.
    """
    if np.dtype(spec.dtypes[modality]).kind in "iu":
        return 255.0
    stream = spec.streams.get(modality)
    if stream and stream.std:
        return np.asarray(stream.std)
    if modality in spec.statistics:
        return 1.0
    column = spec.modalities.index(modality)
    rows = np.flatnonzero(split.present[:, column])[:MEASURED]
    examples = split.fetch(rows)["inputs"][modality].astype(np.float64)
    return float(np.sqrt(examples.var(0).mean()))


def _blank(spec: DataSpec, modality: str) -> np.ndarray:
    """The value of a dropped frame, and the zero of a signal's power.

    It is the stream's training mean by channel, if it has one, which is zero for the encoder.  Else
    zeros, the mean of features that the data set standardised; for optical flow, no
    motion (128).
    """
    stream = spec.streams.get(modality)
    pixels = np.dtype(spec.dtypes[modality]) == np.uint8
    if stream and stream.mean:
        mean = np.asarray(stream.mean)
        return np.rint(255 * mean).clip(0, 255) if pixels else mean
    return np.asarray(128.0 if pixels and stream and stream.kind == "flow" else 0.0)


def _blurred(x: np.ndarray, share: float) -> np.ndarray:
    """Blurs images ``[..., H, W, C]``, each channel by itself; edge pixels are repeated outside."""
    sigma = share * min(x.shape[-3:-1])
    by_axis = (0,) * (x.ndim - 3) + (sigma, sigma, 0)
    return ndimage.gaussian_filter(x.astype(np.float32), by_axis, mode="nearest")


def _with_noise(
    x: np.ndarray, draws: np.random.Generator, ratio: float, mean: np.ndarray
) -> np.ndarray:
    """One example with noise ``ratio`` dB below the power of its features around ``mean``."""
    power = np.mean(np.square(x.astype(np.float64) - mean))
    deviation = np.sqrt(power / 10 ** (ratio / 10))
    return x + deviation * draws.standard_normal(x.shape)
