"""The predict and evaluate commands on arrays, prepared records and raw media, and their misuse."""

import csv
import json
import types

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields, files
from mla_jax.config.command_line import status_of, write_whole
from mla_jax.data.dataset import DataSpec
from mla_jax.errors import UserError
from mla_jax.evaluate import __main__ as evaluate
from mla_jax.predict import __main__ as predict
from mla_jax.predict.preparation import check_preparation
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
        (["--output=/proc/p.csv"], "--output=/proc/p.csv"),
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
        (["--output=nope/x.json"], "there is no folder nope"),
        (["--output=tests"], "--output=tests is a folder"),
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


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.array([0.0, 1.0]), "is float64, as '0.0' in row 0: labels must be numbers from 0 to 9"),
        (np.array([b"zero", b"one"]), "is |S4"),
        (np.array(["zero", "noe"]), "is 'noe' in row 1: labels must be numbers from 0 to 9, or"),
        (np.array([3, -1]), "is '-1' in row 1: labels must be numbers from 0 to 9"),
    ],
)
def test_labels_that_cannot_be(digits, labels, sentence, tmp_path, capsys):
    run, new = digits
    np.savez(tmp_path / "t.npz", text=np.load(new)["text"][:2], label=labels)
    options = [f"--run={run}", f"--input={tmp_path}/t.npz", f"--output={tmp_path}/p.csv"]
    assert predict.main(options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()


def test_the_input_is_not_replaced(digits, tmp_path, capsys):
    run, new = digits
    path, link = tmp_path / "t.npz", tmp_path / "link.npz"
    path.write_bytes(new.read_bytes())
    link.symlink_to(path)
    for output in (path, link):
        assert predict.main([f"--run={run}", f"--input={path}", f"--output={output}"]) == 2
        assert "is the file of --input" in capsys.readouterr().err
    assert path.read_bytes() == new.read_bytes()


def test_a_folder_is_no_output(digits, tmp_path, capsys):
    run, new = digits
    (tmp_path / "p.csv").mkdir()
    assert predict.main([f"--run={run}", f"--input={new}", f"--output={tmp_path}/p.csv"]) == 2
    assert "is a folder: name a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    assert status_of("it", lambda: write_whole(tmp_path / "none" / "x", b"")) == 1
    assert status_of("it", lambda: (tmp_path / "d").write_bytes(b"")) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"it: cannot use {tmp_path}/none/x.tmp: ") and len(lines) == 2
    (tmp_path / "y").write_bytes(b"old")
    write_whole(tmp_path / "y", b"new")
    assert (tmp_path / "y").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 2


def test_a_figure_that_is_no_number_is_null(digits, tmp_path):
    output = tmp_path / "e.json"
    options = [f"--run={digits[0]}", "--modalities=text", f"--output={output}"]
    assert evaluate.main(options) == 0
    assert "NaN" not in output.read_text()
    assert json.loads(output.read_text())["audio"] is None


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return f"--input={path}"


TABLES = {
    "": "new.csv is empty: write a header",
    "id,picture": "new.csv has no lines",
    "id,label\na,cat": "new.csv has no column of a modality: add one of picture, film",
    "id,picture\n,1.jpg": "line 2 of {}/new.csv has no id",
    "id,picture\na,1.jpg\na,2.jpg": "line 3 of {}/new.csv repeats the id 'a'",
    "id,picture,film\na,1.jpg,": "column 'film' of {}/new.csv is empty",
    "id,picture,picture:image\na,1.jpg,2.jpg": "new.csv has two columns of the modality 'picture'",
    "id,picture,picture\na,1.jpg,2.jpg": "new.csv has the column 'picture' twice",
    "id,picture:clip\na,1.jpg": "must be 'picture' or 'picture:image'",
    "id,label,picture\na,cat,1.jpg\nb,dgo,2.jpg": "unknown label in line 3 of {}/new.csv 'dgo'",
    "id,picture\na,nothing.jpg": "none of the 1 examples can be used; the first is a (nothing.jpg",
}


@pytest.mark.media
@pytest.mark.parametrize("content", TABLES)
def test_wrong_tables(media, content, tmp_path, capsys):
    run, raw, _ = media
    options = [f"--run={run}", f"--raw={raw}", "--workers=1", f"--output={tmp_path}/p.csv"]
    assert predict.main([*options, table(tmp_path / "new.csv", content)]) == 2
    error = capsys.readouterr().err
    assert TABLES[content].format(tmp_path) in error and error.count("\n") == 1
    assert "examples.csv" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


