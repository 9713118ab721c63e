"""The files of a run's folder: what is damaged is named, what is not a number is null."""

import json
import math
import signal

import numpy as np
import pytest

from mla_jax import train
from mla_jax.compare import table
from mla_jax.compare.variants import Variant
from mla_jax.config import fields
from mla_jax.errors import Interrupted, UserError
from mla_jax.evaluate import __main__ as evaluate
from mla_jax.runs import report
from mla_jax.runs.run import open_run
from mla_jax.runs.selection import Selector
from mla_jax.runs.workdir import Workdir, foreign

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


def test_bytecode_alone_is_nobody_s(tmp_path):
    """Python writes it beside a configuration file, which may be gone."""
    (tmp_path / "__pycache__").mkdir()
    assert foreign(tmp_path, ()) == ""
    (tmp_path / "data").mkdir()
    assert foreign(tmp_path, ()) == "data"


def test_a_sound_result(tmp_path):
    found = folder_of(RESULT, tmp_path).result()
    assert found == RESULT
    assert "audio           1.0000    1.0000" in report.result_table(found)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_shallow_result(name, tmp_path):
    """The sentence names what is missing."""
    workdir = folder_of(eval(DAMAGE[name]), tmp_path)
    with pytest.raises(
        UserError, match=rf"result\.json is damaged \(no valid '{name}'\): delete it"
    ):
        workdir.result()


# ---- Figures that are no numbers ---------------------------------------------------------------


def strict(path):
    """The objects of a file of JSON lines, or the one of a JSON file; NaN is refused."""

    def refuse(word):
        raise AssertionError(f"{path} has {word}")

    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [json.loads(line, parse_constant=refuse) for line in lines]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Validation and test examples all lack the modality b, and only these have class 2."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    for part, n in {"train": 32, "validation": 8, "test": 8}.items():
        there = np.array([[True, part == "train"]] * n)
        inputs = {m: rng.normal(size=(n, 4)) for m in "ab"}
        label = np.arange(n) % (2 if part == "train" else 3)
        np.savez(folder / f"{part}.npz", label=label, present=there, **inputs)
    config = fields.base_config()
    config.dataset = fields.dataset_block("arrays")
    config.dataset.path = str(folder)
    config.modalities = ("a", "b")
    config.method = fields.method_block("late_fusion")
    config.encoders = {m: {"name": "features", "projection": "linear"} for m in "ab"}
    config.feature_dim, config.batch_size, config.epochs = 4, 16, 3
    config.compute_dtype = "float32"
    return config


def test_no_file_of_a_run_has_nan(config, tmp_path, capsys):
    """A figure that is no number is null, and shown; a resumed run is equal, from old files too."""
    lines = []
    path, cut = tmp_path / "run", tmp_path / "cut"
    result = train.train(config, path, say=lines.append).result
    assert [r["test"]["b"] for r in strict(path / "result.json")] == [None]
    assert [line["test"]["b"] for line in strict(path / "metrics.jsonl")] == [None] * 3
    assert result["test"]["b"] is result["test"]["macro_f1"]["b"] is None
    assert result["test"]["fused"] >= 0
    assert any("b nan" in line for line in lines)
    assert "| b | – | – | 0 |" in (path / "report.md").read_text(encoding="utf-8")
    untrained = "2 of the 8 test examples are of 1 class that no training example has: 2"
    assert untrained in lines[0] and untrained in (path / "report.md").read_text()
    train.train(config, path, say=lines.append)
    assert "  b                  nan       nan" in lines[-1]
    saved = tmp_path / "figures.json"
    assert evaluate.main([f"--run={path}", f"--output={saved}"]) == 0
    assert strict(saved)[0]["b"] is None and "nan" in capsys.readouterr().out

    def stop(line):
        if line.startswith("epoch   1"):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train.train(config, cut, say=stop)
    written = (cut / "metrics.jsonl").read_text()
    assert "null" in written
    (cut / "metrics.jsonl").write_text(written.replace("null", "NaN"))  # as it was written before
    train.train(config, cut, say=lines.append)
    kept = [[{**line, "time": 0} for line in strict(p / "metrics.jsonl")] for p in (path, cut)]
    assert kept[0] == kept[1]
    assert open_run(cut).result["test"] == result["test"]
    assert open_run(cut).result["selection"] == result["selection"]


@pytest.mark.parametrize("nothing", [None, math.nan])
def test_a_comparison_takes_and_writes_null(nothing, tmp_path):
    test = {**RESULT["test"], "audio": nothing}
    result = folder_of(RESULT | {"test": test}, tmp_path).result()
    assert "audio              nan    1.0000" in report.result_table(result)
    rows = [table.summarize_row(Variant("mla", "mla", {}), [[result], [result]])]
    found = {"rows": rows, "about": table.about(result, 2), "seeds": [0, 1]}
    found["about"]["versions"] |= {"jax": "", "python": ""}
    text = table.write(tmp_path, found | {"command": "", "date": ""})
    (row,) = strict(tmp_path / "comparison.json")[0]["rows"]
    assert (row["test"]["audio"], row["mean"]["audio"]) == ([None, None], None)
    assert row["interval"] == {"fused": [0.5, 0.5], "image": [0.25, 0.25], "audio": [None, None]}
    assert "nan" in text


def test_no_epoch_is_chosen_for_a_score_that_is_no_number(make_config, make_dataset):
    config = fields.resolve(make_config(selection="validation"))
    selector = Selector(config, make_dataset().spec())
    scores = (None, math.nan, 0.5, math.nan, None, 0.5, 0.75)
    offered = [
        selector.offer(epoch, epoch, {"validation": {"fused": score}})
        for epoch, score in enumerate(scores)
    ]
    assert offered == [True, False, True, False, False, False, True]
