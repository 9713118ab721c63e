"""digits: handwritten digits, spoken digits and number words, embedded in the package.

3000 MNIST images, 3000 recordings of the Free Spoken Digit Dataset as 13 MFCC per 25 ms frame, and
1030 number words of 87 languages (Unicode CLDR); see ``NOTICE`` beside this file.

The three are *paired by class*, not recorded together: an example is an image of a seven, someone
saying "seven" and the word "sju".  Within a split, each recording and image occurs once.  Speakers
of the test split (two of six) do not occur in training, those of the validation split do.
"""

import hashlib
import io
import pathlib
import unicodedata
import zipfile
import zlib
from typing import Any

import numpy as np

from mla_jax.data.dataset import ArraySplit, Dataset
from mla_jax.errors import UserError, check_choice

FILE = pathlib.Path(__file__).with_name("digits.npz")
MODALITIES = ("image", "audio", "text")
PER_CLASS = {"train": 170, "validation": 25, "test": 95}
TEST_SPEAKERS = (3, 4)
FRAMES = 32
NGRAMS, VOCABULARY = 24, 1024
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error)
RECIPE = "image14-mfcc32-ngram24-speaker34-v1"

NOTES = {
    "image": "28x28 grey levels / 255, means of 2x2 pixels",
    "audio": "32 frames of 13 MFCC, each recording standardised, then by statistics in data.json",
    "text": "ids of ngram_ids(word)",
}

ARRAYS = {
    "image": (np.uint8, ("images", 28, 28)),
    "image_y": (np.uint8, ("images",)),
    "audio": (np.float16, ("frames", 13)),
    "audio_len": (np.uint8, ("recordings",)),
    "audio_y": (np.uint8, ("recordings",)),
    "audio_group": (np.uint8, ("recordings",)),
    "word": (np.bytes_, ("words",)),
    "word_y": (np.uint8, ("words",)),
    "word_lang": (np.bytes_, ("words",)),
}
"""The type and shape of each array in the file; a name is the same number everywhere."""


_RAW: dict[str, dict[str, np.ndarray]] = {}
_FEATURES: dict[tuple[str, str], np.ndarray] = {}
_DRAWN: dict[tuple[str, int], Any] = {}
"""Caches, because a comparison loads the data per run: ``{digest of the file: arrays}``,
``{(digest, modality): array}`` and ``{(digest, seed): what _draw returns}``."""


def load(config: Any, modalities: tuple[str, ...] = ("image", "audio")) -> Dataset:
    """Any subset and order of image ``[14, 14, 1]``, audio ``[32, 13]`` and text ``int32[24]``.

    ``config.path`` names another copy of the file (default: the embedded one), and
    ``config.split_seed`` draws other splits and other pairs.

    Raises:
      UserError: an unknown modality, or a file that is missing, damaged or something else.
    """
    for modality in modalities:
        check_choice("modality of dataset 'digits'", modality, MODALITIES)
    path = pathlib.Path(config.path) if config.path else FILE
    raw, digest = _read(path)
    makers = {"image": _images, "audio": _recordings, "text": _words}
    for m in modalities:
        if (digest, m) not in _FEATURES:
            _FEATURES[digest, m] = makers[m](raw)
    features = {m: _FEATURES[digest, m] for m in modalities}
    splits = {}
    drawn = (digest, config.split_seed)
    if drawn not in _DRAWN:
        _DRAWN[drawn] = _draw(path, raw, config.split_seed)
    for split, (chosen, label) in _DRAWN[drawn].items():
        inputs = {m: features[m][chosen[m]] for m in modalities}
        present = np.ones((len(label), len(modalities)), bool)
        splits[split] = ArraySplit(inputs, label.copy(), present)
    statistics = {}
    if "audio" in modalities:  # each coefficient to mean 0 and deviation 1 over the training split
        train = splits["train"].inputs["audio"]
        mean, deviation = train.mean((0, 1)), train.std((0, 1))
        statistics["audio"] = {"mean": mean.tolist(), "std": deviation.tolist()}
        for whole in splits.values():
            whole.inputs["audio"][:] = (whole.inputs["audio"] - mean) / deviation
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    fingerprint = f"digits-{digest}-{RECIPE}-seed{config.split_seed}"
    # The validation speakers occur in training, the test speakers do not: an epoch chosen on
    # validation would be chosen for another task.
    notes = {m: NOTES[m] for m in modalities}
    return Dataset(
        "digits", modalities, names, splits, fingerprint, select_on_validation=False,
        input_notes=notes, statistics=statistics,
    )  # fmt: skip


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the digits file {path} ({error.strerror}): leave dataset.path empty to "
            "use the embedded one"
        ) from error
    digest = hashlib.sha256(content).hexdigest()[:12]
    if digest in _RAW:
        return _RAW[digest], digest
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            raw = {name: archive[name] for name in ARRAYS}
    except (ValueError, TypeError, KeyError, OSError, EOFError, *ZIP_ERRORS) as error:
        raise UserError(
            f"the digits file {path} is damaged or is something else ({_first_line(error)}): "
            "reinstall the package, or build the file again with "
            "python -m mla_jax.datasets.digits.build"
        ) from error
    _check_arrays(path, raw)
    _RAW[digest] = raw
    return raw, digest