@pytest.mark.media
def test_labels_and_examples_that_are_missing_are_counted(media, tmp_path, capsys):
    run, raw, _ = media
    lines = ["e0,cat,0.jpg", "e1,,1.jpg", "e2,dog,2.jpg", "e3,dog,", "e5,,"]
    options = [f"--run={run}", f"--raw={raw}", "--workers=1", f"--output={tmp_path}/p.csv"]
    assert predict.main([*options, table(tmp_path / "t.csv", "id,label,picture", *lines)]) == 0
    printed = capsys.readouterr().out
    assert "left out: 2 of 5 examples, without a usable picture: e3, e5\n" in printed
    assert printed.count("of 2 labelled examples") == 2 and "3 predictions" in printed
    unlabelled = [line.replace("cat", "").replace("dog", "") for line in lines]
    assert predict.main([*options, table(tmp_path / "t.csv", "id,label,picture", *unlabelled)]) == 0
    assert "labelled" not in capsys.readouterr().out


@pytest.mark.media
def test_another_vocabulary_is_refused(media, tmp_path, capsys):
    run, raw, _ = media
    pad, *tokens = (raw / "vocab.txt").read_text().splitlines()
    other = tmp_path / "vb.txt"
    other.write_text("\n".join([pad, *tokens[::-1]]) + "\n")
    options = [f"--run={run}", "--workers=1", f"--output={tmp_path}/p.csv"]
    assert predict.main([*options, f"--input={raw}/examples.csv", f"--vocab={other}"]) == 2
    error = capsys.readouterr().err
    assert f"'caption' of {raw}/examples.csv has the vocabulary" in error
    assert "prepare them with the --vocab of the training data" in error
    flags = ["--dataset=folder", f"--raw={raw}", f"--data_dir={tmp_path}/data", f"--vocab={other}"]
    assert prepare([*flags, "--workers=1"]) == 0
    assert predict.main([*options, f"--input={tmp_path}/data"]) == 2
    assert "has the vocabulary" in capsys.readouterr().err


@pytest.mark.media
def test_what_a_run_records_of_the_preparation(media):
    run, data = open_run(media[0]), json.loads((media[0] / "data.json").read_text())
    assert {m: sorted(how) for m, how in run.data.preparation.items()} == {
        "picture": ["code"],
        "film": ["code", "frames"],
        "sound": ["code", "recipe"],
        "caption": ["code", "vocabulary"],
        "embedding": ["code"],
    }
    assert DataSpec.from_json(run.data.to_json()) == run.data
    del data["preparation"]
    assert DataSpec.from_json(data).preparation == {}


@pytest.mark.parametrize(
    ("field", "new", "sentence"),
    [
        (
            "recipe",
            "mla",
            "has the recipe mla, and runs/t was trained with kaldi: .*--recipe=kaldi",
        ),
        ("frames", ["middle"], "has the frames middle, and runs/t was trained with stride"),
        ("code", "2", "with the same version of mla_jax"),
        (None, None, ""),
    ],
)
def test_records_made_in_another_way_are_refused(field, new, sentence, capsys):
    how = {"sound": {"code": "1", "recipe": "kaldi"}, "film": {"code": "1", "frames": ["stride"]}}
    run = types.SimpleNamespace(path="runs/t", data=types.SimpleNamespace(preparation=how))
    index = {
        "settings": {"code": "1", "recipe": "kaldi"} | ({field: new} if field else {}),
        "frames": {"film": new if field == "frames" else ["stride"]},
        "streams": {"sound": {"kind": "spectrogram"}, "film": {"kind": "clip"}},
    }
    if not field:
        check_preparation(run, index, ("sound", "film"), "new")
        run.data.preparation = {}
        assert not capsys.readouterr().out
        check_preparation(run, index, ("sound", "film"), "new")
        assert "not checked: runs/t does not say" in capsys.readouterr().out
        return
    with pytest.raises(UserError, match=sentence):
        check_preparation(run, index, ("sound", "film"), "new")


def test_token_ids_of_a_file_are_checked(digits, tmp_path, capsys):
    run, new = digits
    content = dict(np.load(new))
    content["text"][4, 0] = 5000
    np.savez(tmp_path / "bad.npz", **content)
    options = [f"--run={run}", f"--input={tmp_path}/bad.npz", f"--output={tmp_path}/p.csv"]
    assert predict.main(options) == 2
    assert "values outside 0 to 1023 in example 4" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()
