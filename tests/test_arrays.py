"""Features that somebody computed: arrays in files, what is refused of them, a run on them."""

import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields, files
from mla_jax.config.fields import dataset_block
from mla_jax.data.example_checks import remarks
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError
from mla_jax.program import build_program, check_vocabularies
from tests.test_datasets import config_for
from tests.test_prepare_errors import promising


def write_arrays(folder, classes=3, **changes):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, classes, 8)) * 3
    for part, n in (("train", 48), ("validation", 12), ("test", 24)):
        label = rng.permutation(np.arange(n) % classes)
        arrays = {m: centres[i][label] + rng.normal(size=(n, 8)) for i, m in enumerate("ab")}
        arrays = {"label": label, **arrays}
        for name, change in changes.items():
            arrays[name] = change(arrays.get(name, label))
        arrays = {name: array for name, array in arrays.items() if array is not None}
        np.savez(folder / f"{part}.npz", **arrays)


def arrays_block(folder):
    config = dataset_block("arrays")
    config.path = str(folder)
    return config


def test_arrays(tmp_path):
    write_arrays(tmp_path)
    dataset = load_dataset(arrays_block(tmp_path), ("b", "a"))
    assert (dataset.classes, dataset.class_names) == (3, ["0", "1", "2"])
    assert dataset.modalities == tuple(dataset.splits["test"].inputs) == ("b", "a")
    assert dataset.splits["test"].inputs["a"].dtype == np.float32
    assert dataset.streams["a"].shape == (8,)
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    named = load_dataset(arrays_block(tmp_path), ("a",))
    assert named.class_names == ["x", "y", "z"]
    assert named.fingerprint == dataset.fingerprint

    loose = tmp_path / "loose"
    loose.mkdir()
    for part in ("train", "test"):
        with np.load(tmp_path / f"{part}.npz") as archive:
            for name in archive.files:
                np.save(loose / f"{part}_{name}.npy", archive[name])
    same = load_dataset(arrays_block(loose), ("a",))
    assert list(same.splits) == ["train", "test"]
    for part, split in same.splits.items():
        np.testing.assert_array_equal(split.inputs["a"], named.splits[part].inputs["a"])


WRONG_ARRAYS = {
    "no array 'a' .it has label, b.: .* --config=configs/arrays.py:modalities=b$": {
        "a": lambda x: None
    },
    r"'label' .* is float64\[48\]": {"label": lambda x: x * 1.0},
    r"'a' .* has shape \(47, 8\), and there are 48 labels": {"a": lambda x: x[1:]},
    r"'present' .* has shape \(48,\)": {"present": lambda x: x > 0},
    "damaged": {"a": lambda x: x.astype(object)},
    "'a' of the train split .* is of type <U32: it must hold real numbers": {
        "a": lambda x: x.astype(str)
    },
    "'b' of the train split .* is of type complex128: it must hold real numbers": {
        "b": lambda x: x + 1j
    },
    r"'a' of the train split .* holds integers outside -2147483648 to 2147483647": {
        "a": lambda x: np.full(x.shape, 2**32 + 5)
    },
    "'present' .* is of type <U4: it must hold real numbers": {
        "present": lambda x: np.full((len(x), 2), "True")
    },
    r"'b' of the train split .* has shape \(48, 0\), so it holds nothing": {
        "b": lambda x: x[:, :0]
    },
}


@pytest.mark.parametrize("words", WRONG_ARRAYS)
def test_wrong_arrays(words, tmp_path):
    write_arrays(tmp_path, **WRONG_ARRAYS[words])
    with pytest.raises(UserError, match=words):
        load_dataset(arrays_block(tmp_path), ("a", "b"))


def put(row, value):
    """``value`` in the second column of a row, for ``write_arrays``."""

    def change(array):
        array[row, 1] = value
        return array

    return change


def shown(rows, columns, value=True):
    """``present`` for ``write_arrays``: everything but ``[rows, columns]``."""

    def change(label):
        present = np.full((len(label), 2), value)
        present[rows, columns] = False
        return present

    return change


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"a": put(7, np.nan)}, "'a' of the {} split of arrays holds NaN, .* first is example 7"),
        ({"b": put(3, -np.inf)}, "'b' of the {} split of arrays holds NaN, inf.* is example 3: "),
        ({"b": put(0, 1e300)}, "'b' of the {} .* numbers too large for float32 in 1 of "),
        ({"present": shown([], [], False)}, r"no example of the {} split .*\('present' is False"),
        ({"present": shown([4, 5], slice(None))}, "2 of the .* of the {} .* is example 4: leave"),
    ],
)
def test_examples_that_cannot_be_used(part, changes, words, tmp_path):
    """In one split alone; NaN where the modality is missing does no harm."""
    write_arrays(tmp_path, a=put(9, np.nan), present=shown(9, 0))
    load_dataset(arrays_block(tmp_path), ("a", "b"))
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    write_arrays(wrong, **changes)
    (wrong / f"{part}.npz").replace(tmp_path / f"{part}.npz")
    with pytest.raises(UserError, match=words.format(part)):
        load_dataset(arrays_block(tmp_path), ("a", "b"))


def test_an_array_that_no_memory_holds(tmp_path):
    write_arrays(tmp_path)
    promising(tmp_path / "test_a.npy", (1 << 46,))
    (tmp_path / "test.npz").unlink()
    with pytest.raises(UserError, match=r"test_a\.npy is damaged, .* larger than the memory"):
        load_dataset(arrays_block(tmp_path), ("a",))


def test_a_modality_that_no_training_example_has(tmp_path):
    write_arrays(tmp_path, present=shown(slice(None), 1))
    with pytest.raises(UserError, match="no example of the train split of arrays has 'b': leave"):
        load_dataset(arrays_block(tmp_path), ("a", "b"))


