"""The predict and evaluate commands on arrays, prepared records and raw media, and their misuse."""

import csv
import json

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields, files
from mla_jax.evaluate import __main__ as evaluate
from mla_jax.predict import __main__ as predict
from mla_jax.prepare.__main__ import main as prepare
from mla_jax.runs.run import open_run
from tests.conftest import TINY, digits_program
from tests.test_prepare import folder_tree

MODALITIES = ("picture", "film", "sound", "caption", "embedding")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """``(run's folder, file with its test arrays)``."""
    folder = tmp_path_factory.mktemp("digits")
    chosen = {"method": "mla", "modalities": "audio+text"}
    config = files.load_config(TINY, {"epochs": 3}, chosen)
    program, dataset = digits_program("mla")
    train.train(config, folder / "run", program, jax.devices()[:1], lambda line: None)
    test = dataset.splits["test"]
    np.savez(folder / "new.npz", **test.inputs, label=test.label)
    return folder / "run", folder / "new.npz"


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """``(run's folder, raw folder, prepared folder)`` of five modalities."""
    root = tmp_path_factory.mktemp("media")
    flags = folder_tree(root / "raw")
    assert prepare([*flags, f"--data_dir={root / 'data'}", "--workers=1"]) == 0
    config = fields.base_config()
    config.dataset = fields.dataset_block("folder")
    config.dataset.data_dir, config.dataset.crop = str(root / "data"), 16
    config.modalities = MODALITIES
    config.method = fields.method_block("late_fusion")
    encoder = {"name": "mlp", "hidden": 2}
    config.encoders = {m: encoder for m in MODALITIES if m != "caption"}
    config.encoders.caption = {"name": "ngram_bag", "vocabulary": 12}
    config.feature_dim, config.batch_size, config.epochs = 4, 2, 1
    config.compute_dtype, config.evaluation.batch_size = "float32", 4
    run = train.train(config, root / "run", devices=jax.devices()[:1], say=lambda line: None)
    assert run.result["test"]["examples"] == 3
    return root / "run", root / "raw", root / "data"


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_three_outputs_agree(digits, tmp_path, capsys):
    run, new = digits
    for ending in ("csv", "jsonl", "npz"):
        options = [f"--run={run}", f"--input={new}", f"--output={tmp_path}/p.{ending}"]
        assert predict.main(options) == 0
    printed = capsys.readouterr().out
    expected = open_run(run).result["test"]
    assert printed.count(f"{expected['fused']:.4f}  of {expected['examples']} examples") == 3
    table = rows_of(tmp_path / "p.csv")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    arrays = np.load(tmp_path / "p.npz")
    names = arrays["class_names"][arrays["classes"]].tolist()
    assert names == [row["class"] for row in table] == [line["class"] for line in lines]
    assert list(lines[3]["probabilities"].values()) == arrays["probabilities"][3].tolist()
    assert float(table[3]["audio_weight"]) == arrays["weights"][3, 0] == lines[3]["audio_weight"]
    by_audio = list(lines[3]["modalities"]["audio"].values())
    assert by_audio == arrays["audio/probabilities"][3].tolist()


def test_one_modality_and_names_of_ones_own(digits, tmp_path, capsys):
    run, new = digits
    text = np.load(new)["text"][:4]
    np.savez(
        tmp_path / "few.npz", text=text, id=np.array(list("wxyz")), label=np.array(["zero"] * 4)
    )
    output = tmp_path / "few.csv"
    assert predict.main([f"--run={run}", f"--input={tmp_path}/few.npz", f"--output={output}"]) == 0
    rows = rows_of(output)
    assert [row["id"] for row in rows] == list("wxyz")
    assert {row["class"] for row in rows} == {row["text_class"] for row in rows}
    assert "audio_class" not in rows[0] and float(rows[0]["audio_weight"]) == 0
    assert "of 4 examples" in capsys.readouterr().out


