"""The files of a run's folder: what is damaged is named, what is not a number is null."""

import json

import pytest

from mla_jax.errors import UserError
from mla_jax.runs import report
from mla_jax.runs.workdir import Workdir

TRAIN = {
    "epochs": 2, "stages": {"mla": 2}, "steps": 8, "seconds": 1.0, "examples_per_second": 9.5,
    "compile_seconds": 1.0, "evaluate_seconds": 0,
}  # fmt: skip
RESULT = {
    "dataset": "digits", "method": "mla", "fidelity": "paper", "protocol": "strict", "seed": 0,
    "parameters": 12, "versions": {"mla_jax": "0.1.0"}, "device": "1 x cpu", "commit": "",
    "selection": {"rule": "last", "epoch": 2, "step": 8},
    "test": {
        "examples": 4, "fused": 0.5, "image": 0.25, "audio": 1.0,
        "macro_f1": {"fused": 0.5, "image": 0.25, "audio": 1.0},
    },
    "train": TRAIN,
}  # fmt: skip
DAMAGE = {
    "dataset": "{'test': {}, 'train': {}, 'method': 'mla'}",
    "selection": "RESULT | {'selection': 'last'}",
    "selection.rule": "RESULT | {'selection': {}}",
    "test.examples": "RESULT | {'test': {}}",
    "test.fused": "RESULT | {'test': {'examples': 4, 'macro_f1': {}}}",
    "test.macro_f1": "RESULT | {'test': {'examples': 4, 'fused': 1, 'macro_f1': []}}",
    "test.audio": "RESULT | {'test': {'examples': 4, 'fused': 1, 'macro_f1': {'audio': 1}}}",
    "test.macro_f1.fused": "RESULT | {'test': {'examples': 4, 'fused': 1, 'macro_f1': {'fused': ''}}}",
    "train.seconds": "RESULT | {'train': TRAIN | {'seconds': '1'}}",
    "train.stages": "RESULT | {'train': {}}",
}
# ruff: noqa: E501


def folder_of(result, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result))
    return Workdir(tmp_path)


def test_a_sound_result(tmp_path):
    found = folder_of(RESULT, tmp_path).result()
    assert found == RESULT
    assert "audio           1.0000    1.0000" in report.result_table(found)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_shallow_result(name, tmp_path):
    """The sentence names what is missing."""
    workdir = folder_of(eval(DAMAGE[name]), tmp_path)
    with pytest.raises(
        UserError, match=rf"result\.json is damaged \(no sound '{name}'\): delete it"
    ):
        workdir.result()
