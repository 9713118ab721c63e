"""The loop's outcomes other than success, selection, and what a run leaves behind."""

import json

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields
from mla_jax.datasets import ArraySplit, Dataset
from mla_jax.errors import NonFiniteLossError, UserError
from mla_jax.program import build_program, initial_state
from mla_jax.runs import initial, metrics, selection
from mla_jax.runs.checkpoint import Checkpoints
from tests.conftest import FEATURES, build_config, build_dataset


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a configuration on a data set made in the test, on one device."""

    def run(config, dataset=None, path=tmp_path / "run", say=lambda line: None):
        dataset = dataset or build_dataset(tuple(config.modalities))
        monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
        return train.train(config, path, devices=jax.devices()[:1], say=say).result

    return run


def test_what_a_run_leaves_behind(run, tmp_path, drawing):
    said = []
    result = run(build_config(), say=said.append)
    path = tmp_path / "run"
    assert json.loads((path / "result.json").read_text()) == result
    assert {p.name for p in path.iterdir()} >= {
        "config.json", "metrics.jsonl", "result.json", "report.md", "curves.png", "confusion.png",
        "confusion.json", "checkpoints",
    }  # fmt: skip
    for name in ("curves.png", "confusion.png"):
        assert (path / name).read_bytes().startswith(b"\x89PNG")
    assert set(result) >= {
        "dataset", "method", "fidelity", "protocol", "seed", "modalities", "test", "train",
        "versions", "commit",
    }  # fmt: skip
    assert set(result["test"]) == {"fused", "a", "b", "examples", "macro_f1", "weighted_f1"}
    assert result["test"]["examples"] == 40
    assert result["train"]["steps"] == 2 * 6 * 2  # epochs, batches, modalities
    lines = metrics.read_lines(path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [6, 12]
    assert set(lines[0]["train"]) == {"a/loss", "a/accuracy", "b/loss", "b/accuracy"}
    assert json.loads((path / "config.json").read_text())["config"]["method"]["fusion"] == "entropy"
    report = (path / "report.md").read_text()
    assert "curves.png" in report and f"{result['test']['fused']:.4f}" in report
    assert any(line.startswith("epoch   2/2") for line in said)


def with_nan(dataset: Dataset, example: int, modality: str) -> Dataset:
    split = dataset.splits["train"]
    inputs = {m: array.copy() for m, array in split.inputs.items()}
    inputs[modality][example, 1] = np.nan
    splits = {**dataset.splits, "train": ArraySplit(inputs, split.label, split.present)}
    return dataset._replace(splits=splits)


def test_non_finite_input_names_modality_and_example(run, tmp_path):
    with pytest.raises(NonFiniteLossError) as error:
        run(build_config(check_loss_every=1), with_nan(build_dataset(), 17, "b"))
    assert "the loss of 'b' is nan" in str(error.value)
    assert "on training examples 17 (their b holds NaN" in str(error.value)
    line = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert line["event"] == "non-finite loss" and line["examples"] == [17]
    assert f"at batch {line['step']} (epoch {line['epoch']})" in str(error.value)
    assert not (tmp_path / "run" / "result.json").exists()


def test_diverging_loss_stops_after_flushing_the_metrics(run, tmp_path):
    config = build_config(**{"optimizer.learning_rate": 1e25, "epochs": 20})
    with pytest.raises(NonFiniteLossError, match=r"lower optimizer.learning_rate"):
        run(config)
    lines = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["event"] == "non-finite loss" and lines[-1]["examples"]


def test_a_batch_larger_than_the_split(run):
    with pytest.raises(UserError, match="96 examples, fewer than batch_size=128"):
        run(build_config(batch_size=128))


def test_selection_on_validation_keeps_the_best_epoch(run, tmp_path):
    config = build_config(selection="validation", epochs=4)
    result = run(config, build_dataset(seed=3))
    lines = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
    scores = [line["validation"]["fused"] for line in lines]
    best = int(np.argmax(scores))  # the earliest of equals
    assert result["selection"] == {"rule": "validation", "epoch": best + 1, "step": 6 * (best + 1)}
    assert result["test"] == lines[best]["test"]
    kept = {int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {18, 24, 6 * (best + 1)}


@pytest.mark.parametrize(
    ("protocol", "asked", "rule"),
    [
        ("strict", "auto", "validation"),
        ("strict", "last", "last"),
        ("paper", "auto", "best_test"),
        ("paper", "validation", "validation"),
    ],
)
def test_selection_rules(protocol, asked, rule):
    config = fields.resolve(build_config(protocol=protocol, selection=asked))
    selector = selection.Selector(config, build_dataset().spec())
    assert selector.rule == rule
    scores = [(0.5, 0.7), (0.9, 0.6), (0.9, 0.9), (0.8, 0.8)]  # validation, test
    for epoch, (validation, test) in enumerate(scores, 1):
        selector.offer(
            epoch, epoch * 10, {"validation": {"fused": validation}, "test": {"fused": test}}
        )
    assert selector.chosen["epoch"] == {"validation": 2, "last": 4, "best_test": 3}[rule]


def test_a_data_set_may_rule_out_its_validation_split():
    dataset = build_dataset()._replace(select_on_validation=False)
    for protocol, rule in (("strict", "last"), ("paper", "best_test")):
        config = fields.resolve(build_config(protocol=protocol))
        assert selection.Selector(config, dataset.spec()).rule == rule


def test_selection_needs_a_validation_split():
    dataset = build_dataset()
    splits = {name: split for name, split in dataset.splits.items() if name != "validation"}
    config = fields.resolve(build_config(selection="validation"))
    with pytest.raises(UserError, match="no validation split: set selection=last"):
        selection.Selector(config, dataset._replace(splits=splits).spec())


def test_evaluation_every_few_epochs_and_always_at_the_end(run, tmp_path):
    run(build_config(**{"evaluation.every_epochs": 2, "epochs": 3}))
    lines = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
    assert ["test" in line for line in lines] == [False, True, True]


def test_tensorboard_when_installed(run, tmp_path):
    pytest.importorskip("tensorboardX")
    run(build_config())
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_a_run_that_starts_from_a_checkpoint(run, tmp_path, monkeypatch):
    """The wiring alone; ``tests/test_convert.py`` has the real conversions."""
    asked = []

    def initialize_from(path, state, say, conventions):
        asked.append(path)
        assert set(conventions) == {"a", "b"}
        return state.replace(params=jax.tree.map(lambda x: 2 * x + 1, state.params))

    monkeypatch.setattr(initial, "initialize_from", initialize_from)
    config, dataset = build_config(init_from="weights.pth", epochs=1), build_dataset()
    config.optimizer.learning_rate = 0.0
    run(config, dataset)
    program = build_program(fields.resolve(config), dataset, jax.devices()[:1])
    fresh = initial_state(program, dataset, config.seed)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    trained, _ = checkpoints.restore(fresh)
    checkpoints.close()
    expected = jax.tree.map(lambda x: 2 * x + 1, fresh.params)
    jax.tree.map(np.testing.assert_array_equal, trained.params, expected)
    assert asked == ["weights.pth"]


def test_a_checkpoint_to_start_from_that_is_not_there(run, tmp_path):
    config = build_config(init_from=str(tmp_path / "nothing.pth"))
    with pytest.raises(UserError, match=r"nothing\.pth"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_missing_modalities_train_and_evaluate(run, tmp_path):
    config = build_config(modalities=("a", "b", "c"))
    dataset = build_dataset(("a", "b", "c"), missing=0.4, seed=5)
    result = run(config, dataset)
    assert 0 < result["test"]["fused"] <= 1
    report = (tmp_path / "run" / "report.md").read_text()
    counts = {"fused": 40} | dict(zip("abc", dataset.splits["test"].present.sum(0), strict=True))
    for name, examples in counts.items():  # how many examples each figure is over
        accuracy, f1 = result["test"][name], result["test"]["macro_f1"][name]
        assert f"| {name} | {accuracy:.4f} | {f1:.4f} | {examples} |" in report
    for label, name in enumerate(dataset.class_names):
        assert f"| {name} | {(dataset.splits['test'].label == label).sum()} | 0." in report


def test_precomputed_features_have_nothing_to_train_but_the_head(run, tmp_path):
    features = {"encoder": {"name": "features"}, "feature_dim": FEATURES}
    result = run(build_config(epochs=2, **features))
    assert result["test"]["fused"] > 0.5  # of three classes
    (tmp_path / "run" / "result.json").unlink()
    assert run(build_config(epochs=2, **features))["test"] == result["test"]  # restored


def test_a_fresh_state_is_the_same_on_any_devices():
    dataset, states = build_dataset(), []
    for count in (1, 8):
        config = fields.resolve(build_config())
        program = build_program(config, dataset, jax.devices()[:count])
        states.append(initial_state(program, dataset, seed=3))
        for leaf in jax.tree.leaves(states[-1]):
            assert leaf.sharding == program.placement.replicated
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_training_on_several_devices_equals_one(tmp_path, monkeypatch):
    dataset = build_dataset()
    monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
    lines = []
    for count in (1, 8):
        path = tmp_path / str(count)
        train.train(build_config(), path, devices=jax.devices()[:count], say=lambda line: None)
        lines.append(metrics.read_lines(path / "metrics.jsonl"))
    for one, eight in zip(*lines, strict=True):
        for name, value in one["train"].items():
            np.testing.assert_allclose(eight["train"][name], value, rtol=1e-4, err_msg=name)
        assert one["test"]["examples"] == eight["test"]["examples"] == 40
