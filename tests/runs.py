"""Tiny runs on the digits, shared by the tests of runs."""

import json
import pathlib
import signal

import jax
import numpy as np

from mla_jax import train
from mla_jax.config import files
from mla_jax.data import pipeline
from mla_jax.program import initial_state
from mla_jax.runs import metrics
from mla_jax.runs.checkpoint import Checkpoints
from mla_jax.runs.run import open_run as open_on_all
from tests.conftest import TINY, digits_program

SAID: list[str] = []
PER_EPOCH = 26  # 1700 examples in batches of 64


def open_run(path):
    """On one device: evaluating on all eight would compile for each."""
    return open_on_all(path, devices=jax.devices()[:1])


def quietly(config, path, program=None):
    """Trains on one device; what it says goes to ``SAID``."""
    return train.train(config, path, program, jax.devices()[:1], SAID.append)


def config_of(method, **overrides):
    """Three epochs of ``configs/tiny.py``."""
    modalities = "audio" if method == "unimodal" else "audio+text"
    chosen = {"method": method, "modalities": modalities}
    return files.load_config(TINY, {"epochs": 3, **overrides}, chosen)


def good_inputs():
    """Five test examples for a run of ``config_of("mla")``."""
    return {m: x[:5] for m, x in digits_program("mla")[1].splits["test"].inputs.items()}


# ---- Runs that are cut and go on ----------------------------------------------------------------


def run(config, path, say=None):
    """The result of a run on one device, with a program that all runs of its method share."""
    program, _ = digits_program(config.method.name)
    return train.train(config, path, program, jax.devices()[:1], say or (lambda line: None)).result


def unbroken(method: str, folder: pathlib.Path) -> pathlib.Path:
    """The directory of a run that nothing cuts, made in ``folder``."""
    run(config_of(method), folder / "straight")
    return folder / "straight"


def signal_at(monkeypatch, batch: int, number: int = signal.SIGTERM) -> None:
    """Sends this process a real signal while it loads batch ``batch`` (from 0)."""
    original = pipeline.training_batches

    def loader(split, batch_size, seed, start=0, *process):
        for i, item in enumerate(original(split, batch_size, seed, start, *process), start):
            if i == batch:
                signal.raise_signal(number)
            yield item

    monkeypatch.setattr(pipeline, "training_batches", loader)


def lines_without_time(path: pathlib.Path) -> list[dict]:
    lines = metrics.read_lines(path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def final_state(path: pathlib.Path, config):
    checkpoints = Checkpoints(path / "checkpoints")
    like = initial_state(*digits_program(config.method.name), 0)
    state, progress = checkpoints.restore(like)
    checkpoints.close()
    return state, progress


def assert_same_run(a: pathlib.Path, b: pathlib.Path, config) -> None:
    (state_a, progress_a), (state_b, progress_b) = final_state(a, config), final_state(b, config)
    leaves_a, leaves_b = jax.tree.leaves_with_path(state_a), jax.tree.leaves_with_path(state_b)
    assert len(leaves_a) == len(leaves_b) > 0
    for (path, x), (_, y) in zip(leaves_a, leaves_b, strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path))
    assert progress_a["batches"] == progress_b["batches"]
    assert lines_without_time(a) == lines_without_time(b)
    results = [json.loads((path / "result.json").read_text()) for path in (a, b)]
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["selection"] == results[1]["selection"]
