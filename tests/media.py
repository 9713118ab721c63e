"""Real media files, tiny: what the tests of ``mla_jax.prepare`` are fed."""

import pathlib
from fractions import Fraction

import numpy as np

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "##s", "on", "wall", ",")


def write_video(
    path: pathlib.Path,
    seconds: float = 3,
    sound: bool = True,
    size=(48, 32),
    rate: int = 5,
    codec: str = "mpeg4",
    seed: int = 0,
) -> None:
    """A video of one grey a frame, 10 brighter each second, with a tone of 440 Hz."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if sound:
            track = container.add_stream("aac" if path.suffix == ".mp4" else "mp3", rate=22_050)
            track.layout = "mono"
        for i in range(int(seconds * rate)):
            level = 30 + 10 * (i // rate) + seed
            picture = np.full((size[1], size[0], 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
        if sound:
            n = np.arange(int(22_050 * seconds))
            tone = (0.3 * np.sin(2 * np.pi * 440 * n / 22_050)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate = 22_050
            frame.pts = 0
            for piece in (frame, None):
                for packet in track.encode(piece):
                    container.mux(packet)


def write_sound(path: pathlib.Path, seconds: float = 2, rate: int = 16_000, seed: int = 0) -> None:
    """A tone whose pitch follows from ``seed``, 16-bit."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    n = np.arange(int(rate * seconds))
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * (200 + 37 * seed) * n / rate), rate, "PCM_16")


def write_picture(path: pathlib.Path, size=(40, 30), seed: int = 0, mode: str = "RGB") -> None:
    """Smooth colours that follow from ``seed``; ``size`` is width and height."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 255, (2, 2, 3), np.uint8)
    picture = Image.fromarray(corners).resize(size, Image.Resampling.BILINEAR).convert(mode)
    picture.save(path)


def write_vocabulary(path: pathlib.Path) -> pathlib.Path:
    """A WordPiece vocabulary of a dozen tokens."""
    path.write_text("\n".join(WORDS) + "\n")
    return path
