"""A run opened from its folder alone: prediction, evaluation, a place to start from."""

import json
import shutil

import jax
import numpy as np
import pytest

import mla_jax
from mla_jax import train
from mla_jax.config import fields
from mla_jax.datasets import arrays
from mla_jax.errors import Interrupted, UserError
from mla_jax.program import build_program
from mla_jax.runs import checkpoint, predictions
from mla_jax.runs.checkpoint import Checkpoints, read_state
from mla_jax.runs.run import is_run
from tests.conftest import build_config, build_dataset, digits_program
from tests.runs import SAID, config_of, good_inputs, open_run, quietly


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``runs(method)``: the folder of a finished run on the digits, trained once per method."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp("runs") / method
            quietly(config_of(method), made[method], digits_program(method)[0])
        return made[method]

    return run


# ---- Prediction ------------------------------------------------------------------------------


def test_examples_may_lack_modalities_one_by_one(runs):
    run, test = open_run(runs("mla")), digits_program("mla")[1].splits["test"]
    present = np.random.default_rng(0).random((test.examples, 2)) < 0.5
    present[~present.any(1), 0] = True
    found = run.predict(dict(test.inputs), present)
    assert (found.weights[~present] == 0).all()
    for i, m in enumerate(("audio", "text")):
        by = found.modalities[m]
        assert (by.classes >= 0).tolist() == present[:, i].tolist()
        assert np.isnan(by.probabilities[~present[:, i]]).all()
        whole = run.predict({m: test.inputs[m]}).modalities[m].logits
        np.testing.assert_allclose(by.logits[present[:, i]], whole[present[:, i]], rtol=1e-5)
    garbage = {m: x.copy() for m, x in test.inputs.items()}
    garbage["audio"][~present[:, 0]] = np.nan
    np.testing.assert_array_equal(run.predict(garbage, present).logits, found.logits)


@pytest.mark.parametrize(
    ("change", "present", "sentence"),
    [
        (lambda x: x.clear(), None, "give at least one of the modalities audio, text"),
        (lambda x: x.update(audoi=x.pop("audio")), None, "'audoi': did you mean 'audio'"),
        (lambda x: x.update(audio=x["audio"][:3]), None, "the same number of examples"),
        (lambda x: x.update(audio=x["audio"][:, :7]), None, r"'audio' is float32\[5, 7, 13\].*32,"),
        (lambda x: x.update(text=x["text"] / 2), None, r"'text' is float64.*int32\[N, 24\]"),
        (
            lambda x: x.update(text=x["text"] + np.int64(2**40)),
            None,
            r"values outside -2147483648 to \d+ in example 0",
        ),
        (
            lambda x: x["audio"].__setitem__((2, 0, 0), np.inf),
            None,
            "NaN, infinity or .* in example 2",
        ),
        (lambda x: None, np.ones((5, 3), bool), r"'present' is bool\[5, 3\]"),
        (lambda x: None, np.ones((5, 2)), r"'present' is float64"),
        (lambda x: None, np.eye(5, 2, dtype=bool), "example 2 has no modality"),
        (lambda x: x.update(audio=np.array(["a"] * 5)), None, "'audio' is <U1"),
    ],
)
def test_inputs_that_a_run_cannot_take(change, present, sentence, runs):
    inputs = {m: x.copy() for m, x in good_inputs().items()}
    change(inputs)
    spec = digits_program("mla")[1].spec()
    with pytest.raises(UserError, match=sentence):
        predictions.split_of_arrays(spec, inputs, present)


# ---- Opening ---------------------------------------------------------------------------------


def test_neither_the_training_data_nor_the_configuration_file_is_needed(tmp_path):
    dataset = build_dataset()
    folder = tmp_path / "data"
    folder.mkdir()
    for name, split in dataset.splits.items():
        np.savez(folder / f"{name}.npz", **split.inputs, label=split.label)
    config = build_config(epochs=1)
    config.dataset.name, config.dataset.path = "arrays", str(folder)
    config.selection = "validation"
    made = quietly(config, tmp_path / "run")
    assert is_run(tmp_path / "run") and not is_run(folder) and not is_run(tmp_path / "nothing")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    run = open_run(tmp_path / "elsewhere")
    test = dataset.splits["test"]
    assert (
        np.mean(run.predict(dict(test.inputs)).classes == test.label)
        == (made.selector.chosen["test"]["fused"])
    )
    assert run.class_names == ("0", "1", "2")
    with pytest.raises(UserError, match="is not a folder"):
        run.evaluate()
    changed = build_dataset(seed=1).splits
    folder.mkdir()
    for name, split in changed.items():
        np.savez(folder / f"{name}.npz", **split.inputs, label=split.label)
    with pytest.raises(UserError, match="the data has changed since"):
        run.evaluate()
    assert arrays.load(run.config.dataset, ("a", "b")).classes == 3


