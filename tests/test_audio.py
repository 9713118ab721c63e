"""The audio front ends against numbers of the programs they stand for.

The constants of the filter banks are torchaudio's, those of the STFT librosa's 0.11, those of the
density scipy's, each computed once on the formula in the test.
"""

import numpy as np
import pytest

from mla_jax.data import audio
from mla_jax.errors import UserError


def tone(rate, seconds, *parts):
    """A sum of sines ``(amplitude, hertz)``: ``float64[1, rate * seconds]``."""
    n = np.arange(int(rate * seconds))
    return sum(a * np.sin(2 * np.pi * f * n / rate) for a, f in parts)[None]


def test_fbank_is_torchaudios():
    found = audio.kaldi_fbank(tone(16_000, 1, (0.5, 440), (0.1, 3000)))
    assert found.shape == (98, 128)
    assert found.mean() == pytest.approx(-12.0919, abs=1e-3)
    assert found.std() == pytest.approx(5.5331, abs=1e-3)
    first = (-14.1156, -15.6106, -12.1672, -15.9424, -11.5032)
    np.testing.assert_allclose(found[0, :5], first, atol=1.5e-3)
    np.testing.assert_allclose(found[50, [10, 31]], (-9.7102, -7.6000), atol=1.5e-3)
    assert (found[:, 3] == np.log(audio.LOG_FLOOR)).all(), "filter 3 covers no bin"
    assert np.log(audio.LOG_FLOOR) == pytest.approx(-15.942385)


def test_fbank_takes_the_first_channel_after_the_mean_of_all():
    left, right = tone(16_000, 1, (0.5, 440)), tone(16_000, 1, (0.3, 900)) + 0.2
    stereo = audio.kaldi_fbank(np.concatenate([left, right]))
    np.testing.assert_allclose(stereo, audio.kaldi_fbank(left), atol=1e-6)


@pytest.mark.parametrize(("samples", "frames"), [(400, 1), (559, 1), (560, 2), (16_000, 98)])
def test_fbank_keeps_complete_frames_only(samples, frames):
    assert audio.kaldi_fbank(np.random.default_rng(0).normal(size=(1, samples))).shape[0] == frames


def test_fbank_recipe_pads_with_zeros_and_cuts():
    second = tone(16_000, 1, (0.5, 440))
    short = audio.compute("kaldi_fbank", second)
    np.testing.assert_allclose(short[:98], audio.kaldi_fbank(second), atol=1e-5)
    assert (short[98:] == 0).all()
    long = np.tile(second, 11)
    np.testing.assert_allclose(
        audio.compute("kaldi_fbank", long), audio.kaldi_fbank(long)[:1024], atol=1e-5
    )
    normalized = audio.compute("kaldi_fbank_normalized", second)
    np.testing.assert_allclose(normalized, (short + 4.503877) / 10.282552, atol=1e-6)


def test_stft_is_librosas():
    rounded = tone(22_050, 1, (0.3, 330), (0.05, 5000)).astype(np.float32)  # as files hold it
    found = audio.compute("stft_3s", rounded)
    assert found.shape == (188, 257)
    rows, columns = [0, 93, 93, 187], [7, 8, 116, 8]
    expected = (2.8914, 3.5741, 1.8499, 3.5102)
    np.testing.assert_allclose(found[rows, columns], expected, atol=1e-4)
    assert found.mean() == pytest.approx(-9.7899, abs=1e-4)
    assert found.std() == pytest.approx(3.9632, abs=1e-4)


def test_the_density_of_di_mml():
    found = audio.log_spectrogram(tone(16_000, 3, (0.5, 440))[0], 16_000)
    assert found.shape == (299, 257)
    np.testing.assert_allclose(
        found[[0, 150, 150], [14, 14, 100]], (-5.634914, -5.634914, -16.118095), atol=2e-6
    )
    assert found.mean() == pytest.approx(-15.815481, abs=2e-6)
    assert found.std() == pytest.approx(1.286419, abs=2e-6)
    recipe = audio.compute("spectrogram_3s", tone(16_000, 3, (0.5, 440)))
    np.testing.assert_allclose(recipe, found, atol=1e-4)


def test_standardized_recipe():
    second = tone(22_050, 1, (0.3, 330), (0.05, 5000))
    found = audio.compute("stft_10s", second)
    assert (found.mean(), found.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    np.testing.assert_allclose(found[[0, 500], [8, 116]], (7.880748, 4.843572), atol=1e-4)
    # The rate is a constant factor of the density, which standardising removes; the floor stays.
    noise = np.random.default_rng(0).normal(size=(1, 22_050))
    apart = audio.compute("stft_10s_16khz", noise) - audio.compute("stft_10s", noise)
    assert np.median(np.abs(apart)) < 1e-2


def test_tiling():
    np.testing.assert_array_equal(audio.tile(np.array([[1.0, 2, -3]]), 5), [1, 1, -1, 1, 1])
    np.testing.assert_array_equal(audio.tile(np.array([[0.5], [0.1]]), 2), [0.3, 0.3])


@pytest.mark.parametrize("name", audio.RECIPES)
def test_every_recipe_has_the_shape_it_says(name):
    recipe = audio.RECIPES[name]
    noise = np.random.default_rng(0).normal(size=(2, recipe.rate * 2)) * 0.1
    found = audio.compute(name, noise)
    assert (found.shape, found.dtype) == (recipe.shape, np.float32)
    assert np.abs(found).max() < np.finfo(np.float16).max, "records hold float16"


@pytest.mark.parametrize("name", audio.RECIPES)
def test_an_empty_recording(name):
    with pytest.raises(ValueError, match="empty"):
        audio.compute(name, np.zeros((1, 0)))


def test_recordings_that_no_recipe_can_take():
    with pytest.raises(ValueError, match="399 samples are fewer than the 400"):
        audio.compute("kaldi_fbank", np.zeros((1, 399)))
    with pytest.raises(ValueError, match="infinities"):
        audio.compute("stft_3s", np.full((1, 500), np.nan))
    with pytest.raises(UserError, match=r"audio recipe 'kaldi_fbanks'.*'kaldi_fbank'"):
        audio.compute("kaldi_fbanks", np.zeros((1, 500)))