def test_classes_that_are_not_trained_are_told(tmp_path):
    write_arrays(tmp_path)
    assert remarks(load_dataset(arrays_block(tmp_path), ("a",))) == []
    names = [f"bird {i}" for i in range(30)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    for part, n in {"validation": 12, "test": 40}.items():
        label = np.arange(n) % 30
        np.savez(tmp_path / f"{part}.npz", label=label, a=np.zeros((n, 8)))
    assert remarks(load_dataset(arrays_block(tmp_path), ("a",))) == [
        "9 of the 12 validation examples are of 9 classes that no training example has: bird 3, "
        "bird 4, bird 5, bird 6, bird 7, ...",
        "34 of the 40 test examples are of 27 classes that no training example has: bird 3, "
        "bird 4, bird 5, bird 6, bird 7, ...",
    ]


def test_missing_arrays(tmp_path):
    with pytest.raises(UserError, match=r"dataset\.path='' is not a folder"):
        load_dataset(arrays_block(""), ("a",))
    with pytest.raises(UserError, match=r"neither train\.npz nor train_label\.npy"):
        load_dataset(arrays_block(tmp_path), ("a",))
    write_arrays(tmp_path)
    (tmp_path / "classes.txt").write_text("x\n")
    with pytest.raises(UserError, match="names 1 classes and the labels go up to 2"):
        load_dataset(arrays_block(tmp_path), ("a",))


@pytest.mark.parametrize("label", [1000, 2_000_000_000, 2**32, 2**63 - 1])
def test_a_label_beyond_what_the_data_can_hold(label, tmp_path):
    """At once: two billion names would take minutes, and 2**32 would become class 0."""
    write_arrays(tmp_path, label=lambda x: np.where(np.arange(len(x)) == 9, label, x))
    words = (
        f"the largest label of the train split in .* is {label}, and there are 48 training "
        "examples: without classes.txt a label must be below 1000 or below that number"
    )
    with pytest.raises(UserError, match=words):
        load_dataset(arrays_block(tmp_path), ("a",))


def test_labels_that_the_data_can_hold(tmp_path):
    write_arrays(tmp_path, label=lambda x: np.where(np.arange(len(x)) == 9, 999, x))
    assert load_dataset(arrays_block(tmp_path), ("a",)).classes == 1000
    (tmp_path / "classes.txt").write_text("\n".join(f"class {i}" for i in range(1201)))
    write_arrays(tmp_path, label=lambda x: x + 1198)
    assert load_dataset(arrays_block(tmp_path), ("a",)).class_names[1200] == "class 1200"
    (tmp_path / "classes.txt").unlink()
    for part, n in {"train": 1500, "validation": 3, "test": 3}.items():
        np.savez(tmp_path / f"{part}.npz", label=np.arange(1500)[-n:], a=np.ones((n, 2)))
    assert load_dataset(arrays_block(tmp_path), ("a",)).classes == 1500


def test_token_ids_beyond_the_vocabulary(tmp_path):
    """Named with the flag that mends it; they would be NaN in the first batch."""
    write_arrays(tmp_path, a=lambda x: np.where(x < 1, 5, 3000).astype(int))
    config = files.load_config("configs/arrays.py:modalities=a,encoders=ngram_bag,method=concat")
    config.dataset.path, config.batch_size = str(tmp_path), 16
    words = (
        "'a' of the train split holds the token id 3000, and its encoder knows 0 to 1023: set "
        r"--config.encoders.a.vocabulary=3001 or more$"
    )
    with pytest.raises(UserError, match=words):
        train.train(config, tmp_path / "run", say=lambda line: None)
    config.encoders.a.vocabulary = 3001  # a field that the flag may set
    config = fields.resolve(config)
    dataset = load_dataset(config.dataset, config.modalities)
    check_vocabularies(build_program(config, dataset).encoders, dataset)
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data(tmp_path):
    write_arrays(tmp_path)
    config = config_for(arrays_block(tmp_path), ("a", "b"))
    config.batch_size = 64
    words = (
        "the training split has 48 examples, fewer than batch_size=64: set --config.batch_size=32"
    )
    with pytest.raises(UserError, match=words):
        train.train(config, tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_training_on_arrays(tmp_path):
    write_arrays(tmp_path)
    lines = []
    config = config_for(arrays_block(tmp_path), ("a", "b"))
    result = train.train(config, tmp_path / "run", say=lines.append).result
    assert result["test"]["fused"] > 0.8
    assert "a 8, b 8; 48 train" in lines[0]


WRONG_ENCODERS = {
    r"\[batch, time, feature\], not an input of shape \(1, 8, 8, 1\)": ((8, 8, 1), "conv1d", {}),
    r"\[batch, height, width, channel\], not an input of shape": ((8, 3), "conv2d", {}),
    r"conv2d halves its input 3 times, .* \(1, 9, 4, 1\) is too small": (
        (9, 4, 1), "conv2d", {"widths": (2, 2, 2)}),
    r"ngram_bag takes token ids int32\[batch, length\], .* type float32": ((8,), "ngram_bag", {}),
    r"'features' takes": ((8, 3, 3), "features", {}),
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG_ENCODERS)
def test_an_encoder_that_does_not_suit_its_modality(words, tmp_path):
    """Refused by the modality's name; nothing is compiled and nothing is written."""
    shape, name, options = WRONG_ENCODERS[words]
    write_arrays(tmp_path, a=lambda x: np.ones((len(x), *shape)))
    config = config_for(arrays_block(tmp_path), ("a",), name=name, **options)
    with pytest.raises(UserError, match=f"encoders.a does not suit 'a': .*{words}"):
        train.train(config, tmp_path / "run", say=lambda line: None)
    assert not (tmp_path / "run").exists()
