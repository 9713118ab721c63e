"""Wrong flags, tables and lists are told in one sentence, before any media file is opened."""

import re

import numpy as np
import pytest

from mla_jax.config.fields import dataset_block
from mla_jax.data.streams import Stream
from mla_jax.datasets import folder, load_dataset
from mla_jax.datasets.description import Modality, Source
from mla_jax.errors import UserError
from mla_jax.prepare import plan, store
from mla_jax.prepare.__main__ import main, parser
from tests.media import WORDS, write_vocabulary
from tests.test_prepare import said
from tests.trees import write

OUTSIDE = "'{}' of example '{}' is '{}', which is not below --raw=.*: write paths relative to that"
CSV = {
    "id,label,picture\na,b,c.jpg": "has no column 'split': known: id, label, picture",
    "id,label,split\na,b,train": "has no column of a modality",
    "": "is empty: write a header",
    "id,label,split,p,p\na,b,train,c.jpg,c.jpg": "has the column 'p' twice",
    "id,label,split,p,p:image\na,b,train,c.jpg,c.jpg": "has two columns of the modality 'p'",
    "id,label,split,p\na,b,train,c.jpg\na,b,train,c.jpg": "line 3 .* repeats 'a'",
    "id,label,split,p\n\na,b,train,c.jpg\n\n,b,train,c.jpg": "line 5 .*examples.csv has no id",
    "id,label,split,p\na,b,trian,c.jpg": "unknown split in line 2 .*'trian': did you mean 'train'",
    "id,label,split,p\na,b,train": "line 2 .* has 3 cells and the header 4",
    "id,label,split,p\na,b,train,c.xyz": "has 'c.xyz', of unknown kind: name it p:KIND",
    "id,label,split,p:imige\na,b,train,c.jpg": "kind of column 'p:imige' .*'image'",
    "id,label,split,present\na,b,train,c.jpg": "column 'present' .* cannot be a modality",
    "id,label,split,p\na,b,train,": "column 'p' .* cannot be a modality: it is empty",
    "id,label,split,p\na,b,train,c.npy": r"c\.npy and all after it are not \.npy files",
    "id,label,split,p:tokens\na,b,train,hello": "give --vocab=FILE",
    "id,label,split,p\na,b,train,c.jpg\ne,b,train,../c.jpg": OUTSIDE.format("p", "e", "../c.jpg"),
    "id,label,split,p\na,b,train,/etc/c.jpg": OUTSIDE.format("p", "a", "/etc/c.jpg"),
    "id,label,split,p\na,b,train,d/../../c.npy": OUTSIDE.format("p", "a", "d/../../c.npy"),
}


def test_rows_that_are_no_examples_are_told_as_what_they_are(tmp_path, capsys):
    """No label, no modality, nothing at all; with the line of the file."""
    np.save(tmp_path / "a.npy", np.ones(3))
    rows = [
        "id,label,split,p,q:vector", "a,x,train,a.npy,a.npy", ",,,,", "b,,test,a.npy,",
        "c,x,test,,", "d,x,test,,a.npy", ", , ,,", "e,y,test,a.npy,",
    ]  # fmt: skip
    write(tmp_path / "examples.csv", *rows)
    flags = ["--dataset=folder", f"--raw={tmp_path}", f"--data_dir={tmp_path / 'd'}", "--workers=1"]
    assert main([*flags, "--max_unreadable=0.5"]) == 0
    out = capsys.readouterr().out
    assert "folder: 3 of 5 examples" in out
    assert "unusable: b (examples.csv): no label" in out
    assert "unusable: c (examples.csv): no modality, all its cells are empty" in out
    assert "left out: 2 (empty row)" in out
    line = said(capsys, *flags[:3], "--force")
    assert "2 of 5 examples cannot be used in full" in line


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
    "--dataset=cremad --classes=x": "--classes means nothing to dataset 'cremad'",
    "--dataset=ave --frames=4": "--frames means nothing to dataset 'ave'",
    "--dataset=folder --frames=-1": "--frames and --image_side must be positive",
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
    "--dataset=modelnet40": "has no image",
    "--dataset=folder": "examples.csv does not exist: write one line per example",
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


JSONL = {
    '"img": "../../secret.png"': OUTSIDE.format("image", "secret.png", "../../secret.png"),
    '"img": "/etc/secret.png"': OUTSIDE.format("image", "secret.png", "/etc/secret.png"),
    '"img": 7': "line 1 of .*train.jsonl has 7 in its field 'img', which must be text",
}


@pytest.mark.parametrize("field", JSONL)
def test_pictures_outside_the_raw_folder(field, tmp_path, capsys):
    for file in ("train.jsonl", "dev.jsonl", "test.jsonl"):
        write(tmp_path / file, f'{{"id": "1", "label": "positive", "text": "a cat", {field}}}')
    line = said(capsys, "--dataset=mvsa", f"--raw={tmp_path}")
    assert re.search(JSONL[field], line), line


def test_lists_that_are_no_text(tmp_path, capsys):
    for file in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (tmp_path / file).write_bytes(b"\xff\xfe\x00\xd8")
    assert "is not UTF-8 text" in said(capsys, "--dataset=ave", f"--raw={tmp_path}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"), ("the\na", "starts with 'the'"),
        ("[PAD]\n[UNK]\ncat", "is no vocabulary of a BERT model: sep_token not found"),
    ],
)  # fmt: skip
def test_wrong_vocabulary(content, words, tmp_path, capsys):
    write(tmp_path / "examples.csv", "id,label,split,t:tokens", "a,b,train,hello")
    if content:
        write(tmp_path / "vocab.txt", content)
    flags = ["--dataset=folder", f"--raw={tmp_path}", f"--vocab={tmp_path / 'vocab.txt'}"]
    assert words in said(capsys, *flags)


