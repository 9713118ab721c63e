"""Runs in which modalities are missing, and batches that are not full."""

import json
import math
import signal

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields
from mla_jax.data import pipeline
from mla_jax.datasets import ArraySplit
from mla_jax.errors import Interrupted
from mla_jax.runs import metrics
from tests.conftest import BATCH, build_config, build_dataset
from tests.runs import open_run

LINEAR = {"name": "features", "projection": "linear"}  # compiles in no time
EXAMPLES = 2 * BATCH + 4


def lacking_b(dataset, rows):
    """``dataset`` with modality b missing from some training examples; its inputs stay there."""
    split = dataset.splits["train"]
    present = split.present.copy()
    present[rows, 1] = False
    splits = {**dataset.splits, "train": ArraySplit(split.inputs, split.label, present)}
    return dataset._replace(splits=splits, fingerprint="lacking b")


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(config, dataset, path=tmp_path / "run", say=lambda line: None):
        monkeypatch.setattr(train, "load_dataset", lambda *arguments: dataset)
        return train.train(config, path, devices=jax.devices()[:1], say=say).result

    return run


def reported(loss, examples):
    return {
        "loss": np.float32(loss),
        "examples": np.int32(examples),
        "example_loss": np.zeros(4, np.float32),
    }


def test_means_over_an_epoch_count_the_examples_that_took_part():
    means = metrics.RunningMeans({}, lambda index: None)
    for loss, examples in ((3.0, 4), (5.0, 2), (0.0, 0)):
        means.add(1, 1, "b", reported(loss, examples), np.arange(4))
        means.add(1, 1, "c", reported(0.0, 0), np.arange(4))
        means.add(1, 1, "own", {k: v for k, v in reported(loss, 0).items() if k != "examples"},
                  np.arange(4))  # fmt: skip
    means.drain()
    found = means.means()
    assert found["b/loss"] == pytest.approx((3 * 4 + 5 * 2) / 6)
    assert math.isnan(found["c/loss"]), "no example had it: there is no loss"
    assert found["own/loss"] == pytest.approx(8 / 3), "batches count alike without 'examples'"
    assert not any(name.endswith("examples") for name in found)


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_loss_of_a_modality_is_over_those_that_have_it(everywhere, run, tmp_path):
    """Where nobody ever has it, its encoder stays as it was made and its loss is null."""
    dataset = build_dataset(train=2 * BATCH)
    rows = np.arange(2 * BATCH) if everywhere else np.arange(BATCH)
    config = build_config(method="mla", encoder=LINEAR, epochs=1)
    said = []
    run(config, lacking_b(dataset, rows), say=said.append)
    (line,) = metrics.read_lines(tmp_path / "run" / "metrics.jsonl")
    if everywhere:
        assert line["train"]["b/loss"] is None and line["train"]["b/accuracy"] is None
        assert any("b nan" in text for text in said)
    else:
        assert 0.5 < line["train"]["b/loss"] < 3, "not halved by batches without the modality"


def test_released_code_trains_on_the_last_partial_batch(run, tmp_path, monkeypatch):
    """Bit for bit when it is cut in that very batch, which is padded."""
    config = build_config(method="late_fusion", fidelity="released", encoder=LINEAR)
    dataset = build_dataset(train=EXAMPLES)
    assert fields.resolve(config).drop_last is False
    assert fields.resolve(build_config()).drop_last is True
    original = pipeline.training_batches

    def signalled(*arguments):
        for number, batch in enumerate(original(*arguments)):
            if number == 2:
                assert batch["valid"].sum() == EXAMPLES % BATCH
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "training_batches", signalled)
        with pytest.raises(Interrupted, match="stopped after batch 3"):
            run(config, dataset, tmp_path / "cut")
    results = [run(config, dataset, tmp_path / name) for name in ("cut", "straight")]
    lines = [metrics.read_lines(tmp_path / name / "metrics.jsonl") for name in ("cut", "straight")]
    assert [{**line, "time": 0} for line in lines[0]] == [{**line, "time": 0} for line in lines[1]]
    assert results[0]["test"] == results[1]["test"]
    assert results[1]["train"]["batches"] == 2 * 3


@pytest.mark.parametrize(("method", "fidelity"), [("mla", "released"), ("dimml", "paper")])
def test_runs_of_earlier_versions_go_on_and_open(method, fidelity, run, tmp_path):
    """Through the code that a user meets: the same command again, and ``open_run``."""
    old = {"drop_last": True, "absent": "skip", "head_init": "xavier"}
    if method == "dimml":
        old |= {"method.norm_scale_std": 0.0, "method.duc_weight": 1.0}
    config = build_config(method=method, fidelity=fidelity, encoder=LINEAR, **old)
    result, path = run(config, build_dataset()), tmp_path / "run"
    saved = json.loads((path / "config.json").read_text())
    for field in (*old, "dataset.noise"):
        group, _, name = field.rpartition(".")
        del (saved["config"][group] if group else saved["config"])[name]
    (path / "config.json").write_text(json.dumps(saved))
    said = []
    assert run(config, build_dataset(), say=said.append) == result
    assert "holds a finished run" in said[0]
    opened = open_run(path)
    assert (opened.config.drop_last, opened.config.absent) == (True, "skip")
    assert opened.config.method.to_dict() == fields.resolve(config).method.to_dict()
