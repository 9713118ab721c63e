"""The prepare command: byte-identical after a kill, idempotent, and clear about what is wrong."""

import hashlib
import pathlib
import pickle
import shlex
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.config import fields, files
from mla_jax.config.fields import dataset_block
from mla_jax.datasets import load_dataset, records
from mla_jax.errors import UserError
from mla_jax.prepare import __main__ as prepare
from mla_jax.prepare import run
from mla_jax.prepare.__main__ import main
from mla_jax.program import build_program
from tests.media import write_picture, write_sound, write_video, write_vocabulary
from tests.trees import write

ROOT = pathlib.Path(__file__).parents[1]
HEADER = "id,label,split,picture,film,sound,caption:tokens,embedding"


def folder_tree(root: pathlib.Path, examples: int = 8) -> list[str]:
    """A ``folder`` of five modalities; example 3 lacks its sound and 4 its picture."""
    rows = [HEADER]
    for i in range(examples):
        write_picture(root / f"{i}.jpg", seed=i)
        write_video(root / f"{i}.mp4", seed=i)
        write_sound(root / f"{i}.wav", seed=i)
        np.save(root / f"{i}.npy", np.arange(6.0) + i)
        split, label = ("train", "test", "validation")[i % 3], ("cat", "dog")[i % 2]
        picture, sound = ("" if i == 4 else f"{i}.jpg"), ("" if i == 3 else f"{i}.wav")
        rows.append(f'e{i},{label},{split},{picture},{i}.mp4,{sound},"a cat, on a wall",{i}.npy')
    write(root / "examples.csv", *rows)
    return ["--dataset=folder", f"--raw={root}", f"--vocab={write_vocabulary(root / 'vocab.txt')}"]


def load(name, data_dir, modalities, **fields):
    config = dataset_block(name)
    config.data_dir = str(data_dir)
    config.update(fields)
    return load_dataset(config, modalities)


