"""Masks that hide modalities: the rules of the literature, and the same masks for everybody."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from mla_jax.config import fields
from mla_jax.data import missing, pipeline
from mla_jax.data.dataset import ArraySplit
from mla_jax.errors import UserError
from tests.conftest import build_dataset

N = 20_000


def settings(**changes):
    block = {"rule": "rate", "train": 0.0, "test": 0.0, "seed": 0, "fill": "zero", "masks": ""}
    return SimpleNamespace(**block | changes)


def complete(M, examples=N):
    return np.ones((examples, M), bool)


def within(counted, examples, probability, sigma=3.0):
    """Whether a count is as a binomial of this probability makes it."""
    deviation = math.sqrt(examples * probability * (1 - probability))
    return abs(counted - examples * probability) <= max(sigma * deviation, 1e-9)


# Shares of examples with 1, 2 and 3 of three modalities, from the closed form q = 1 - 1.5 p.
HISTOGRAMS = {
    0.1: (0.0225, 0.255, 0.7225),
    0.2: (0.09, 0.42, 0.49),
    0.3: (0.2025, 0.495, 0.3025),
    0.4: (0.36, 0.48, 0.16),
    0.5: (0.5625, 0.375, 0.0625),
    0.6: (0.81, 0.18, 0.01),
    0.7: (1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("rate", HISTOGRAMS)
def test_rate_has_the_published_histogram(rate):
    mask = missing.draw("rate", complete(3), rate, (0, 0))
    counts = np.bincount(mask.sum(1), minlength=4)
    assert counts[0] == 0
    for k, share in enumerate(HISTOGRAMS[rate], 1):
        assert within(counts[k], N, share), (k, counts / N)
    true = 1 - mask.mean()
    assert true == pytest.approx(min(rate, 2 / 3), abs=0.005)
    for column in mask.T:  # no modality is preferred
        assert within(column.sum(), N, 1 - min(rate, 2 / 3))


@pytest.mark.parametrize("M", (2, 3, 6))
@pytest.mark.parametrize("rate", (0.1, 0.5, 0.7, 0.95))
def test_bernoulli_is_what_redrawing_empty_rows_gives(M, rate):
    mask = missing.draw("bernoulli", complete(M), rate, (2, 2))
    assert mask.any(1).all()
    kept = 1 - rate**M
    for k in range(1, M + 1):
        share = math.comb(M, k) * (1 - rate) ** k * rate ** (M - k) / kept
        assert within((mask.sum(1) == k).sum(), N, share), k
    true = (rate - rate**M) / kept
    for column in mask.T:
        assert within((~column).sum(), N, true)


@pytest.mark.parametrize("M", (2, 3, 6))
def test_fraction_takes_one_modality_of_a_share(M):
    mask = missing.draw("fraction", complete(M), 0.4, (0, 1))
    lost = M - mask.sum(1)
    assert set(lost) == {0, 1}
    assert within(lost.sum(), N, 0.4)
    for m in range(M):
        assert within((~mask[:, m]).sum(), N, 0.4 * (1 + (m == M - 1)) / (M + 1))


@pytest.mark.parametrize("rule", ("rate", "bernoulli", "fraction"))
def test_nothing_is_hidden_at_rate_0_and_the_last_modality_stays(rule):
    rng = np.random.default_rng(0)
    available = rng.random((N, 4)) < 0.5
    assert (missing.draw(rule, available, 0.0, (0, 0)) == available).all()
    for rate in (0.3, 0.9):
        mask = missing.draw(rule, available, rate, (0, 0))
        assert (mask <= available).all()
        assert (mask.any(1) == available.any(1)).all()
        assert mask.sum() < available.sum()


@pytest.mark.parametrize("rule", ("rate", "bernoulli"))
def test_a_higher_rate_hides_more_of_the_same(rule):
    masks = [missing.draw(rule, complete(3), p, (0, 0)) for p in (0.1, 0.3, 0.5)]
    for low, high in itertools.pairwise(masks):
        hidden_again = (high <= low).mean()
        assert hidden_again == 1.0 if rule == "rate" else hidden_again > 0.9


def small(M=3, examples=12, **options):
    return build_dataset(("a", "b", "c")[:M], train=examples, **options)


def test_six_draws_one_of_the_incomplete_patterns_at_every_fetch():
    split = missing.PatternPerFetch(small(examples=2000).splits["train"], seed=3)
    index = np.arange(2000)
    drawn = [split.fetch_in_epoch(index, epoch)["present"] for epoch in range(3)]
    assert (drawn[0] != drawn[1]).any() and (drawn[1] != drawn[2]).any()
    again = split.fetch_in_epoch(index[::-1], 1)["present"][::-1]
    np.testing.assert_array_equal(again, drawn[1])
    codes = np.bincount(drawn[0] @ (1, 2, 4), minlength=8)
    assert codes[0] == codes[7] == 0
    for count in codes[1:7]:
        assert within(count, 2000, 1 / 6)
    other = missing.PatternPerFetch(small(examples=2000).splits["train"], seed=4)
    assert (other.fetch_in_epoch(index, 0)["present"] != drawn[0]).any()


def test_six_keeps_to_what_an_example_has():
    available = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    split = ArraySplit({"a": np.zeros((4, 1))}, np.zeros(4, np.int32), available)
    masked = missing.PatternPerFetch(split, seed=0)
    for epoch in range(50):
        present = masked.fetch_in_epoch(np.arange(4), epoch)["present"]
        assert (present <= available).all()
        assert present.sum(1)[:2].tolist() == [1, 1]
        assert present[2].sum() in (1, 2) and not present[3].any()


def test_six_evaluates_every_incomplete_pattern_once():
    dataset = missing.mask_dataset(small(), settings(rule="six"))
    test, whole = dataset.splits["test"], small().splits["test"]
    assert test.examples == 6 * whole.examples
    batch = test.fetch(np.arange(test.examples))
    seen = {tuple(row) for row in batch["present"].tolist()}
    assert len(seen) == 6
    assert batch["present"].sum() == 9 * whole.examples
    rows = test._rows
    np.testing.assert_array_equal(batch["label"], whole.label[rows])
    np.testing.assert_array_equal(batch["index"], np.arange(test.examples))
    np.testing.assert_array_equal(batch["inputs"]["b"], whole.inputs["b"][rows])
    with pytest.raises(UserError, match=r"at most 6 modalities, and this run has 7"):
        seven = build_dataset(tuple("abcdefg"), train=8)
        missing.mask_dataset(seven, settings(rule="six"))


def test_masks_depend_on_seed_split_and_rule_and_on_nothing_else():
    chosen = settings(train=0.5, test=0.3)
    first, second = (missing.mask_dataset(small(examples=96), chosen) for _ in range(2))
    for part, mask in first.masks.items():
        np.testing.assert_array_equal(mask, second.masks[part])
        np.testing.assert_array_equal(first.splits[part].present, mask)
    assert first.fingerprint == second.fingerprint != small(examples=96).fingerprint
    changes = ({"seed": 1}, {"train": 0.4}, {"test": 0.2}, {"rule": "bernoulli"})
    prints = {
        missing.mask_dataset(small(examples=96), settings(**{**vars(chosen), **c})).fingerprint
        for c in changes
    }
    assert len(prints | {first.fingerprint}) == 5
    shared = min(len(mask) for mask in first.masks.values())
    parts = [mask[:shared].tobytes() for mask in first.masks.values()]
    assert len(set(parts)) == 3


def test_training_batches_are_the_same_for_any_processes_and_after_a_cut():
    """Masks of ``six`` too: they hang on the epoch and the example."""
    for rule in ("rate", "six"):
        rates = {"train": 0.5, "test": 0.5} if rule == "rate" else {}
        dataset = missing.mask_dataset(small(examples=48), settings(rule=rule, **rates))
        split = dataset.splits["train"]
        whole = list(itertools.islice(pipeline.training_batches(split, 16, 0), 7))
        shares = [pipeline.training_batches(split, 16, 0, 0, p, 2) for p in range(2)]
        for batch, *parts in zip(whole, *shares, strict=False):
            joined = np.concatenate([part["present"] for part in parts])
            np.testing.assert_array_equal(batch["present"], joined)
        (cut,) = itertools.islice(pipeline.training_batches(split, 16, 0, start=5), 1)
        np.testing.assert_array_equal(cut["present"], whole[5]["present"])
        epochs = [
            {tuple(map(int, b["index"])): b["present"] for b in whole[i : i + 3]} for i in (0, 3)
        ]
        masks = [np.zeros((48, 3), bool) for _ in epochs]
        for mask, batches in zip(masks, epochs, strict=True):
            for index, present in batches.items():
                mask[list(index)] = present
        assert (masks[0] == masks[1]).all() == (rule == "rate")


def test_hidden_inputs_come_along_where_the_method_learns_from_them():
    chosen = settings(train=0.5, test=0.5)
    plain = missing.mask_dataset(small(examples=96), chosen)
    kept = missing.mask_dataset(small(examples=96), chosen, keep_hidden=True)
    index = np.arange(96)
    batch = kept.splits["train"].fetch(index)
    np.testing.assert_array_equal(batch["available"], np.ones((96, 3), bool))
    np.testing.assert_array_equal(batch["present"], plain.splits["train"].fetch(index)["present"])
    assert "available" not in plain.splits["train"].fetch(index)
    assert "available" not in kept.splits["test"].fetch(np.arange(40))
    assert kept.fingerprint == plain.fingerprint  # one comparison, the same masks


class Recorded:
    """A split that notes which inputs were wanted."""

    def __init__(self, split):
        self.split, self.wanted = split, []
        self.label, self.present = split.label, split.present
        self.examples, self.shapes = split.examples, split.shapes

    def fetch(self, index):
        return self.split.fetch(index)

    def fetch_wanted(self, index, wanted):
        self.wanted.append(wanted)
        return self.split.fetch(index)


def test_what_is_masked_is_not_decoded():
    recorded = Recorded(small(examples=96).splits["train"])
    mask = missing.draw("rate", recorded.present, 0.5, (0, 0))
    index = np.array([3, 1, 7])
    missing.MaskedSplit(recorded, mask).fetch(index)
    np.testing.assert_array_equal(recorded.wanted[-1], mask[index])
    missing.MaskedSplit(recorded, mask, keep_hidden=True).fetch(index)
    assert len(recorded.wanted) == 1
    missing.EveryPattern(recorded).fetch(index)
    assert recorded.wanted[-1].sum(1).max() < 3


def test_a_masks_file_goes_round(tmp_path):
    drawn = missing.mask_dataset(small(examples=96), settings(train=0.5, test=0.3))
    path = tmp_path / "masks.npz"
    missing.save(path, drawn)
    read = missing.mask_dataset(small(examples=96), settings(rule="none", masks=str(path)))
    for part, mask in drawn.masks.items():
        np.testing.assert_array_equal(read.masks[part], mask)
    turned = small(examples=96)._replace(modalities=("c", "a", "b"))
    for part, split in read.splits.items():
        other = missing._read(str(path), turned)[part]
        np.testing.assert_array_equal(other, split.present[:, [2, 0, 1]])


def broken(tmp_path, **changes):
    dataset = small(examples=96)
    masks = {part: np.ones((s.examples, 3), bool) for part, s in dataset.splits.items()}
    arrays = {"modalities": np.array(dataset.modalities), **masks, **changes}
    path = tmp_path / "masks.npz"
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return dataset, settings(rule="none", masks=str(path))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"test": None}, "array 'test' of .* is missing: the test split needs bool"),
        (
            {"train": np.ones((5, 3), bool)},
            r"'train' of .* is bool\[5, 3\]: .* needs bool\[96, 3\]",
        ),
        ({"train": np.full((96, 3), 2)}, "True where a modality is left"),
        ({"train": np.zeros((96, 3), bool)}, "leaves example 0 without any modality"),
        ({"modalities": np.array(["a", "b", "x"])}, "'c' is not among them"),
    ],
)
def test_a_masks_file_that_does_not_suit_is_refused(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        missing.mask_dataset(*broken(tmp_path, **changes))


def test_a_masks_file_that_is_none_is_refused(tmp_path):
    for content in (None, b"", b"not an archive"):
        path = tmp_path / "x.npz"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"missing.masks=.*x.npz cannot be read"):
            missing.mask_dataset(small(), settings(rule="none", masks=str(path)))


def test_the_fill_is_the_mean_of_what_is_seen_in_training():
    chosen = settings(train=0.5, test=0.5, fill="train_mean")
    dataset = missing.mask_dataset(small(examples=96), chosen)
    whole, mask = small(examples=96).splits["train"], dataset.masks["train"]
    for i, m in enumerate(dataset.modalities):
        expected = whole.inputs[m][mask[:, i]].mean(0, np.float64)
        np.testing.assert_allclose(dataset.fill[m], expected, rtol=1e-6)
        assert dataset.spec().fill[m] == dataset.fill[m].tolist()
    tokens = small(examples=96)
    split = tokens.splits["train"]
    inputs = {**split.inputs, "b": np.ones((96, 4), np.int32)}
    tokens = tokens._replace(splits={**tokens.splits, "train": split._replace(inputs=inputs)})
    with pytest.raises(UserError, match="train_mean needs vectors of real numbers, and 'b' is not"):
        missing.mask_dataset(tokens, chosen)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rule": "rat"}, "unknown missing.rule 'rat': did you mean 'rate'"),
        ({"fill": "mean"}, "unknown missing.fill 'mean'"),
        ({"train": 0.5}, "missing.train=0.5 and missing.test=0 need a rule"),
        ({"rule": "rate", "masks": "m.npz"}, "both say what is missing"),
        ({"rule": "six", "test": 0.5}, "missing.rule=six has no rates"),
        ({"rule": "bernoulli", "test": 1.0}, "needs rates below 1"),
        ({"rule": "rate", "train": 1.5}, "missing.train must be at least 0 and at most 1, not 1.5"),
        ({"rule": "rate", "train": math.nan}, "missing.train.*nan"),
        ({"rule": "rate", "seed": -1}, "missing.seed must be at least 0, not -1"),
    ],
)
def test_a_rule_and_its_rates_must_fit(changes, sentence):
    config = fields.base_config()
    config.missing.update(changes)
    with pytest.raises(UserError, match=sentence):
        fields.resolve(config)


def test_one_modality_cannot_be_missing():
    with pytest.raises(UserError, match="need at least two, and this run has only 'a'"):
        missing.mask_dataset(small(M=1), settings(train=0.5))
