"""Tiny runs on the digits, shared by the tests of runs."""

import jax

from mla_jax import train
from mla_jax.config import files
from mla_jax.runs.run import open_run as open_on_all
from tests.conftest import TINY, digits_program

SAID: list[str] = []


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