def contents(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``(flags, data_dir)`` of a prepared ``folder``."""
    root = tmp_path_factory.mktemp("folder")
    flags = folder_tree(root / "raw")
    data = root / "data"
    assert main([*flags, f"--data_dir={data}", "--workers=1", "--examples_per_shard=3"]) == 0
    return flags, data


@pytest.mark.media
def test_folder(folder, capsys):
    dataset = load("folder", folder[1], ("caption", "film", "sound", "picture", "embedding"))
    assert dataset.class_names == ("cat", "dog")
    assert {part: s.examples for part, s in dataset.splits.items()} == {
        "train": 3, "validation": 2, "test": 3}  # fmt: skip
    batch = dataset.splits["train"].fetch([2, 0, 0, 1])  # examples 6, 0, 0, 3
    assert batch["label"].tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(batch["inputs"]["embedding"][0], np.arange(6) + 6)
    np.testing.assert_array_equal(batch["present"][:, 2], [True, True, True, False])
    assert batch["inputs"]["sound"][:3].any((1, 2, 3)).all()
    assert not batch["inputs"]["sound"][3].any()
    kinds = {modality: stream.kind for modality, stream in dataset.streams.items()}
    assert list(kinds.values()) == ["tokens", "clip", "spectrogram", "image", "vector"]
    # An example that has nothing of what was asked for is left out.
    alone = load("folder", folder[1], ("picture",))
    assert sum(split.examples for split in alone.splits.values()) == 7
    assert alone.fingerprint != dataset.fingerprint


@pytest.mark.media
@pytest.mark.parametrize("small", [True, False])
def test_the_last_line_is_the_command_that_trains(folder, capsys, monkeypatch, small):
    flags, data = folder
    monkeypatch.setattr(prepare, "only_a_cpu", lambda: small)
    assert main([*flags, f"--data_dir={data}", "--workers=1", "--examples_per_shard=3"]) == 0
    before, said = capsys.readouterr().out.splitlines()[-2:]
    command = shlex.split(said.removeprefix("train on it: "))
    assert before.startswith("runlocal is a small form") == small
    assert command[:3] == ["python", "-m", "mla_jax.main"] and command[4:] == [f"--data_dir={data}"]
    config = files.load_config(
        command[3].removeprefix("--config="), {"dataset.data_dir": str(data)}
    )
    assert config.modalities == ("picture", "film", "sound", "caption", "embedding")
    assert (config.encoders["picture"]["name"] == "mlp") == small
    config.batch_size = 2
    config = fields.resolve(config)
    dataset = load_dataset(config.dataset, config.modalities)
    program = build_program(config, dataset, jax.devices()[:1])
    sample = dataset.splits["train"].fetch(np.arange(1))
    jax.eval_shape(program.method.init, jax.random.key(0), sample)


def test_a_cpu_is_told_from_a_tpu_that_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "TPUS", (str(tmp_path / "accel*"),))
    assert prepare.only_a_cpu() == (jax.default_backend() == "cpu")
    (tmp_path / "accel0").touch()
    assert not prepare.only_a_cpu()


@pytest.mark.media
def test_training_on_records(folder, tmp_path):
    config = fields.base_config()
    config.dataset = dataset_block("folder")
    config.dataset.data_dir = str(folder[1])
    config.modalities = ("picture", "caption")
    config.encoders = {
        "picture": {"name": "mlp", "hidden": 2},
        "caption": {"name": "ngram_bag", "vocabulary": 12},
    }
    config.feature_dim, config.batch_size, config.epochs = 4, 2, 1
    config.compute_dtype, config.evaluation.batch_size = "float32", 2
    lines = []
    device = jax.devices()[:1]
    result = train.train(config, tmp_path / "run", devices=device, say=lines.append).result
    assert result["test"]["examples"] == 3
    assert "picture 256x256x3, caption 256; 3 train, 2 validation, 3 test examples" in lines[0]


@pytest.mark.media
def test_a_split_can_be_sent_to_another_process(folder):
    split = load("folder", folder[1], ("film",)).splits["test"]
    expected = split.fetch([0, 1])["inputs"]["film"]
    copy = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(copy.fetch([0, 1])["inputs"]["film"], expected)


@pytest.mark.media
def test_tfds_reads_the_records(folder):
    import tensorflow_datasets as tfds

    path = folder[1] / "folder/default-kaldi_fbank/1.0.0"
    source = tfds.builder_from_directory(path).as_data_source(records.SPLIT)
    dataset = load("folder", folder[1], ("film", "sound", "caption"))
    assert len(source) == 8
    split = dataset.splits["test"]
    for number, row in enumerate(split.rows):
        ours, theirs = split.fetch([number]), source[int(row)]
        assert theirs["label"] == ours["label"][0]
        np.testing.assert_array_equal(np.stack(theirs["film"]), ours["inputs"]["film"][0])
        np.testing.assert_array_equal(theirs["sound"], ours["inputs"]["sound"][0, ..., 0])
        np.testing.assert_array_equal(theirs["caption"], ours["inputs"]["caption"][0])
    assert "tensorflow" not in sys.modules


@pytest.mark.media
def test_running_again_changes_nothing(folder, capsys):
    flags, data = folder
    before = contents(data)
    assert main([*flags, f"--data_dir={data}", "--workers=1", "--examples_per_shard=3"]) == 0
    assert contents(data) == before
    out = capsys.readouterr().out
    assert "8 of 8 examples are there already" in out
    for words in ("cat", "dog", "train", "validation", "test", "fingerprint", "sound 7"):
        assert words in out


@pytest.mark.media
def test_lost_shards_are_made_again(folder):
    flags, data = folder
    before = contents(data)
    path = next(data.rglob("*array_record-00001-of-00003"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="00001-of-00003 is missing or incomplete: run prepare"):
        load("folder", data, ("film",))
    assert main([*flags, f"--data_dir={data}", "--workers=1", "--examples_per_shard=3"]) == 0
    assert contents(data) == before


@pytest.mark.media
def test_killed_at_half_and_run_again_gives_the_same_bytes(tmp_path):
    examples = 60
    rows = ["id,label,split,sound"]
    for i in range(examples):
        write_sound(tmp_path / f"raw/{i}.wav", seconds=0.2, seed=i)
        rows.append(f"e{i},{i % 2},{('train', 'test')[i % 3 == 0]},{i}.wav")
    write(tmp_path / "raw/examples.csv", *rows)
    flags = ["--dataset=folder", f"--raw={tmp_path / 'raw'}", "--recipe=stft_20s"]
    flags += ["--examples_per_shard=1"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "mla_jax.prepare", *flags, f"--data_dir={killed}"]
    with subprocess.Popen([*command, "--workers=2"], cwd=ROOT, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while len(list(killed.rglob(".shards/*.json"))) < examples // 4:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)  # its workers end by themselves
    done = len(list(killed.rglob(".shards/*.json")))
    assert examples // 4 <= done < examples
    with pytest.raises(UserError, match="records that are not finished"):
        load("folder", killed, ("sound",), recipe="stft_20s")
    assert main([*flags, f"--data_dir={killed}", "--workers=1"]) == 0
    assert main([*flags, f"--data_dir={whole}", "--workers=1"]) == 0
    assert len(list(whole.rglob("*.array_record-*"))) == examples
    report = ("prepare_report.json", ".tmp")  # the report names its folder
    ours, theirs = ({k: v for k, v in contents(d).items() if not k.endswith(report)}
                    for d in (killed, whole))  # fmt: skip
    assert ours == theirs


@pytest.mark.media
def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "mla_jax.prepare", "--dataset=modelnet40"]
    done = subprocess.run([*command, f"--raw={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"mla_jax.prepare: --raw={tmp_path} has no image *_v001.png: it must hold "
        "<class>/train/*_v001.png and so on, the 12-view renderings"
    ]


# ---- Mistakes about what was prepared ----


def said(capsys, *arguments) -> str:
    """The one line that the command leaves on stderr."""
    assert main(["--workers=1", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mla_jax.prepare: ")
    return line


@pytest.mark.media
def test_other_settings_want_another_folder(folder, capsys):
    flags, data = folder
    line = said(capsys, *flags, f"--data_dir={data}", "--examples_per_shard=4")
    assert "made of something else (examples_per_shard differ)" in line
    line = said(capsys, *flags, f"--data_dir={data}", "--image_side=100")
    assert "--image_side=100 does not suit picture, stored at 256x256 for crops of 224" in line


@pytest.mark.media
def test_one_process_at_a_time(folder, capsys):
    flags, data = folder
    with run._lock(next(data.rglob("index.json")).parent):
        assert "another process is at work in" in said(capsys, *flags, f"--data_dir={data}")


@pytest.mark.media
def test_force_replaces_the_records(folder, tmp_path, capsys):
    flags, _ = folder
    sized = [f"--data_dir={tmp_path}", "--workers=1", "--examples_per_shard=8"]
    assert main([*flags, *sized]) == 0
    before = contents(tmp_path)
    next(tmp_path.rglob("index.json")).with_name("left.over").write_text("x")
    sized[-1] = "--examples_per_shard=5"
    assert main([*flags, *sized, "--force"]) == 0
    assert len(list(tmp_path.rglob("*array_record-*"))) == 2
    assert set(contents(tmp_path)) != set(before) and not list(tmp_path.rglob("left.over"))


@pytest.mark.media
def test_image_side(folder, tmp_path):
    flags, _ = folder
    assert main([*flags, f"--data_dir={tmp_path}", "--workers=1", "--image_side=240"]) == 0
    dataset = load("folder", tmp_path, ("picture", "film"))
    assert dataset.streams["film"].shape == (3, 240, 240, 3)
    assert dataset.splits["test"].fetch([1])["inputs"]["picture"].shape == (1, 240, 240, 3)


@pytest.mark.media
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"split": "cvs"}, "unknown split of dataset 'folder' 'cvs': did you mean 'csv'"),
        ({"recipe": "fbank"}, "unknown recipe of dataset 'folder'"),
        (
            {"variant": "mine"},
            r"no records \(there is: default-kaldi_fbank\): run .*--variant=mine",
        ),
        ({"synthetic": True}, "has no synthetic form"),
    ],
)
def test_wrong_configurations(folder, fields, words):
    with pytest.raises(UserError, match=words):
        load("folder", folder[1], ("film",), **fields)


@pytest.mark.media
def test_unknown_modality(folder):
    words = (
        "unknown modality of dataset 'folder' 'flim'.*'film'.*; name the modalities you want, as "
        r"in --config=configs/folder.py:modalities=picture\+film\+sound\+caption\+embedding"
    )
    with pytest.raises(UserError, match=words):
        load("folder", folder[1], ("flim",))


@pytest.mark.media
def test_a_damaged_index(folder, tmp_path):
    path = tmp_path / "folder/default-kaldi_fbank/1.0.0/index.json"
    write(path, '{"name": "folder"')
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        load("folder", tmp_path, ("film",))
