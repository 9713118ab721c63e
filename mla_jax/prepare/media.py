"""Opens what people have: videos through PyAV, recordings through soundfile, pictures by Pillow.

Anything wrong with a file is an exception whose text says what; ``work.py`` counts and lists it.
"""

import itertools
import pathlib
import zlib
from collections.abc import Callable, Iterable, Sequence, Set
from fractions import Fraction
from typing import Any

import numpy as np

from mla_jax.datasets.lists import IMAGE

FIXED_SEED = 999
"""DI-MML seeds numpy with it inside every fetch, so its frames follow from their number alone."""
WINDOW = 10
"""Frames of DI-MML's UCF-101 clips."""
HELD = 32
"""So many candidates of a video are held; if there are more, the chosen ones are decoded again."""
WHOLE, SLACK = 0.85, 0.25
"""A track that ends before this share of the length it declares, less so many seconds, is cut."""


class MediaError(ValueError):
    """A file that opens but does not hold what it should."""


# ---- Which frames ------------------------------------------------------------------------------


def pick_frames(rule: str, found: int, count: int) -> list[int]:
    """Which ``count`` of ``found`` sorted frames make up an example.

    * ``stride``: 0, s, 2s with s = found // count, so one frame three times where there are fewer
      than three (``dataset/dataset.py:142-145`` of MLA, with sorted names: quirk Q23);
    * ``middle``: ``found // 2`` and its followers;
    * ``seed999``: a fixed draw without repeats, sorted (DI-MML); ``stride`` if there are too few;
    * ``window_train``, ``window_test``: consecutive frames from a fixed draw, or the middle ones
      (DI-MML's UCF-101).

    Raises:
      MediaError: no frames, or too few for a window.
    """
    if not found:
        raise MediaError("no frames")
    if rule.startswith("window"):
        if found <= count:
            raise MediaError(f"{found} frames, and more than {count} are needed")
        middle = found // 2 - count // 2
        start = _fixed().randint(0, found - count) if rule == "window_train" else middle
        return list(range(start, start + count))
    if rule == "middle":
        return [min(found // 2 + i, found - 1) for i in range(count)]
    if rule == "seed999" and found >= count:
        return sorted(_fixed().choice(found, count, replace=False).tolist())
    return [found // count * i for i in range(count)]


def _fixed() -> np.random.RandomState:
    return np.random.RandomState(FIXED_SEED)


def window_offset(count: int) -> int:
    """The place within a window of ``count`` frames of DI-MML's one RGB frame: 6 of 10."""
    return int(_fixed().choice(count, 1, replace=False)[0])


# ---- Pictures ------------------------------------------------------------------------------------


def open_picture(path: pathlib.Path, mode: str = "RGB") -> Any:
    """A decoded ``PIL.Image``; grey, CMYK and transparent ones are converted (quirk Q36)."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        return picture if picture.mode == mode else picture.convert(mode)


def list_pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    """The picture files of a folder, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE)


def video_pictures(
    path: pathlib.Path, rule: str, count: int, start: float = 0, end: float = 0
) -> list[Any]:
    """``count`` frames of a video as ``PIL.Image``, chosen among one per second.

    Candidates are frames 0, f, 2f, ... with f the rate rounded down (``video_preprocessing.py`` of
    MLA).  With a segment ``[start, end]`` only its seconds are, both ends included, and frames
    drawn from it make them up to ten (DI-MML's AVE; the draw there is unseeded, here it follows
    from the file's name).

    Raises:
      MediaError: no video track, no frames, or an end long before the declared one.
    """

    def candidate(number: int, rate: int) -> bool:
        second, rest = divmod(number, rate)
        return rest == 0 and (not end or start <= second <= end)

    rate, total, numbers, frames = _decode(path, candidate)
    if end:
        numbers = sorted({*numbers, *_extra_frames(path.name, rate, total, start, end, numbers)})
    chosen = [numbers[i] for i in pick_frames(rule, len(numbers), count)]
    if missing := set(chosen) - frames.keys():
        frames |= _frames_at(path, missing)
    return [frames[number].to_image() for number in chosen]


def _decode(
    path: pathlib.Path, wanted: Callable[[int, int], bool]
) -> tuple[int, int, list[int], dict[int, Any]]:
    """``(frames a second, frames, numbers of those wanted, {number: frame})``.

    The frames are left out where there are more than ``HELD`` of them.
    """
    import av

    with av.open(str(path)) as container:
        stream = _video_stream(container)
        exact = _fraction(stream.average_rate or stream.guessed_rate) or Fraction(1)
        rate = max(1, int(exact))
        total, numbers, frames = 0, [], {}
        for frame in container.decode(stream):
            if wanted(total, rate):
                numbers.append(total)
                frames[total] = frame
                if len(numbers) > HELD:
                    frames.clear()
            total += 1
        declared = _declared_seconds(stream) or (container.duration or 0) / 1_000_000
        _require_whole(total / float(exact), declared)
    if not total:
        raise MediaError("no frames")
    return rate, total, numbers, frames


def _frames_at(path: pathlib.Path, numbers: Set[int]) -> dict[int, Any]:
    """The frames of a video with these numbers, decoded up to the last of them."""
    import av

    with av.open(str(path)) as container:
        decoded = container.decode(_video_stream(container))
        upto = itertools.islice(decoded, max(numbers) + 1)
        return {number: frame for number, frame in enumerate(upto) if number in numbers}


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise MediaError("no video track")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # the processes share the cores among them
    return stream


def _declared_seconds(stream: Any) -> float:
    return float(stream.duration * _fraction(stream.time_base)) if stream.duration else 0.0


def _fraction(value: Any) -> Fraction | None:
    """PyAV had fractions until version 18 and has a type of its own since."""
    return Fraction(value.numerator, value.denominator) if value else None


def _require_whole(found: float, declared: float) -> None:
    if found < WHOLE * declared - SLACK:
        raise MediaError(f"cut off: {found:.1f} of {declared:.1f} seconds are there")


def _extra_frames(
    name: str, rate: int, total: int, start: float, end: float, have: Sequence[int], least: int = 10
) -> set[int]:
    inside = np.arange(int(start * rate), min(int(end * rate), total))
    free = np.setdiff1d(inside, have)
    wanted = min(max(0, least - len(have)), len(free))
    rng = np.random.default_rng(zlib.crc32(f"{name} {start} {end}".encode()))
    return set(rng.choice(free, wanted, replace=False).tolist())


# ---- Sound ---------------------------------------------------------------------------------------


def read_sound(path: pathlib.Path, rate: int, start: float = 0, end: float = 0) -> np.ndarray:
    """The waveform ``float32[channels, samples]`` at ``rate``, in [-1, 1], or its segment.

    wav, flac and ogg go through soundfile and a polyphase resampler, the track of a video through
    ffmpeg's.

    Raises:
      MediaError: no audio track, or no sample of the segment.
    """
    if path.suffix.lower() in (".wav", ".flac", ".ogg"):
        waveform = _sound_file(path, rate)
    else:
        waveform = _sound_track(path, rate)
    if end:
        waveform = waveform[:, int(rate * start) : int(rate * end)]
    if not waveform.size:
        raise MediaError("no sound")
    return waveform


def _sound_file(path: pathlib.Path, rate: int) -> np.ndarray:
    import scipy.signal
    import soundfile

    waveform, found = soundfile.read(path, dtype="float32", always_2d=True)
    if found != rate and len(waveform):
        ratio = Fraction(rate, found)
        waveform = scipy.signal.resample_poly(waveform, ratio.numerator, ratio.denominator, axis=0)
    return np.asarray(waveform.T, np.float32)


def _sound_track(path: pathlib.Path, rate: int) -> np.ndarray:
    import av

    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise MediaError("no audio track")
        stream: Any = container.streams.audio[0]
        stream.thread_type = "NONE"
        resampler = av.AudioResampler(format="fltp", rate=rate)
        pieces = [
            piece.to_ndarray()
            for frame in _and_then_none(container.decode(stream))
            for piece in resampler.resample(frame)
        ]
        _require_whole(sum(piece.shape[1] for piece in pieces) / rate, _declared_seconds(stream))
    return np.concatenate(pieces, 1) if pieces else np.zeros((1, 0), np.float32)


def _and_then_none(frames: Iterable[Any]) -> Iterable[Any]:
    """Ends with None, which empties the resampler."""
    yield from frames
    yield None
