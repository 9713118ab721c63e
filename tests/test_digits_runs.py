"""Runs of every method on the digits: losses that fall, cut and resumed, opened to predict.

One unbroken run of each method, made once, serves them all.
"""

import functools
import signal

import jax
import numpy as np
import pytest

from mla_jax import methods
from mla_jax.data.missing import MaskedSplit
from mla_jax.errors import Interrupted
from mla_jax.runs.metrics import RunningMeans
from mla_jax.runs.predictions import read_classes
from tests.conftest import digits_program
from tests.runs import (
    PER_EPOCH,
    assert_same_run,
    config_of,
    final_state,
    lines_without_time,
    open_run,
    run,
    signal_at,
    unbroken,
)

KILLED_METHODS = ("dimml", "mla", "ogm_ge", "qmf")
"""Those whose method state is more than nothing: a projection, masks, a history, a key."""


GOES_ON = [("tate", "missing")]
"""A method's stage whose first losses are those of a network that is trained already."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(method)``: the directory of an unbroken run, and ``(epoch, loss)`` of every update."""

    @functools.cache
    def make(method: str):
        losses, add = [], RunningMeans.add

        def noting(means, step, epoch, phase, metrics, *rest):
            losses.append((epoch, metrics["loss"]))
            add(means, step, epoch, phase, metrics, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunningMeans, "add", noting)
            path = unbroken(method, tmp_path_factory.mktemp(method))
        return path, [(epoch, float(loss)) for epoch, loss in losses]

    return make


@pytest.fixture(scope="module")
def straight(made):
    return lambda method: made(method)[0]


@pytest.fixture(scope="module")
def opened(straight):
    """``opened(method)``: the unbroken run as its directory alone makes it, opened once."""
    return functools.cache(lambda method: open_run(straight(method)))


@pytest.mark.parametrize("method", methods.REGISTRY)
def test_every_stage_lowers_the_loss(method, made):
    """From the first fifth of its first epoch to the last; where a stage goes on from a trained
    network, to the last fifth of one of its epochs."""
    first = 1
    for stage in digits_program(method)[0].method.stages:
        epochs = range(first, first := first + stage.epochs)
        losses = [loss for epoch, loss in made(method)[1] if epoch in epochs]
        if not stage.phases:  # solved in closed form
            assert not losses
            continue
        assert len(losses) == PER_EPOCH * len(stage.phases) * stage.epochs
        epochs = np.reshape(losses, (stage.epochs, -1))
        fifth = epochs.shape[1] // 5
        assert np.isfinite(losses).all()
        falls = epochs if (method, stage.name) in GOES_ON else epochs[:1]
        assert falls[:, -fifth:].mean(1).min() < epochs[0, :fifth].mean()


@pytest.mark.parametrize("method", methods.REGISTRY)
def test_every_method_predicts_better_than_chance(method, opened):
    """Ten classes, 950 examples: 0.13 is three standard deviations above 0.1."""
    assert opened(method).result["test"]["fused"] > 0.13


# ---- Cut and resumed ---------------------------------------------------------------------------

INSIDE, AT_THE_END = PER_EPOCH + 9, PER_EPOCH - 1
CUTS = [(method, 9 if method == "cca" else INSIDE) for method in methods.REGISTRY]
CUTS += [("mla", AT_THE_END), ("dimml", AT_THE_END), ("dimml", 3 * PER_EPOCH + 4)]
CUTS += [("dcca", 3 * PER_EPOCH - 1), ("dcca", 3 * PER_EPOCH + 4)]
"""CCA has one epoch.  DI-MML splits its dimensions after epoch 1 and is in its second stage after
epoch 3; DCCA fits its SVM after epoch 3."""


@pytest.mark.parametrize(("method", "batch"), CUTS)
def test_sigterm_and_resume(method, batch, straight, tmp_path, monkeypatch):
    config = config_of(method)
    with monkeypatch.context() as patch:
        signal_at(patch, batch)
        with pytest.raises(Interrupted, match=f"stopped after batch {batch + 1}"):
            run(config, tmp_path / "cut")
    said = []
    run(config, tmp_path / "cut", said.append)
    total = sum(s.epochs for s in digits_program(method)[0].method.stages) * PER_EPOCH
    assert said[0] == f"resuming {tmp_path / 'cut'} after batch {batch + 1} of {total}"
    assert_same_run(straight(method), tmp_path / "cut", config)


