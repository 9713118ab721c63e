"""A finished run that goes on for more epochs, or is refused to."""

import functools
import json

import jax
import numpy as np
import pytest

from mla_jax.config import fields
from mla_jax.datasets import load_dataset
from mla_jax.errors import Interrupted, UserError
from mla_jax.program import build_program
from tests.runs import config_of, open_run
from tests.runs import quietly as train_quietly

CONSTANT = {"optimizer.schedule": "constant"}


def quietly(config, path):
    """``runs.quietly`` with one program for all runs of equal configurations here."""
    return train_quietly(config, path, program_of(fields.resolve(config, 1)))


@functools.cache
def program_of(config):
    dataset = load_dataset(config.dataset, config.modalities)
    return build_program(config, dataset, jax.devices()[:1])


@pytest.mark.parametrize("method", ["mla", "concat", "qmf"])
def test_more_epochs_are_the_longer_run_bit_for_bit(method, tmp_path):
    short, long = config_of(method, **CONSTANT), config_of(method, epochs=5, **CONSTANT)
    quietly(short, tmp_path / "extended")
    first = json.loads((tmp_path / "extended" / "result.json").read_text())
    quietly(long, tmp_path / "extended")
    quietly(long, tmp_path / "straight")
    states, lines, results = [], [], []
    for name in ("extended", "straight"):
        run = open_run(tmp_path / name)
        states.append(run.load())
        lines.append([{k: v for k, v in line.items() if k != "time"} for line in run.metrics])
        results.append({k: v for k, v in run.result.items() if k != "train"})
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert lines[0] == lines[1] and results[0] == results[1]
    kept = json.loads((tmp_path / "extended" / "result-3-epochs.json").read_text())
    assert kept == first and open_run(tmp_path / "extended").config.epochs == 5
    with pytest.raises(UserError, match="epochs: 5 -> 3"):
        quietly(short, tmp_path / "extended")


def test_a_longer_run_that_is_stopped_goes_on(tmp_path, monkeypatch):
    from mla_jax import distributed

    quietly(config_of("concat", **CONSTANT), tmp_path / "cut")
    long = config_of("concat", epochs=5, **CONSTANT)

    class Stop(distributed.StopSignal):
        def __call__(self, step):
            self.received = 15
            return step == 90

    with monkeypatch.context() as patch:
        patch.setattr(distributed, "StopSignal", Stop)
        with pytest.raises(Interrupted):
            quietly(long, tmp_path / "cut")
    run = quietly(long, tmp_path / "cut")
    straight = quietly(long, tmp_path / "straight")
    jax.tree.map(np.testing.assert_array_equal, run.load(), straight.load())


@pytest.mark.parametrize(
    ("method", "overrides", "reason"),
    [
        ("concat", {"optimizer.schedule": "cosine"}, "schedule=cosine ends with the last epoch"),
        ("concat", {"optimizer.decay_every": 0}, "decay_every=0 lowers the learning rate at 70 %"),
        ("dimml", CONSTANT, "dimml trains its fused head after the last epoch"),
        (
            "concat",
            {**CONSTANT, "evaluation.every_epochs": 2, "selection": "validation"},
            "evaluation.every_epochs=2 would skip",
        ),
    ],
)
def test_epochs_that_are_not_the_first_of_the_longer_run(method, overrides, reason, tmp_path):
    short = config_of(method, **{**overrides, "epochs": 1})
    quietly(short, tmp_path / "run")
    files_before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=reason) as error:
        quietly(config_of(method, **overrides), tmp_path / "run")
    assert "--config.init_from=" in str(error.value)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == files_before


def test_a_run_that_cannot_be_restored_stays_what_it_was(tmp_path):
    quietly(config_of("concat", epochs=1, **CONSTANT), tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    with pytest.raises(UserError, match="all checkpoints"):
        quietly(config_of("concat", epochs=2, **CONSTANT), tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.config.epochs == 1 and run.result["train"]["epochs"] == 1