def test_the_chosen_epoch_and_the_last_one(tmp_path, monkeypatch):
    dataset = build_dataset()
    monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
    config = build_config(epochs=1, protocol="paper", **{"checkpoint.keep": 1})
    config.optimizer.learning_rate = 0.3  # so that the best epoch need not be the last
    test = dataset.splits["test"]
    quietly(config, tmp_path / "run")
    opened = open_run(tmp_path / "run")
    first = opened.predict(test)
    config.epochs = 4
    run = quietly(config, tmp_path / "run")
    scores = [line["test"]["fused"] for line in run.metrics]
    assert scores[0] < max(scores)
    for epoch, expected in (("chosen", max(scores)), ("last", scores[-1])):
        found = open_run(tmp_path / "run").predict(test, epoch=epoch)
        assert np.mean(found.classes == test.label) == expected
    with pytest.raises(UserError, match="unknown epoch of a run 'best'"):
        run.predict(test, epoch="best")
    assert np.mean(first.classes == test.label) == scores[0]
    expected = opened.predict(test)  # it has gone on since
    assert np.mean(expected.classes == test.label) == max(scores)
    monkeypatch.delattr(checkpoint, "_read_only")  # from now on, what was read is in memory
    np.testing.assert_array_equal(opened.predict(test).classes, expected.classes)


def test_a_resumed_run_keeps_the_checkpoint_of_the_chosen_epoch(tmp_path, monkeypatch):
    """It was chosen before the interruption, and later epochs are worse."""
    from mla_jax import distributed

    dataset = build_dataset()  # six batches per epoch
    monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
    linear = {"name": "features", "projection": "linear"}  # compiles in no time
    config = build_config(encoder=linear, epochs=3, selection="validation")
    config.checkpoint.keep = 1
    program = build_program(fields.resolve(config), dataset, jax.devices()[:1])
    evaluate = train.evaluate_all

    def worse_and_worse(*arguments):
        scores = evaluate(*arguments)
        epochs.append(len(epochs) + 1)
        scores["validation"]["fused"] = 1 / len(epochs)
        return scores

    class Stop(distributed.StopSignal):
        def __call__(self, step):
            self.received = 15
            return step == 8

    epochs = []
    monkeypatch.setattr(train, "evaluate_all", worse_and_worse)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "StopSignal", Stop)
        with pytest.raises(Interrupted, match="after batch 8"):
            quietly(config, tmp_path / "run", program)
    run = quietly(config, tmp_path / "run", program)
    assert len(epochs) == 3 and run.result["selection"]["step"] == 6
    assert sorted(int(p.name) for p in run.workdir.checkpoints.iterdir()) == [6, 18]
    open_run(tmp_path / "run").load()


def test_an_unfinished_run_can_be_opened_and_is_left_alone(tmp_path, monkeypatch):
    from mla_jax import distributed

    class StopAtTen(distributed.StopSignal):
        def __call__(self, step):
            self.received = 15
            return step == 10

    monkeypatch.setattr(distributed, "StopSignal", StopAtTen)
    with pytest.raises(Interrupted):
        quietly(config_of("mla"), tmp_path / "run", digits_program("mla")[0])
    before = sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*"))
    run = open_run(tmp_path / "run")
    assert run.result is None and "10 batches saved" in repr(run)
    assert len(run.predict(good_inputs()).classes) == 5
    assert sorted((p, p.stat().st_mtime_ns) for p in (tmp_path / "run").rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: (p / "config.json").unlink(), "holds no run"),
        (lambda p: (p / "data.json").unlink(), "data.json is missing"),
        (lambda p: (p / "data.json").write_text("{}"), "data.json is damaged"),
        (lambda p: shutil.rmtree(p / "checkpoints"), "has no checkpoint: train it first"),
        (lambda p: [f.unlink() for f in (p / "checkpoints").rglob("*") if f.is_file()], "cannot"),
    ],
)
def test_damaged_runs(damage, sentence, runs, tmp_path):
    path = shutil.copytree(runs("concat"), tmp_path / "run")
    damage(path)
    with pytest.raises(UserError, match=sentence):
        open_run(path).load()


def test_a_run_is_a_place_to_start_from(runs, tmp_path):
    source = open_run(runs("mla"))
    config = config_of("concat", init_from=str(runs("mla")), epochs=1)
    config.optimizer.learning_rate = 0.0
    run = quietly(config, tmp_path / "run")
    theirs, ours = source.load(), run.load()
    jax.tree.map(np.testing.assert_array_equal, theirs.params["encoder"], ours.params["encoder"])
    assert "initialised from" in "".join(SAID)