@pytest.mark.parametrize("method", KILLED_METHODS)
def test_kill_9_and_resume(method, commands, straight, tmp_path):
    """A killed process leaves a metrics file that runs ahead of its newest checkpoint."""
    arguments = f"method={method},modalities=audio+text"
    done = commands.run("tests.killed_run", [arguments, str(tmp_path / "cut"), "57"])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert lines_without_time(tmp_path / "cut")[-1]["step"] == 2 * PER_EPOCH
    run(config_of(method), tmp_path / "cut")
    assert_same_run(straight(method), tmp_path / "cut", config_of(method))


# ---- Prediction --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", methods.REGISTRY)
def test_predictions_are_those_that_the_result_counts(method, opened):
    run = opened(method)
    test = digits_program(method)[1].splits["test"]
    found, expected = run.predict(dict(test.inputs)), run.result["test"]
    assert np.mean(found.classes == test.label) == expected["fused"]
    for m in run.modalities:
        assert np.mean(found.modalities[m].classes == test.label) == expected[m]
    np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(1), found.classes)
    again = run.evaluate("test")
    assert {k: again[k] for k in expected} == expected
    kept = read_classes(run.workdir.predictions)  # of the chosen epoch, example by example
    assert kept.confusion(10) == again["confusion"] and kept.modalities == run.modalities
    np.testing.assert_array_equal(kept.fused, found.classes)
    np.testing.assert_array_equal(kept.label, test.label)
    masked = MaskedSplit(test, np.ones_like(test.present))
    assert run.evaluate(masked) == again, "a mask that hides nothing changes nothing"
    np.testing.assert_array_equal(run.predict(masked).logits, found.logits)
    if found.weights is not None:  # the fused logits are what the weights make of the others
        logits = [found.modalities[m].logits for m in run.modalities]
        if found.weights.shape[1] == len(logits):
            total = np.einsum("nm,mnc->nc", found.weights, np.stack(logits))
            np.testing.assert_allclose(total, found.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", sorted(set(methods.REGISTRY) - {"unimodal"}))
@pytest.mark.parametrize("shown", ["audio", "text"])
def test_a_modality_that_is_left_out_counts_as_missing(method, shown, opened):
    run = opened(method)
    test = digits_program(method)[1].splits["test"]
    found, expected = run.predict({shown: test.inputs[shown]}), run.evaluate("test", [shown])
    assert set(found.modalities) == {shown}
    assert np.mean(found.classes == test.label) == expected["fused"]
    assert np.mean(found.modalities[shown].classes == test.label) == expected[shown]


@pytest.mark.parametrize("method", sorted(set(methods.REGISTRY) - {"unimodal"}))
def test_every_subset_is_evaluated_as_if_it_were_all(method, opened):
    run = opened(method)
    test = digits_program(method)[1].splits["test"]
    found = run.subsets(test)
    assert list(found) == ["audio", "text", "audio+text", "incomplete"]
    for shown in ("audio", "text", "audio+text"):
        expected = run.evaluate(test, shown)
        assert found[shown]["accuracy"] == expected["fused"]
        assert found[shown]["macro_f1"] == expected["macro_f1"]["fused"]
        assert found[shown]["examples"] == test.examples
    alone = [found["audio"]["accuracy"], found["text"]["accuracy"]]
    assert found["incomplete"]["accuracy"] == pytest.approx(np.mean(alone), abs=1e-12)
    assert found["incomplete"]["examples"] == 2 * test.examples


@pytest.mark.parametrize("method", ["ae", "cca", "mla"])
def test_masks_that_hide_nothing_change_nothing(method, straight, tmp_path):
    """Also where the method gets to see what masks hide."""
    config = config_of(method)
    config.missing.rule = "rate"
    result = run(config, tmp_path / "masked")
    states = [final_state(path, config)[0] for path in (straight(method), tmp_path / "masked")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    plain = open_run(straight(method)).result
    assert {k: result[k] for k in ("validation", "test")} == {
        k: plain[k] for k in ("validation", "test")
    }
    assert result["missing"]["true_rate"] == {"train": 0, "validation": 0, "test": 0}
