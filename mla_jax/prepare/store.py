"""From a source in the raw tree to what a record holds of one modality."""

import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax.data import audio
from mla_jax.data.streams import Stream
from mla_jax.datasets.description import Modality, Source
from mla_jax.datasets.records import JPEG_QUALITY, PICTURES, stored_shape
from mla_jax.errors import UserError
from mla_jax.prepare import media


class Settings(NamedTuple):
    """What the stored form depends on beyond the modality; part of the fingerprint."""

    recipe: str = ""
    vocabulary: str = ""
    """Path of the WordPiece vocabulary."""
    images: str = "jpeg"
    """How pictures are stored: one of ``records.IMAGES``."""


class Stored(NamedTuple):
    value: Any
    """A list of JPEG files, or an array."""
    aspect: float = 1.0
    """Width over height of the (first) picture as it was."""


def absent(stream: Stream, images: str = "jpeg") -> Stored:
    """What stands for a missing modality."""
    if stream.kind in PICTURES and images == "jpeg":
        return Stored([])
    return Stored(np.zeros(stored_shape(stream), stream.dtype))


def load(modality: Modality, source: Source, root: pathlib.Path, settings: Settings) -> Stored:
    """Opens ``source`` and brings it to the form that ``modality.stream`` declares.

    Raises whatever the decoder of a damaged file raises.
    """
    stream, path = modality.stream, root / source.path
    if source.path and not path.exists():
        raise media.MediaError("no such file")
    if stream.kind == "tokens":
        text = source.text or path.read_text(encoding="utf-8-sig")
        return Stored(token_ids(settings.vocabulary, text, stream.shape[0]))
    if stream.kind == "vector":
        return Stored(_vector(path, stream))
    if stream.kind == "spectrogram":
        rate = audio.RECIPES[settings.recipe].rate
        waveform = media.read_sound(path, rate, source.start, source.end)
        return Stored(_finite(audio.compute(settings.recipe, waveform), stream.dtype))
    second = root / source.second if source.second else None
    rule = source.frames or modality.frames
    if stream.kind == "flow":
        assert second is not None  # both components are listed
        pictures, mode = _flow(path, second, rule, stream), "L"
    else:
        pictures, mode = _pictures(path, second, source, rule, stream), "RGB"
    encode = _raw if settings.images == "raw" else _jpeg
    return encode(pictures, stream, mode)


def _pictures(
    path: pathlib.Path, second: pathlib.Path | None, source: Source, rule: str, stream: Stream
) -> list[Any]:
    """The files or decoded pictures that make up an example."""
    count = stream.shape[0] if stream.kind == "clip" else 1
    window = rule.startswith("window") and stream.kind == "image"
    if path.is_dir():
        files = media.list_pictures(path)
        if window:  # DI-MML's UCF-101: one frame out of those that the flow takes
            flow = len(media.list_pictures(second)) if second else len(files)
            clip = media.pick_frames(rule, min(flow, len(files)), media.WINDOW)
            chosen = [clip[media.window_offset(media.WINDOW)]]
        else:
            chosen = media.pick_frames(rule, len(files), count)
        return [files[i] for i in chosen]
    if path.suffix.lower() in media.IMAGE:
        return [path] * count
    return media.video_pictures(path, rule, count, source.start, source.end)


def _flow(across: pathlib.Path, along: pathlib.Path, rule: str, stream: Stream) -> list[Any]:
    """The files of the horizontal and the vertical component of each frame, in turns."""
    files = [media.list_pictures(across), media.list_pictures(along)]
    if len(files[0]) != len(files[1]):
        raise media.MediaError(f"{len(files[0])} horizontal and {len(files[1])} vertical frames")
    chosen = media.pick_frames(rule, len(files[0]), stream.shape[0])
    return [files[component][i] for i in chosen for component in (0, 1)]


def _jpeg(pictures: Sequence[Any], stream: Stream, mode: str) -> Stored:
    """JPEG of every picture, whole, at the stream's size whatever its proportions.

    A JPEG file of that size and mode already is stored as it is.
    """
    from PIL import Image

    encoded, aspect, size = [], 1.0, stream.shape[-3:-1]
    for i, given in enumerate(pictures):
        picture = media.open_picture(given, mode) if isinstance(given, pathlib.Path) else given
        if i == 0:
            aspect = picture.width / picture.height
        if picture.format == "JPEG" and picture.size == size[::-1]:
            encoded.append(given.read_bytes())
            continue
        resized = picture.resize(size[::-1], Image.Resampling.BICUBIC)
        content = io.BytesIO()
        resized.save(content, "jpeg", quality=JPEG_QUALITY)
        encoded.append(content.getvalue())
    return Stored(encoded, aspect)


def _raw(pictures: Sequence[Any], stream: Stream, mode: str) -> Stored:
    """``uint8`` of the stream's shape: every picture whole, at its size, without a further JPEG.

    A JPEG file of that size is what its decoder makes of it.
    """
    from PIL import Image

    arrays, aspect = [], 1.0
    height, width = stream.shape[-3:-1]
    for i, given in enumerate(pictures):
        picture = media.open_picture(given, mode) if isinstance(given, pathlib.Path) else given
        if i == 0:
            aspect = picture.width / picture.height
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(picture))
    if stream.kind == "flow":
        arrays = [np.stack(arrays[i : i + 2], -1) for i in range(0, len(arrays), 2)]
    return Stored(arrays[0] if stream.kind == "image" else np.stack(arrays), aspect)


def _vector(path: pathlib.Path, stream: Stream) -> np.ndarray:
    found = np.lib.format.open_memmap(path, mode="r")  # reads nothing before the shape is right
    if found.shape != stream.shape:
        raise media.MediaError(f"an array of shape {found.shape}, and the first had {stream.shape}")
    if found.dtype.kind not in "biuf":
        raise media.MediaError(f"an array of {found.dtype}, which is not of real numbers")
    return _finite(found, stream.dtype)


def _finite(array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        found = array.astype(dtype)
    if not np.isfinite(found).all():
        raise media.MediaError(f"NaN, infinity or numbers too large for {dtype}")
    return found


# ---- Text ----------------------------------------------------------------------------------------


@functools.cache
def tokenizer(vocabulary: str) -> Any:
    """BERT's WordPiece, lower case, from a vocabulary file of one token a line.

    Raises:
      UserError: no such file, or one whose first token is not the padding.
    """
    from tokenizers import BertWordPieceTokenizer

    if not vocabulary:
        raise UserError(
            "text needs the WordPiece vocabulary: give --vocab=FILE, for example the vocab.txt of "
            "bert-base-uncased"
        )
    path = pathlib.Path(vocabulary)
    if not path.is_file():
        raise UserError(f"--vocab={vocabulary}: there is no such file")
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline().strip()
    if first != "[PAD]":
        raise UserError(
            f"--vocab={vocabulary} starts with '{first[:20]}', not with [PAD]: is it the vocab.txt "
            "of a BERT model?"
        )
    try:
        return BertWordPieceTokenizer(str(path), lowercase=True)
    except Exception as error:  # the library's own kind: bytes that are no text, a token that lacks
        raise UserError(
            f"--vocab={vocabulary} is no vocabulary of a BERT model: {error}"
        ) from error


def token_ids(vocabulary: str, text: str, length: int) -> np.ndarray:
    """``int32[length]``, cut or padded with 0, without special tokens (``extract_token.py``)."""
    ids = tokenizer(vocabulary).encode(text, add_special_tokens=False).ids[:length]
    return np.array(ids + [0] * (length - len(ids)), np.int32)
