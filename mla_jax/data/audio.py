"""Audio front ends: waveforms to spectrograms, with only numpy and scipy.

Papers that share a data set rarely share its spectrograms, so each is a named ``Recipe`` and the
name is part of the data's fingerprint.  All of them return ``float32[time, frequency]``.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mla_jax.errors import check_choice

LOG_FLOOR = float(np.finfo(np.float32).eps)
"""Kaldi's lower bound: an empty filter gives log(1.19e-7) = -15.94."""
MAGNITUDE_FLOOR = 1e-7


class Recipe(NamedTuple):
    """From ``float[channels, samples]`` at ``rate`` Hz to ``float32[shape]``."""

    rate: int
    shape: tuple[int, int]
    """``(time, frequency)``."""
    apply: Callable[[np.ndarray], np.ndarray]


def compute(name: str, waveform: np.ndarray) -> np.ndarray:
    """Applies the recipe ``name`` to ``waveform: float[channels, samples]``, values in [-1, 1].

    Raises:
      UserError: no such recipe.
      ValueError: the recording has no samples, or is too short for one frame.
    """
    check_choice("audio recipe", name, RECIPES)
    recipe = RECIPES[name]
    if not waveform.size:
        raise ValueError("the recording is empty")
    features = recipe.apply(np.atleast_2d(waveform).astype(np.float64)).astype(np.float32)
    if features.shape != recipe.shape or not np.isfinite(features).all():
        raise ValueError(f"recipe '{name}' gives {features.shape} or infinities for this recording")
    return features


# ---- Kaldi filter banks --------------------------------------------------------------------


def kaldi_fbank(waveform: np.ndarray, rate: int = 16_000, bins: int = 128) -> np.ndarray:
    """Log mel energies of 25 ms frames every 10 ms, ``float64[1 + (N - 400) // 160, bins]``.

    The result of ``torchaudio.compliance.kaldi.fbank`` with the settings of MLA's
    ``data/extract_fbank.py``: the mean over all channels is subtracted, then the first channel is
    used, with a symmetric Hann window, without dither or energy.  The signal is not scaled to
    16-bit integers first.

    Raises:
      ValueError: there are fewer samples than in one frame.
    """
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    signal = (waveform - waveform.mean())[0]
    if len(signal) < length:
        raise ValueError(f"{len(signal)} samples are fewer than the {length} of one frame")
    frames = np.lib.stride_tricks.sliding_window_view(signal, length)[::hop]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    size = 1 << (length - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(length), size)) ** 2
    return np.log(np.maximum(power @ _mel_filters(rate, size, bins), LOG_FLOOR))


@functools.cache
def _mel_filters(rate: int, size: int, bins: int, low: float = 20.0) -> np.ndarray:
    """Triangles, linear in mel between ``low`` Hz and half the rate: ``float64[size//2+1, bins]``.

    They are evaluated at the mel of each FFT bin; the last bin (Nyquist) has no weight.
    """
    mel = lambda hertz: 1127.0 * np.log1p(np.asarray(hertz) / 700.0)  # noqa: E731
    edges = np.linspace(mel(low), mel(rate / 2), bins + 2)
    at = mel(np.arange(size // 2) * rate / size)[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.pad(np.maximum(0, np.minimum(rising, falling)), ((0, 1), (0, 0)))


def _fbank_1024(waveform: np.ndarray) -> np.ndarray:
    """MLA: cut or padded with zeros to 1024 frames.  Zero is far above silence (quirk Q18)."""
    rows = kaldi_fbank(waveform)[:1024]
    return np.pad(rows, ((0, 1024 - len(rows)), (0, 0)))


def _fbank_1024_normalized(waveform: np.ndarray) -> np.ndarray:
    """OGM-GE for Kinetics-Sounds: the same, normalised by AudioSet's mean and twice its
    deviation."""
    return (_fbank_1024(waveform) + 4.503877) / (2 * 5.141276)


# ---- Short-time Fourier transforms -----------------------------------------------------------


def tile(waveform: np.ndarray, samples: int) -> np.ndarray:
    """One channel (their mean), repeated until it has ``samples``, cut, clipped to [-1, 1]."""
    mono = waveform.mean(0)
    repeats = -(-samples // len(mono))
    return np.clip(np.tile(mono, repeats)[:samples], -1, 1)


def log_stft(signal: np.ndarray, size: int = 512, hop: int = 353) -> np.ndarray:
    """``log(|STFT| + 1e-7)``, ``float64[1 + N // hop, size / 2 + 1]``.

    A periodic Hann window, and centred frames with zeros beyond the ends, as in ``librosa.stft``
    since 0.10.
    """
    padded = np.pad(signal, size // 2)
    window = np.hanning(size + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.log(np.abs(np.fft.rfft(frames * window)) + MAGNITUDE_FLOOR)


def log_spectrogram(signal: np.ndarray, rate: int, overlap: int = 353) -> np.ndarray:
    """``log(S + 1e-7)`` of scipy's power density, windows of 512: ``float64[time, 257]``.

    Scipy's defaults, as in DI-MML (``data/CREMAD/*_preprocessing.py``): a Tukey window, with the
    mean of each window removed.  353 is the *overlap* here; in OGM-GE it is the hop.
    """
    import scipy.signal

    _, _, density = scipy.signal.spectrogram(signal, rate, nperseg=512, noverlap=overlap)
    return np.log(density.T + MAGNITUDE_FLOOR)


def _stft(seconds: int) -> Recipe:
    """OGM-GE (3 s) and AUG (20 s): 22,050 Hz, hop 353."""
    samples = 22_050 * seconds
    return Recipe(22_050, (1 + samples // 353, 257), lambda w: log_stft(tile(w, samples)))


def _standardized(rate: int) -> Recipe:
    """DI-MML: 160,000 samples, each recording standardised to mean 0 and deviation 1."""

    def apply(waveform: np.ndarray) -> np.ndarray:
        found = log_spectrogram(tile(waveform, 160_000), rate)
        return (found - found.mean()) / (found.std() + 1e-9)

    return Recipe(rate, (1004, 257), apply)


RECIPES: dict[str, Recipe] = {
    "kaldi_fbank": Recipe(16_000, (1024, 128), _fbank_1024),
    "kaldi_fbank_normalized": Recipe(16_000, (1024, 128), _fbank_1024_normalized),
    "stft_3s": _stft(3),
    "stft_20s": _stft(20),
    # 160,000 samples are 7.3 s at the rate for CREMA-D, and 10 s at the rate for AVE.
    "stft_10s": _standardized(22_050),
    "stft_10s_16khz": _standardized(16_000),
    "spectrogram_3s": Recipe(
        16_000, (299, 257), lambda w: log_spectrogram(tile(w, 48_000), 16_000)
    ),
}
"""MLA: ``kaldi_fbank``; OGM-GE: ``kaldi_fbank_normalized``, ``stft_3s``; AUG: ``stft_20s``;
DI-MML: ``stft_10s`` (CREMA-D), ``stft_10s_16khz`` (AVE), ``spectrogram_3s`` (written by its
CREMA-D script)."""


def names(default: str) -> tuple[str, ...]:
    """All recipes, with ``default`` first."""
    return (default, *(name for name in RECIPES if name != default))