def test_the_public_names_make_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_dataset", lambda *arguments: build_dataset())
    run = mla_jax.train(build_config(epochs=1), tmp_path / "run", say=SAID.append)
    assert isinstance(run, mla_jax.Run) and run.result["test"]["fused"] > 0
    assert repr(mla_jax.open_run(tmp_path / "run")).endswith("finished)")


def test_reading_agrees_with_restoring(runs):
    run = open_run(runs("concat"))
    state = run.load()
    checkpoints = Checkpoints(run.workdir.checkpoints)
    restored, _ = checkpoints.restore(state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    with pytest.raises(UserError, match="there is no checkpoint"):
        read_state(run.workdir.checkpoints, 7, state)


# ---- What a review found ---------------------------------------------------------------------


def test_token_ids_that_the_encoder_does_not_know(runs):
    run, inputs = open_run(runs("mla")), good_inputs()
    for bad in (1024, -3):
        text = inputs["text"].copy()
        text[2, 0] = bad
        with pytest.raises(UserError, match="'text' holds values outside 0 to 1023 in example 2"):
            run.predict({**inputs, "text": text})
        present = np.ones((5, 2), bool)
        present[2, 1] = False
        assert len(run.predict({**inputs, "text": text}, present).classes) == 5


def test_numbers_too_large_for_the_runs_type(runs):
    inputs = {m: x.astype(np.float64) if m == "audio" else x for m, x in good_inputs().items()}
    inputs["audio"][3] *= 1e300
    with pytest.raises(UserError, match="too large for float32 in example 3"):
        open_run(runs("mla")).predict(inputs)


def test_logits_that_are_not_finite_are_refused(runs):
    inputs = good_inputs()
    inputs["audio"] = inputs["audio"].copy()
    inputs["audio"][1] = np.finfo(np.float32).max
    with pytest.raises(UserError, match="the logits of example 1 are not finite"):
        open_run(runs("mla")).predict(inputs)


def test_incomplete_examples_count_alike_in_predict_and_evaluate(tmp_path, monkeypatch):
    dataset = build_dataset(missing=0.4, seed=3)
    monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
    run = quietly(build_config(epochs=1), tmp_path / "run")
    test = dataset.splits["test"]
    for i, m in enumerate(run.modalities):
        there = test.present[:, i]
        assert 0 < there.sum() < test.examples
        found = run.predict({m: test.inputs[m][there]})
        figures = run.evaluate(test, m)
        assert figures["examples"] == there.sum()
        assert figures["fused"] == figures[m] == np.mean(found.classes == test.label[there])


def test_splits_in_another_order_are_refused(runs):
    run, test = open_run(runs("concat")), digits_program("concat")[1].splits["test"]
    swapped = test._replace(inputs=dict(reversed(test.inputs.items())))
    one = test._replace(inputs={"text": test.inputs["text"]}, present=test.present[:, :1])
    none = test._replace(label=test.label[:0], inputs={m: x[:0] for m, x in test.inputs.items()})
    for split, sentence in ((swapped, "in this order"), (one, "takes"), (none, "no examples")):
        for use in (run.predict, run.evaluate):
            with pytest.raises(UserError, match=sentence):
                use(split)
    with pytest.raises(UserError, match="give arrays by modality or a split"):
        run.predict(None)


def test_a_finished_run_of_an_earlier_version_gets_its_data_json(runs, tmp_path):
    path = shutil.copytree(runs("concat"), tmp_path / "run")
    (path / "data.json").unlink()
    config = json.loads((path / "config.json").read_text())
    del config["config"]["check_loss_every"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="repeat the command that trained the run"):
        open_run(path)
    quietly(config_of("concat"), path)
    assert open_run(path).config.check_loss_every == 50
    assert len(open_run(path).predict(good_inputs()).classes) == 5


def test_a_method_of_ones_own_must_be_registered(runs, tmp_path):
    path = shutil.copytree(runs("concat"), tmp_path / "run")
    text = (path / "config.json").read_text().replace('"name": "concat"', '"name": "mine"')
    (path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"method 'mine'.*mla_jax.methods.register"):
        open_run(path)


def test_a_damaged_checkpoint_is_one_short_sentence(runs, tmp_path):
    path = shutil.copytree(runs("concat"), tmp_path / "run")
    for file in (path / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged") as error:
        open_run(path).load()
    assert len(str(error.value)) < 400


def test_the_data_of_a_run_has_moved(runs):
    with pytest.raises(UserError, match="part of mla_jax: leave out --data_dir"):
        open_run(runs("concat")).evaluate(data_dir="elsewhere")
