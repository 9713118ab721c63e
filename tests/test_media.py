"""Which frames are taken, and what becomes of media files that are cut off."""

import pathlib
import types

import numpy as np
import pytest

from mla_jax.errors import UserError
from mla_jax.prepare import media
from mla_jax.prepare.progress import Progress
from tests.media import write_sound, write_video


@pytest.mark.parametrize(
    ("rule", "found", "count", "frames"),
    [
        ("stride", 9, 3, [0, 3, 6]), ("stride", 5, 3, [0, 1, 2]), ("stride", 2, 3, [0, 0, 0]),
        ("middle", 5, 1, [2]), ("middle", 1, 1, [0]),
        ("seed999", 3, 3, [0, 1, 2]), ("seed999", 4, 3, [1, 2, 3]), ("seed999", 5, 3, [1, 2, 3]),
        ("seed999", 10, 4, [2, 4, 6, 8]), ("seed999", 11, 4, [2, 4, 7, 9]),
        ("seed999", 2, 3, [0, 0, 0]),
    ],
)  # fmt: skip
def test_frames(rule, found, count, frames):
    assert media.pick_frames(rule, found, count) == frames


@pytest.mark.parametrize(
    ("found", "start"), [(100, 64), (150, 92), (164, 92), (200, 92), (300, 200)]
)
def test_windows_of_ucf101(found, start):
    assert media.pick_frames("window_train", found, 10) == list(range(start, start + 10))
    middle = found // 2 - 5
    assert media.pick_frames("window_test", found, 10) == list(range(middle, middle + 10))
    assert media.window_offset(10) == 6


def test_too_few_frames():
    with pytest.raises(media.MediaError, match="10 frames, and more than 10 are needed"):
        media.pick_frames("window_train", 10, 10)
    with pytest.raises(media.MediaError, match="no frames"):
        media.pick_frames("stride", 0, 3)


@pytest.mark.media
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.flv"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_truncated_videos_are_noticed(name, share, tmp_path):
    path = tmp_path / name
    write_video(path, codec="flv1" if name.endswith("flv") else "mpeg4", sound=False)
    assert len(media.video_pictures(path, "stride", 3)) == 3
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(Exception, match=r".") as caught:
        media.video_pictures(path, "stride", 3)
    assert not isinstance(caught.value, UserError | AttributeError | TypeError | NameError)


class LongVideo:
    """What ``av.open`` gives, for a video of one frame per second; counts the frames in memory."""

    def __init__(self, seconds):
        self.seconds, self.alive, self.most, self.decoded = seconds, 0, 0, 0
        rate = types.SimpleNamespace(numerator=1, denominator=1)
        stream = types.SimpleNamespace(average_rate=rate, time_base=rate, duration=seconds)
        self.streams, self.duration = types.SimpleNamespace(video=[stream]), 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def decode(self, stream):
        for number in range(self.seconds):
            self.decoded += 1
            yield self.Frame(self, number)

    class Frame:
        def __init__(self, video, number):
            self.video, self.number = video, number
            video.alive += 1
            video.most = max(video.most, video.alive)

        def __del__(self):
            self.video.alive -= 1

        def to_image(self):
            return self.number


@pytest.mark.media
@pytest.mark.parametrize(
    ("rule", "count", "segment", "frames"),
    [
        ("stride", 3, (0, 0), [0, 100, 200]),
        ("middle", 1, (0, 0), [150]),
        ("stride", 3, (20, 120), [20, 53, 86]),
        ("stride", 60, (0, 0), list(range(0, 300, 5))),
    ],
)
def test_a_long_video_is_not_held_in_memory(rule, count, segment, frames, monkeypatch):
    video = LongVideo(300)
    monkeypatch.setattr("av.open", lambda path: video)
    assert media.video_pictures(pathlib.Path("a.mp4"), rule, count, *segment) == frames
    assert video.most <= max(count, 32) + 2
    assert video.decoded == 300 + frames[-1] + 1, "the second time only as far as needed"


@pytest.mark.media
def test_a_short_video_is_decoded_once(monkeypatch):
    video = LongVideo(30)
    monkeypatch.setattr("av.open", lambda path: video)
    found = media.video_pictures(pathlib.Path("a.mp4"), "stride", 3)
    assert (found, video.decoded) == ([0, 10, 20], 30)


@pytest.mark.media
def test_sound_of_a_video_and_of_another_rate(tmp_path):
    write_video(tmp_path / "a.mp4", seconds=2)
    write_sound(tmp_path / "b.wav", seconds=2, rate=44_100, seed=6)  # 422 Hz
    for name, pitch in (("a.mp4", 440), ("b.wav", 422)):
        waveform = media.read_sound(tmp_path / name, 16_000)
        assert abs(waveform.shape[1] - 32_000) < 1_000
        spectrum = np.abs(np.fft.rfft(waveform[0, :16_000]))
        assert abs(spectrum.argmax() - pitch) <= 1
    piece = media.read_sound(tmp_path / "b.wav", 16_000, 0.5, 1.5)
    whole = media.read_sound(tmp_path / "b.wav", 16_000)
    np.testing.assert_array_equal(piece, whole[:, 8_000:24_000])
    with pytest.raises(media.MediaError, match="no sound"):
        media.read_sound(tmp_path / "b.wav", 16_000, 5, 6)


def test_progress_away_from_a_terminal():
    lines = []
    with Progress(100, 20, lines.append, every_seconds=0) as progress:
        progress.advance(30)
    (line,) = lines
    assert line.startswith("50 of 100 examples, ") and line.endswith("s left")