def _check_arrays(path: pathlib.Path, raw: dict[str, np.ndarray]) -> None:
    """Raises ``UserError`` unless the arrays have the types and sizes of ``ARRAYS``."""
    sizes: dict[str, int] = {}
    for name, (kind, shape) in ARRAYS.items():
        array = raw[name]
        fits = array.ndim == len(shape) and np.issubdtype(array.dtype, kind)
        fits = fits and all(
            sizes.setdefault(axis, length) == length if isinstance(axis, str) else axis == length
            for axis, length in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join(str(sizes.get(str(axis), axis)) for axis in shape)
            raise UserError(
                f"array '{name}' of {path} is {array.dtype}{list(array.shape)}, expected "
                f"{np.dtype(kind).name}[{wanted}]: build the file again"
            )
    lengths = raw["audio_len"].astype(int)
    if lengths.sum() != sizes["frames"] or not lengths.all():
        raise UserError(
            f"the recordings of {path} have {lengths.sum()} frames by 'audio_len' and "
            f"{sizes['frames']} in 'audio', or some have none: build the file again"
        )
    counts = {
        "image": np.bincount(raw["image_y"], minlength=10)[:10],
        "audio": np.bincount(raw["audio_y"], minlength=10)[:10],
    }
    needed = sum(PER_CLASS.values())
    for modality, count in counts.items():
        if count.min() < needed:
            raise UserError(
                f"{path} has {count.min()} '{modality}' examples of digit {count.argmin()} and "
                f"{needed} are needed: build the file again"
            )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _images(raw: dict[str, np.ndarray]) -> np.ndarray:
    """28x28 bytes -> means of 2x2 pixels in [0, 1], ``float32[N, 14, 14, 1]``."""
    scaled = raw["image"].astype(np.float32) / 255
    return scaled.reshape(-1, 14, 2, 14, 2).mean((2, 4))[..., None]


def _recordings(raw: dict[str, np.ndarray]) -> np.ndarray:
    """MFCC -> ``float32[N, 32, 13]``, time first, cut or padded with zeros.

    Each recording is standardised to mean 0 and deviation 1 first; without that, models do not
    generalise to unseen speakers.
    """
    frames = np.split(raw["audio"].astype(np.float32), np.cumsum(raw["audio_len"].astype(int))[:-1])
    out = np.zeros((len(frames), FRAMES, frames[0].shape[1]), np.float32)
    for row, recording in zip(out, frames, strict=True):
        normal = (recording - recording.mean(0)) / (recording.std(0) + 1e-3)
        row[: len(normal)] = normal[:FRAMES]
    return out


def _words(raw: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([ngram_ids(word.decode()) for word in raw["word"]])


def ngram_ids(word: str) -> np.ndarray:
    """Hashes of the 1-, 2- and 3-grams of ``<word>`` without accents, ``int32[24]``, 0-padded."""
    letters = unicodedata.normalize("NFKD", word.lower())
    text = "<" + "".join(c for c in letters if not unicodedata.combining(c)) + ">"
    grams = [text[i : i + n] for n in (1, 2, 3) for i in range(len(text) - n + 1)][:NGRAMS]
    ids = [1 + zlib.crc32(gram.encode()) % (VOCABULARY - 1) for gram in grams]
    return np.array(ids + [0] * (NGRAMS - len(ids)), np.int32)


def _without_repeats(splits: list[np.ndarray], word: np.ndarray) -> list[np.ndarray]:
    """Drops from each split the words that are equal to a word of an earlier split.

    Without accents, a dozen words of different languages are equal ("tres", "três").
    """
    seen: set[bytes] = set()
    kept = []
    for rows in splits:
        ids = {row: ngram_ids(word[row].decode()).tobytes() for row in rows}
        kept.append(np.array([row for row in rows if ids[row] not in seen]))
        seen.update(ids.values())
    return kept


def _draw(
    path: pathlib.Path, raw: dict[str, np.ndarray], seed: int
) -> dict[str, tuple[dict[str, np.ndarray], Any]]:
    """The rows of each modality and the labels of each split, class by class."""
    rng = np.random.default_rng(seed)
    held_out = np.isin(raw["audio_group"], TEST_SPEAKERS)
    train, validation, test = PER_CLASS.values()
    rows: dict[str, dict[str, list]] = {s: {m: [] for m in MODALITIES} for s in PER_CLASS}
    for digit in range(10):
        heard = rng.permutation(np.flatnonzero((raw["audio_y"] == digit) & ~held_out))
        unheard = rng.permutation(np.flatnonzero((raw["audio_y"] == digit) & held_out))
        drawn = rng.permutation(np.flatnonzero(raw["image_y"] == digit))
        spoken = rng.permutation(np.flatnonzero(raw["word_y"] == digit))
        recordings = [*np.split(heard[: train + validation], [train]), unheard[:test]]
        images = np.split(drawn[: train + validation + test], [train, train + validation])
        words = np.split(spoken, [int(0.6 * len(spoken)), int(0.75 * len(spoken))])
        words = _without_repeats(words, raw["word"])
        for split, a, i, w in zip(PER_CLASS, recordings, images, words, strict=True):
            if not len(a) == len(i) == PER_CLASS[split]:
                raise UserError(
                    f"digit {digit}: {len(a)} recordings and {len(i)} images in {split}"
                )
            rows[split]["audio"].append(a)
            rows[split]["image"].append(i)
            rows[split]["text"].append(rng.choice(w, PER_CLASS[split]))
    labels = {s: np.repeat(np.arange(10, dtype=np.int32), n) for s, n in PER_CLASS.items()}
    return {s: ({m: np.concatenate(r) for m, r in rows[s].items()}, labels[s]) for s in PER_CLASS}
