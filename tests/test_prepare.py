"""The prepare command: byte-identical after a kill, idempotent, and clear about what is wrong."""

import hashlib
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mla_jax.configuration import dataset_block
from mla_jax.datasets import load_dataset, records
from mla_jax.errors import UserError
from mla_jax.prepare import media, plan
from mla_jax.prepare.__main__ import main
from mla_jax.prepare.progress import Progress
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
    with subprocess.Popen(
        [*command, "--workers=2"], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(killed.rglob(".shards/*.json"))) < examples // 4:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    done = len(list(killed.rglob(".shards/*.json")))
    assert examples // 4 <= done < examples
    with pytest.raises(UserError, match="records that are not finished"):
        load("folder", killed, ("sound",), recipe="stft_20s")
    assert main([*flags, f"--data_dir={killed}", "--workers=1"]) == 0
    assert main([*flags, f"--data_dir={whole}", "--workers=1"]) == 0
    assert len(list(whole.rglob("*.array_record-*"))) == examples
    report = "prepare_report.json"  # it names its folder
    ours, theirs = ({k: v for k, v in contents(d).items() if not k.endswith(report)}
                    for d in (killed, whole))  # fmt: skip
    assert ours == theirs


@pytest.mark.media
def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "mla_jax.prepare", "--dataset=modelnet40"]
    done = subprocess.run([*command, f"--raw={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"mla_jax.prepare: --raw={tmp_path} has no picture *_v001.png: it must hold "
        "<class>/train/*_v001.png and so on, the 12-view renderings"
    ]


# ---- What is wrong is said in one sentence -----------------------------------------------------


def said(capsys, *arguments) -> str:
    """The one line that the command leaves on stderr."""
    assert main(["--workers=1", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mla_jax.prepare: ")
    return line


CSV = {
    "id,label,picture\na,b,c.jpg": "has no column 'split': known: id, label, picture",
    "id,label,split\na,b,train": "has no column of a modality",
    "": "has no column 'id'",
    "id,label,split,p\na,b,train,c.jpg\na,b,train,c.jpg": "line 3 .* repeats 'a'",
    "id,label,split,p\na,b,trian,c.jpg": "unknown split in line 2 .*'trian': did you mean 'train'",
    "id,label,split,p\na,b,train": "line 2 .* has 3 cells and the header 4",
    "id,label,split,p\na,b,train,c.xyz": "what is 'c.xyz'.*p:KIND",
    "id,label,split,p:imige\na,b,train,c.jpg": "kind of column 'p:imige' .*'image'",
    "id,label,split,present\na,b,train,c.jpg": "column 'present' .* cannot be a modality",
    "id,label,split,p\na,b,train,": "column 'p' .* cannot be a modality: it is empty",
    "id,label,split,p\na,b,train,c.npy": r"c\.npy and all after it are no \.npy files",
    "id,label,split,p:tokens\na,b,train,hello": "give --vocab=FILE",
}


@pytest.mark.parametrize("content", CSV)
def test_a_wrong_table(content, tmp_path, capsys):
    (tmp_path / "examples.csv").write_text(content + "\n")
    line = said(capsys, "--dataset=folder", f"--raw={tmp_path}", f"--data_dir={tmp_path / 'd'}")
    assert re.search(CSV[content], line), line


FLAGS = {
    "--dataset=cremadd": "unknown dataset 'cremadd': did you mean 'cremad'",
    "--dataset=cremad --raw=NOWHERE": "--raw=NOWHERE does not exist: name the folder that holds "
    "AudioWAV",
    "--dataset=cremad --raw=setup.cfg": "--raw=setup.cfg is a file",
    "--dataset=cremad": "has neither AudioWAV nor VideoFlash",
    "--dataset=cremad --recipe=kaldi": "unknown recipe of dataset 'cremad' 'kaldi'",
    "--dataset=cremad --variant=x": "unknown variant of dataset 'cremad' 'x'",
    "--dataset=kinetics_sounds": "holds no usable example of kinetics_sounds",
    "--dataset=kinetics_sounds --variant=ks33": "--classes=FILE and --variant=NAME go together",
    "--dataset=kinetics_sounds --classes=x.txt": "--classes=FILE and --variant=NAME go together",
    "--dataset=ave": "lacks one of trainSet.txt, valSet.txt, testSet.txt",
    "--dataset=ave --lists=NOWHERE": "--lists=NOWHERE does not exist",
    "--dataset=food101": "lacks one of train.jsonl, dev.jsonl, test.jsonl",
    "--dataset=mvsa": "lacks one of train.jsonl, dev.jsonl, test.jsonl",
    "--dataset=iemocap": "has neither Session1.txt to Session5.txt nor",
    "--dataset=ucf101": "has no trainlist01.txt with testlist01.txt",
    "--dataset=modelnet40": "has no picture",
    "--dataset=folder": "examples.csv does not exist: write one line an example",
    "--dataset=folder --max_unreadable=2": "--max_unreadable=2.0 must be a share",
    "--dataset=folder --examples_per_shard=0": "must be at least 1",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_wrong_flags(flags, tmp_path, capsys):
    flags_given = flags.split()
    if not any(flag.startswith("--raw") for flag in flags_given):
        flags_given.append(f"--raw={tmp_path}")
    assert FLAGS[flags] in said(capsys, *flags_given, f"--data_dir={tmp_path / 'data'}")


LISTS = {
    "ave": ("trainSet.txt", "Bark;v0;0;3", "line 1 .* is not class&video&quality&start&end"),
    "food101": ("train.jsonl", "{'id': 1}", "line 1 .* is not JSON"),
    "mvsa": ("train.jsonl", '{"id": "1", "label": "positive"}', "has no field 'text'"),
    "iemocap": ("Session1.txt", "a.wav,hello,sad", r"line 1 .* is not <path> \[split"),
    "kinetics_sounds": (
        "train.csv",
        "label,youtube_id,time_start,time_end,split\nbowling,x,0,9,trane",
        "has split 'trane'",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_wrong_lists(name, tmp_path, capsys):
    others = ("valSet.txt", "testSet.txt", "dev.jsonl", "test.jsonl")
    for file in (*others, *(f"Session{i}.txt" for i in range(1, 6))):
        (tmp_path / file).write_text("")
    file, content, words = LISTS[name]
    write(tmp_path / file, content)
    line = said(capsys, f"--dataset={name}", f"--raw={tmp_path}")
    assert re.search(words, line), line


def test_lists_that_are_no_text(tmp_path, capsys):
    for file in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (tmp_path / file).write_bytes(b"\xff\xfe\x00\xd8")
    assert "is not UTF-8 text" in said(capsys, "--dataset=ave", f"--raw={tmp_path}")


@pytest.mark.parametrize(
    ("content", "words"), [(None, "there is no such file"), ("the\na", "starts with 'the'")]
)
def test_wrong_vocabulary(content, words, tmp_path, capsys):
    write(tmp_path / "examples.csv", "id,label,split,t:tokens", "a,b,train,hello")
    if content:
        write(tmp_path / "vocab.txt", content)
    flags = ["--dataset=folder", f"--raw={tmp_path}", f"--vocab={tmp_path / 'vocab.txt'}"]
    assert words in said(capsys, *flags)


def test_a_library_that_is_missing():
    with pytest.raises(UserError, match=r"pillow is not installed.*mla_jax\[media\]"):
        plan.check_library("mla_jax_no_such_module", "pillow")


@pytest.mark.media
def test_other_settings_want_another_folder(folder, capsys):
    flags, data = folder
    line = said(capsys, *flags, f"--data_dir={data}", "--examples_per_shard=4")
    assert "made of something else (examples_per_shard differ)" in line
    line = said(capsys, *flags, f"--data_dir={data}", "--image_side=100")
    assert "--image_side=100 does not suit picture, stored at 256x256 for crops of 224" in line


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
        ({"synthetic": True}, "has no synthetic twin"),
    ],
)
def test_wrong_configurations(folder, fields, words):
    with pytest.raises(UserError, match=words):
        load("folder", folder[1], ("film",), **fields)


@pytest.mark.media
def test_unknown_modality(folder):
    with pytest.raises(UserError, match="unknown modality of dataset 'folder' 'flim'.*'film'"):
        load("folder", folder[1], ("flim",))


def test_absent_data_names_both_ways_out(tmp_path):
    with pytest.raises(UserError) as caught:
        load("cremad", tmp_path, ("audio", "video"))
    message = str(caught.value)
    assert f"python -m mla_jax.prepare --dataset=cremad --raw=FOLDER` --data_dir={tmp_path}" in (
        message.replace(f" --data_dir={tmp_path}`", f"` --data_dir={tmp_path}")
    )
    assert "--config.dataset.synthetic=true" in message


@pytest.mark.media
def test_a_damaged_index(folder, tmp_path):
    path = tmp_path / "folder/default-kaldi_fbank/1.0.0/index.json"
    write(path, '{"name": "folder"')
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        load("folder", tmp_path, ("film",))


# ---- Pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "found", "count", "frames"),
    [
        ("stride", 9, 3, [0, 3, 6]), ("stride", 5, 3, [0, 1, 2]), ("stride", 2, 3, [0, 0, 0]),
        ("middle", 5, 1, [2]), ("middle", 1, 1, [0]),
        ("seed999", 3, 3, [0, 1, 2]), ("seed999", 4, 3, [1, 2, 3]), ("seed999", 5, 3, [1, 2, 3]),
        ("seed999", 10, 4, [2, 4, 6, 8]), ("seed999", 11, 4, [2, 4, 7, 9]),
        ("seed999", 2, 3, [0, 0, 0]),
    ],
)  # fmt: skip
def test_frames(rule, found, count, frames):
    assert media.pick_frames(rule, found, count) == frames


@pytest.mark.parametrize(
    ("found", "start"), [(100, 64), (150, 92), (164, 92), (200, 92), (300, 200)]
)
def test_windows_of_ucf101(found, start):
    assert media.pick_frames("window_train", found, 10) == list(range(start, start + 10))
    middle = found // 2 - 5
    assert media.pick_frames("window_test", found, 10) == list(range(middle, middle + 10))
    assert media.window_offset(10) == 6


def test_too_few_frames():
    with pytest.raises(media.MediaError, match="10 frames, and more than 10 are needed"):
        media.pick_frames("window_train", 10, 10)
    with pytest.raises(media.MediaError, match="no frames"):
        media.pick_frames("stride", 0, 3)


@pytest.mark.media
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.flv"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_truncated_videos_are_noticed(name, share, tmp_path):
    path = tmp_path / name
    write_video(path, codec="flv1" if name.endswith("flv") else "mpeg4", sound=False)
    assert len(media.video_pictures(path, "stride", 3)) == 3
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(Exception, match=r".") as caught:
        media.video_pictures(path, "stride", 3)
    assert not isinstance(caught.value, UserError | AttributeError | TypeError | NameError)


@pytest.mark.media
def test_sound_of_a_video_and_of_another_rate(tmp_path):
    write_video(tmp_path / "a.mp4", seconds=2)
    write_sound(tmp_path / "b.wav", seconds=2, rate=44_100, seed=6)  # 422 Hz
    for name, pitch in (("a.mp4", 440), ("b.wav", 422)):
        waveform = media.read_sound(tmp_path / name, 16_000)
        assert abs(waveform.shape[1] - 32_000) < 1_000
        spectrum = np.abs(np.fft.rfft(waveform[0, :16_000]))
        assert abs(spectrum.argmax() - pitch) <= 1
    piece = media.read_sound(tmp_path / "b.wav", 16_000, 0.5, 1.5)
    whole = media.read_sound(tmp_path / "b.wav", 16_000)
    np.testing.assert_array_equal(piece, whole[:, 8_000:24_000])
    with pytest.raises(media.MediaError, match="no sound"):
        media.read_sound(tmp_path / "b.wav", 16_000, 5, 6)


def test_progress_away_from_a_terminal():
    lines = []
    with Progress(100, 20, lines.append, every_seconds=0) as progress:
        progress.advance(30)
    (line,) = lines
    assert line.startswith("50 of 100 examples, ") and line.endswith("s left")
