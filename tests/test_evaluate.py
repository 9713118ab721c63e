"""Evaluation counts every example once, whatever the sizes and the number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mla_jax.datasets import ArraySplit
from mla_jax.errors import UserError
from mla_jax.evaluate import Evaluator
from mla_jax.evaluate.figures import accuracy, macro_f1, summarize
from mla_jax.program import initial_state
from mla_jax.runs import report

MODALITIES = ("a", "b", "c")
MOST = 70
DEVICES = (1, 3, 8)


def numpy_f1(label, predicted) -> float:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN)."""
    scores = []
    for c in sorted(set(label) | set(predicted)):
        hit = np.sum((label == c) & (predicted == c))
        miss = np.sum((label == c) != (predicted == c))
        scores.append(2 * hit / (2 * hit + miss))
    return float(np.mean(scores)) if scores else float("nan")


def numpy_figures(label, predicted, classes):
    confusion = np.zeros((classes, classes), int)
    for row, column in zip(label, predicted, strict=True):
        confusion[row, column] += 1
    share = float(np.mean(label == predicted)) if len(label) else float("nan")
    return confusion.tolist(), share, numpy_f1(label, predicted)


class Case:
    """A method, its state, 70 examples and the prediction for each, made without batches."""

    def __init__(self, make_dataset, make_program, **options):
        dataset = make_dataset(MODALITIES, test=MOST, missing=0.3)
        self.split = dataset.splits["test"]
        program = make_program(dataset, **options)
        self.method, self.state = program.method, initial_state(program, dataset, seed=1)
        self.evaluators = {n: Evaluator(self.method, jax.devices()[:n]) for n in DEVICES}
        everything = self.split.fetch(np.arange(MOST))
        self.prediction = jax.jit(self.method.predict)(self.state.variables, everything)
        fused = self.method.fuse(self.prediction, everything["present"], self.state.method_state)
        self.fused = np.asarray(fused).argmax(-1)
        self.unimodal = np.asarray(self.prediction.unimodal).argmax(-1)

    def first(self, examples: int) -> ArraySplit:
        inputs = {m: x[:examples] for m, x in self.split.inputs.items()}
        return ArraySplit(inputs, self.split.label[:examples], self.split.present[:examples])


@pytest.fixture(scope="module")
def mla(make_dataset, make_program):
    return Case(make_dataset, make_program, method="mla")


@settings(max_examples=60, deadline=None)
@given(
    examples=st.integers(1, MOST), batch_size=st.sampled_from([4, 7]), n=st.sampled_from(DEVICES)
)
def test_equals_numpy_on_unbatched_predictions(mla, examples, batch_size, n):
    split = mla.first(examples)
    figures = mla.evaluators[n](mla.state, split, batch_size)
    assert figures["examples"] == examples
    rows = {"fused": (mla.fused[:examples], np.ones(examples, bool))}
    for i, modality in enumerate(MODALITIES):
        rows[modality] = mla.unimodal[i, :examples], split.present[:, i]
    assert list(figures["confusion"]) == ["fused", *MODALITIES]
    for name, (predicted, counted) in rows.items():
        confusion, share, f1 = numpy_figures(split.label[counted], predicted[counted], 3)
        assert figures["confusion"][name] == confusion
        np.testing.assert_allclose(figures[name], share, rtol=1e-12)  # NaN where nobody has it
        np.testing.assert_allclose(figures["macro_f1"][name], f1, rtol=1e-12)
    classes = mla.evaluators[n].classes(mla.state, split, batch_size)
    np.testing.assert_array_equal(classes.fused, rows["fused"][0])
    for i, modality in enumerate(MODALITIES):
        predicted, there = rows[modality]
        np.testing.assert_array_equal(classes.unimodal[i], np.where(there, predicted, -1))
    np.testing.assert_array_equal(classes.present, split.present)
    assert classes.confusion(3) == figures["confusion"]


def with_inputs(split, modality, row, value) -> ArraySplit:
    changed = split.inputs[modality].copy()
    changed[row, 2] = value
    return split._replace(inputs={**split.inputs, modality: changed})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_input_that_is_not_finite_is_named(mla, value):
    there = np.flatnonzero(mla.split.present[:, 1])
    row = int(there[-1])
    evaluator = mla.evaluators[3]
    words = rf"'b' holds NaN or infinity in 1 of the 70 examples of the test .* is example {row}: "
    with pytest.raises(UserError, match=words):
        evaluator(mla.state, with_inputs(mla.split, "b", row, value), 7, "test")
    absent = int(np.flatnonzero(~mla.split.present[:, 1])[0])
    figures = evaluator(mla.state, with_inputs(mla.split, "b", absent, value), 7)
    assert figures == evaluator(mla.state, mla.split, 7)


def test_logits_that_are_not_finite_are_counted(mla):
    """Not the end of a run: ``batch_entropy`` overflows as in the released code."""
    encoders = mla.state.params["encoder"]
    broken = {**encoders, "b": jax.tree.map(lambda x: x * np.nan, encoders["b"])}
    state = mla.state.replace(params={**mla.state.params, "encoder": broken})
    figures = mla.evaluators[3](state, mla.split, 7)
    expected = int(mla.split.present[:, 1].sum())
    assert figures["not_finite"]["b"] == expected and "a" not in figures["not_finite"]
    line = f"{expected} of 70 examples have 'b' logits that are NaN or infinite"
    assert line in report.figures_table(figures)
    epoch = {"epoch": 1, "train": {}, "test": figures}
    assert f"| test: {line}" in report.epoch_line(epoch, 2)


def test_the_case_is_not_trivial(mla):
    """The examples miss modalities, the modalities disagree, and some are wrong."""
    assert 0 < mla.split.present.mean() < 1
    assert (mla.unimodal[0] != mla.unimodal[1]).any()
    assert 0 < (mla.fused == mla.split.label).mean() < 1


def test_batch_entropy_sees_the_same_neighbours_on_any_number_of_devices(
    make_dataset, make_program
):
    options = {"method.fusion": "batch_entropy"}
    case = Case(make_dataset, make_program, method="mla", **options)
    batch_size, examples = 4, 67
    predicted = []
    for first in range(0, examples, batch_size):  # numpy's blocks: consecutive, the last one short
        rows = slice(first, min(first + batch_size, examples))
        block = jax.tree.map(lambda x, rows=rows: x[:, rows], case.prediction)
        fused = case.method.fuse(block, jnp.asarray(case.split.present[rows]), ())
        predicted += np.asarray(fused).argmax(-1).tolist()
    label = case.split.label[:examples]
    expected = numpy_figures(label, np.array(predicted), 3)[0]
    split = case.first(examples)
    figures = [case.evaluators[n](case.state, split, batch_size) for n in DEVICES]
    for found in figures:
        assert found["confusion"]["fused"] == expected
        np.testing.assert_equal(found, figures[0])


def test_summary_by_hand():
    fused = np.array([[3, 1, 0], [1, 2, 0], [0, 0, 0]])  # class 2 never occurs
    nobody = np.zeros((3, 3), int)
    figures = summarize(np.stack([fused, nobody]), ("a",))
    assert figures["examples"] == 7
    assert figures["fused"] == pytest.approx(5 / 7)
    assert figures["macro_f1"]["fused"] == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert np.isnan(figures["a"])
    assert np.isnan(figures["macro_f1"]["a"])
    assert accuracy(np.diag([2, 1])) == macro_f1(np.diag([2, 1])) == 1.0
