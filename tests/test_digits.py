"""The embedded data: its splits checked against the file, and files that are damaged."""

import itertools
import pathlib
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict

from mla_jax.datasets import digits, load_dataset
from mla_jax.errors import UserError

COUNTS = {"train": 1700, "validation": 250, "test": 950}
SHAPES = {"image": ((14, 14, 1), "f4"), "audio": ((32, 13), "f4"), "text": ((24,), "i4")}
HELD_OUT = (3, 4)


def load(*modalities, path="", split_seed=0):
    config = ConfigDict({"name": "digits", "path": str(path), "split_seed": split_seed})
    return load_dataset(config, modalities)


@pytest.fixture(scope="module")
def dataset():
    return load("image", "audio", "text")


@pytest.fixture(scope="module")
def raw():
    with np.load(digits.FILE) as archive:
        return {name: archive[name] for name in archive.files}


def test_shapes_types_and_counts(dataset):
    assert (dataset.name, dataset.modalities, dataset.classes) == ("digits", tuple(SHAPES), 10)
    assert {name: split.examples for name, split in dataset.splits.items()} == COUNTS
    for name, split in dataset.splits.items():
        assert tuple(split.inputs) == tuple(SHAPES)
        for modality, (shape, kind) in SHAPES.items():
            assert split.inputs[modality].shape == (COUNTS[name], *shape)
            assert split.inputs[modality].dtype == np.dtype(kind)
            assert np.isfinite(split.inputs[modality]).all()
        assert split.label.dtype == np.int32
        np.testing.assert_array_equal(np.bincount(split.label), [COUNTS[name] // 10] * 10)
        assert split.present.shape == (COUNTS[name], 3)
        assert split.present.all()


def test_scales(dataset):
    train = dataset.splits["train"].inputs
    assert train["image"].min() == 0
    assert 0.9 < train["image"].max() <= 1
    np.testing.assert_allclose(train["audio"].mean((0, 1)), 0, atol=1e-3)  # float32 sums of 54400
    np.testing.assert_allclose(train["audio"].std((0, 1)), 1, atol=1e-3)
    text = train["text"]
    assert text[:, 0].min() >= 1 and text.max() < 1024
    assert ((text > 0).sum(1) >= 3).all()
    assert (np.diff((text > 0).astype(int), axis=1) <= 0).all(), "padding is at the end"


def shape_of_sound(recordings):
    """What normalising a coefficient over the split leaves: z-scores within each recording."""
    centred = recordings - recordings.mean(1, keepdims=True)
    scores = centred / (recordings.std(1, keepdims=True) + 1e-6)
    return scores.reshape(len(recordings), -1)


def recordings_of(split, raw):
    """The row in the file of each of a split's recordings."""
    ends = np.cumsum(raw["audio_len"].astype(int))
    own = np.zeros((len(ends), 32, 13), np.float32)
    for i, (end, length) in enumerate(zip(ends, raw["audio_len"], strict=True)):
        frames = raw["audio"][end - length : end].astype(np.float32)
        frames = (frames - frames.mean(0)) / (frames.std(0) + 1e-3)
        own[i, : min(32, length)] = frames[:32]
    own, found = shape_of_sound(own), shape_of_sound(split.inputs["audio"])
    alike = found @ own.T / (32 * 13)  # a correlation: 1 for the same recording
    assert alike.max(1).min() > 0.999
    assert np.sort(alike, axis=1)[:, -2].max() < 0.999
    return alike.argmax(1)


def test_recordings(dataset, raw):
    rows = {name: recordings_of(split, raw) for name, split in dataset.splits.items()}
    everything = np.concatenate(list(rows.values()))
    assert len(set(everything)) == len(everything) == 2900, "a recording occurs twice"
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(raw["audio_y"][rows[name]], split.label)
    speakers = {name: set(raw["audio_group"][r].tolist()) for name, r in rows.items()}
    assert speakers["test"] == set(HELD_OUT)
    assert speakers["train"] == speakers["validation"] == {0, 1, 2, 5}


def test_images(dataset, raw):
    def key(image):
        return np.round(image * 255 * 4).astype(int).tobytes()

    pooled = raw["image"].astype(float).reshape(-1, 14, 2, 14, 2).mean((2, 4)) / 255
    where = {key(image): i for i, image in enumerate(pooled)}
    assert len(where) == 3000
    rows = [[where[key(x[..., 0])] for x in s.inputs["image"]] for s in dataset.splits.values()]
    everything = list(itertools.chain(*rows))
    assert len(set(everything)) == len(everything) == 2900, "an image occurs twice"
    for found, split in zip(rows, dataset.splits.values(), strict=True):
        np.testing.assert_array_equal(raw["image_y"][found], split.label)


def test_words_are_disjoint(dataset, raw):
    spellings = {}
    for word, label in zip(raw["word"], raw["word_y"], strict=True):
        ids = tuple(digits.ngram_ids(word.decode()).tolist())
        spellings.setdefault(ids, []).append((word, int(label)))
    seen = {}
    for name, split in dataset.splits.items():
        ids = [tuple(row) for row in split.inputs["text"].tolist()]
        for row, label in zip(ids, split.label, strict=True):
            assert {known for _, known in spellings[row]} == {label}
        seen[name] = set(ids)
    for one, other in itertools.combinations(seen, 2):
        # Also words that differ in accents alone, such as tres and três, which read the same.
        assert not seen[one] & seen[other]


def test_ngrams():
    ids = digits.ngram_ids("Três")
    np.testing.assert_array_equal(ids, digits.ngram_ids("tres"))
    assert (ids > 0).sum() == 6 + 5 + 4  # of <tres>: 6 letters, 5 pairs, 4 triples
    assert (digits.ngram_ids("x" * 40) > 0).all()
    assert digits.ngram_ids("x" * 40).shape == (24,)


@pytest.mark.parametrize(
    "modalities",
    [("image",), ("audio",), ("text",), ("audio", "image"), ("text", "image", "audio")],
)
def test_any_subset_and_order_gives_the_same_arrays(dataset, modalities):
    part = load(*modalities)
    assert part.modalities == modalities
    assert part.fingerprint == dataset.fingerprint
    for name, split in part.splits.items():
        assert tuple(split.inputs) == modalities
        assert split.present.shape == (COUNTS[name], len(modalities))
        np.testing.assert_array_equal(split.label, dataset.splits[name].label)
        for modality in modalities:
            full = dataset.splits[name].inputs[modality]
            np.testing.assert_array_equal(split.inputs[modality], full)


def test_the_split_seed_changes_data_and_fingerprint(dataset):
    other = load("image", split_seed=1)
    assert other.fingerprint != dataset.fingerprint
    assert other.fingerprint == load("audio", split_seed=1).fingerprint
    first, second = (d.splits["test"].inputs["image"] for d in (dataset, other))
    assert not np.array_equal(first, second)


def test_another_file_has_another_fingerprint(dataset, raw, tmp_path):
    path = tmp_path / "copy.npz"
    path.write_bytes(digits.FILE.read_bytes())
    assert load("image", path=path).fingerprint == dataset.fingerprint
    np.savez(path, **{**raw, "image": 255 - raw["image"]})
    assert load("image", path=path).fingerprint != dataset.fingerprint


def test_unknown_modality():
    with pytest.raises(UserError, match=r"'imge'.*'image'"):
        load("imge")


def damage_bytes(path: pathlib.Path, how: str) -> None:
    content = bytearray(digits.FILE.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "a byte flipped":
        content[len(content) // 2] ^= 0xFF
    elif how == "garbage":
        content = bytearray(np.random.default_rng(0).bytes(5000))
    elif how == "empty":
        content = bytearray()
    elif how == "a pickle":
        content = bytearray(pickle.dumps({"image": 1}))
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "a byte flipped", "garbage", "empty", "a pickle"])
def test_a_damaged_file(tmp_path, how):
    path = tmp_path / "broken.npz"
    damage_bytes(path, how)
    with pytest.raises(UserError, match=r"broken\.npz"):
        load("image", path=path)


def test_a_lone_array_is_no_digits_file(tmp_path):
    path = tmp_path / "lone.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match=r"lone\.npy"):
        load("image", path=path)


WRONG = {
    "another type": {"audio": lambda a: a.astype(np.int32)},
    "another rank": {"image": lambda a: a.reshape(3000, -1)},
    "pickled objects": {"word": lambda a: a.astype(object)},
    "no such array": {"audio_group": None},
    "fewer labels": {"image_y": lambda a: a[:-5]},
    "more labels": {"word_y": lambda a: np.concatenate([a, a])},
    "lengths of other recordings": {"audio_len": lambda a: a[:-5]},
    "frames missing": {"audio": lambda a: a[:-500]},
    "another number of coefficients": {"audio": lambda a: a[:, :12]},
    "larger images": {"image": lambda a: np.pad(a, ((0, 0), (2, 2), (2, 2)))},
    "a class missing": {"image_y": lambda a: np.minimum(a, 8)},
}


@pytest.mark.parametrize("how", WRONG)
def test_a_file_with_wrong_arrays(raw, tmp_path, how):
    arrays = dict(raw)
    for name, change in WRONG[how].items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name])
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"wrong\.npz"):
        load("image", "audio", "text", path=path)


@pytest.mark.parametrize("name", ["absent.npz", "."])
def test_no_file(tmp_path, name):
    with pytest.raises(UserError, match="cannot read the digits file"):
        load("image", path=tmp_path / name)


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_the_sources_are_named(name):
    path = digits.FILE.with_name(name)
    assert path.is_file(), f"{path} is missing"
    text = path.read_text()
    if name == "LICENSE":
        assert "Attribution-ShareAlike 4.0" in text
    for source in ("Free Spoken Digit Dataset", "MNIST", "CLDR") if name == "NOTICE" else ():
        assert source in text