def promising(path, shape):
    """An ``.npy`` file whose header promises more than the file holds."""
    with path.open("wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    return path


VECTORS = {
    "mmap length is greater than file size": lambda path: promising(path, (1 << 38,)),
    r"an array of shape \(3,\), and the first had \(2,\)": lambda path: np.save(path, np.ones(3)),
    "an array of complex128, which is not of real numbers": lambda path: np.save(path, [1j, 2]),
    "an array of <U1, which is not of real numbers": lambda path: np.save(path, ["1", "2"]),
    "NaN, infinity or numbers too large for float32": lambda path: np.save(path, [1e300, 2]),
    "NaN, infinity": lambda path: np.save(path, [np.nan, 2]),
}


@pytest.mark.parametrize("words", VECTORS)
def test_wrong_vectors(words, tmp_path):
    path = tmp_path / "a.npy"
    VECTORS[words](path)
    stream = Stream("vector", (2,), "float32")
    with pytest.raises(ValueError, match=words):
        store.load(Modality(stream), Source("a.npy"), tmp_path, store.Settings())
    np.save(path, np.arange(2, dtype=np.int64))
    found = store.load(Modality(stream), Source("a.npy"), tmp_path, store.Settings()).value
    assert found.dtype == np.float32 and found.tolist() == [0, 1]


def test_the_shape_of_the_first_vector_that_can_be_read(tmp_path, capsys):
    """Two terabytes that are not there, an archive and nothing at all are passed over."""
    promising(tmp_path / "a.npy", (1 << 38,))
    np.savez(tmp_path / "b.npz", x=np.ones(2))
    np.save(tmp_path / "c.npy", np.ones((4, 3)))
    rows = ["a,x,train,a.npy", "b,x,train,b.npz", "c,x,train,d.npy", "d,x,test,c.npy"]
    write(tmp_path / "examples.csv", "id,label,split,p", *rows)
    options = parser().parse_args(["--dataset=folder", f"--raw={tmp_path}"])
    assert folder.enumerate_csv(options).modalities["p"].stream.shape == (4, 3)


def test_a_spectrogram_of_no_numbers(tmp_path, monkeypatch):
    silence = lambda *rest: np.full((1, 16_000), np.nan, np.float32)  # noqa: E731
    monkeypatch.setattr(store.media, "read_sound", silence)
    monkeypatch.setattr(store.audio, "compute", lambda recipe, waveform: waveform)
    (tmp_path / "a.wav").write_bytes(b"")
    how = Modality(Stream("spectrogram", (1, 16_000, 1), "float16"))
    with pytest.raises(ValueError, match="NaN, infinity or numbers too large for float16"):
        store.load(how, Source("a.wav"), tmp_path, store.Settings("stft_3s"))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_text_files_are_utf8(mark, tmp_path):
    """Whatever the locale says, and with or without a byte-order mark."""
    vocabulary = write_vocabulary(tmp_path / "vocab.txt")
    with vocabulary.open("a", encoding="utf-8") as file:
        file.write("stra\u00dfe\n")
    (tmp_path / "a.txt").write_text(f"{mark}stra\u00dfe", encoding="utf-8")
    settings = store.Settings(vocabulary=str(vocabulary))
    how = Modality(Stream("tokens", (3,), "int32"))
    found = store.load(how, Source("a.txt"), tmp_path, settings).value
    assert found.tolist() == [len(WORDS), 0, 0]


def test_a_library_that_is_missing():
    with pytest.raises(UserError, match=r"pillow is not installed.*: pip install pillow"):
        plan.check_library("mla_jax_no_such_module", "pillow")


def test_absent_data_names_both_ways_out(tmp_path):
    config = dataset_block("cremad")
    config.data_dir = str(tmp_path)
    with pytest.raises(UserError) as caught:
        load_dataset(config, ("audio", "video"))
    command = "python -m mla_jax.prepare --dataset=cremad --raw=FOLDER"
    assert f"run `{command} --data_dir={tmp_path}`" in str(caught.value)
    assert "or `python -m mla_jax.main --config=configs/cremad.py:synthetic`" in str(caught.value)


def test_the_frames_that_videos_give_are_recorded(tmp_path):
    """The rule of the example goes before that of its modality; a picture has none."""
    header, *lines = "id,label,split,film,picture", "a,x,train,a.mp4,a.jpg", "b,x,test,b.mp4,b.mp4"
    write(tmp_path / "examples.csv", header, *lines, "c,x,test,,c.png")
    options = parser().parse_args(["--dataset=folder", f"--raw={tmp_path}"])
    raw = folder.enumerate_csv(options)
    assert plan.frame_rules(raw, raw.modalities) == {"film": ["stride"], "picture": ["middle"]}
    first, *others = raw.examples
    sources = {"film": Source("a.mp4", frames="seed999"), "picture": first.sources["picture"]}
    raw = raw._replace(examples=[first._replace(sources=sources), others[-1]])
    assert plan.frame_rules(raw, raw.modalities) == {"film": ["seed999"], "picture": []}
