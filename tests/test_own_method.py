"""A method that the package does not know, registered by a configuration and trained by main."""

import json
import pathlib
import types

import pytest

from mla_jax import methods
from mla_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def test_a_toy_method_trains_through_main(commands, tmp_path):
    assert len((ROOT / "tests" / "toy_method.py").read_text().splitlines()) <= 32
    options = ["--config=tests/configs/toy.py", "--config.method.sharpness=1.5"]
    done = commands.run("mla_jax.main", [*options, f"--workdir={tmp_path / 'toy'}"])
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "toy" / "result.json").read_text())
    assert (result["method"], result["test"]["examples"]) == ("toy", 950)
    assert result["test"]["fused"] > 0.3  # chance is 0.1
    config = json.loads((tmp_path / "toy" / "config.json").read_text())["config"]
    assert config["method"] == {"name": "toy", "fidelity": "paper", "sharpness": 1.5}


def test_what_cannot_be_registered():
    with pytest.raises(UserError, match="there already is a method 'mla'"):
        methods.register("mla", methods.concat)
    with pytest.raises(UserError, match=r"'mine' cannot be registered: .* has no FIDELITY"):
        methods.register("mine", types.ModuleType("mine"))
    methods.register("mla", methods.mla)  # a configuration may be loaded twice
    assert "mine" not in methods.REGISTRY