@pytest.mark.media
def test_prepared_records_and_the_media_they_were_made_of(media, tmp_path, capsys):
    run, raw, data = media
    outputs = [tmp_path / name for name in ("records.npz", "media.npz")]
    vocab = [f"--vocab={raw / 'vocab.txt'}", "--workers=1"]
    for source, output in zip((data, raw / "examples.csv"), outputs, strict=True):
        assert (
            predict.main([f"--run={run}", f"--input={source}", f"--output={output}", *vocab]) == 0
        )
    records, new = map(np.load, outputs)
    assert records["id"].tolist() == [f"e{i}" for i in range(8)] == new["id"].tolist()
    np.testing.assert_array_equal(records["logits"], new["logits"])
    test = records["logits"][1::3].argmax(1)  # examples 1, 4 and 7
    assert np.mean(test == [1, 0, 1]) == open_run(run).result["test"]["fused"]
    assert np.isnan(records["sound/logits"][3]).all() and records["weights"][4, 0] == 0
    assert capsys.readouterr().out.count("of 8 examples") >= 2


@pytest.mark.media
def test_new_media_without_labels_some_modalities_and_a_broken_file(media, tmp_path, capsys):
    run, raw, _ = media
    (raw / "cut.jpg").write_bytes((raw / "1.jpg").read_bytes()[:40])
    lines = ["id,picture,embedding", "a,1.jpg,1.npy", "b,cut.jpg,2.npy", "c,cut.jpg,", "d,5.jpg,"]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    options = [f"--run={run}", f"--input={tmp_path}/new.csv", f"--raw={raw}", "--workers=1"]
    assert predict.main([*options, f"--output={tmp_path}/new.csv.jsonl"]) == 0
    found = [json.loads(line) for line in (tmp_path / "new.csv.jsonl").read_text().splitlines()]
    assert [line["id"] for line in found] == ["a", "b", "d"]
    assert [sorted(line["modalities"]) for line in found] == [
        ["embedding", "picture"], ["embedding"], ["picture"]]  # fmt: skip
    printed = capsys.readouterr().out
    assert "unusable: cut.jpg of b (" in printed and "of 3 examples" not in printed


def test_evaluate_prints_what_the_result_holds(digits, tmp_path, capsys):
    run, _ = digits
    assert evaluate.main([f"--run={run}", f"--output={tmp_path}/e.json"]) == 0
    found, expected = json.loads((tmp_path / "e.json").read_text()), open_run(run).result["test"]
    assert {key: found[key] for key in expected} == expected
    assert f"{expected['audio']:10.4f}" in capsys.readouterr().out
    assert evaluate.main([f"--run={run}", "--split=validation", "--modalities=text"]) == 0
    assert "validation examples, seeing text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--run=nothing"], "nothing holds no run"),
        (["--input=nothing.npz"], "nothing.npz does not exist"),
        (["--input=README.md"], "must end in .npz or .csv"),
        (["--input=tests"], "must be a folder that mla_jax.prepare wrote; found below it: none"),
        (["--input=tests/fixtures/resnet18.npz"], "unknown modality of this run"),
        (["--output=p.txt"], "unknown ending of --output '.txt'"),
        (["--output=nowhere/p.csv"], "there is no folder nowhere"),
    ],
)
def test_mistakes(digits, options, sentence, tmp_path, capsys):
    run, new = digits
    usual = [f"--run={run}", f"--input={new}", f"--output={tmp_path}/p.csv"]
    assert predict.main([*usual, *options]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--split=tset"], "unknown split of digits 'tset': did you mean 'test'?"),
        (["--modalities=audoi"], "did you mean 'audio'?"),
        (["--run=README.md"], "holds no run"),
    ],
)
def test_mistakes_of_evaluate(digits, options, sentence, capsys):
    assert evaluate.main([f"--run={digits[0]}", *options]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors and errors.count("\n") == 1


def test_damaged_arrays(digits, tmp_path, capsys):
    run, new = digits
    bad = tmp_path / "bad.npz"
    options = [f"--run={run}", f"--input={bad}", f"--output={tmp_path}/p.csv"]
    bad.write_bytes(new.read_bytes()[:1000])
    assert predict.main(options) == 2
    assert "is damaged" in capsys.readouterr().err
    content = dict(np.load(new))
    np.savez(bad, **{**content, "label": content["label"] + 99})
    assert predict.main(options) == 2
    assert "must be numbers from 0 to 9" in capsys.readouterr().err
    np.savez(bad, **{**content, "id": np.arange(3)})
    assert predict.main(options) == 2
    assert "'id' of" in capsys.readouterr().err
