"""Data: arrays, tables, lists and records that are cut short, empty or something else."""

import numpy as np

from tests.misuse.case import Case, first_bytes, npy, npz
from tests.misuse.world import EXAMPLES, changed

TRAIN = "main --config=small.py"
LABEL = np.arange(16) % 2


def part(name: str, content: object, holds: str, sentence: str = "?", **options: object) -> Case:
    """A training on data whose ``data/NAME`` is ``content``."""
    return Case(
        TRAIN, sentence, files={f"data/{name}": content}, holds=f"{name}: {holds}", **options
    )


def train(holds: str, sentence: str = "?", **changes: object) -> Case:
    return part("train.npz", changed("train", **changes), holds, sentence)


def table(content: str | bytes, sentence: str = "?", options: str = "", **files: object) -> Case:
    """A preparation of the table ``raw/examples.csv``."""
    holds = f"examples.csv: {content!r}" if isinstance(content, str) else "examples.csv: bytes"
    return Case(
        f"prepare --dataset=folder --raw=raw --workers=1{options}",
        sentence,
        files={"raw/examples.csv": content, "raw/a.npy": npy(np.ones(3)), **files},
        holds=holds,
    )


def new(holds: str, sentence: str = "?", output: str = "p.csv", **arrays: object) -> Case:
    """A prediction on ``new.npz``."""
    return Case(
        f"predict --run=run --input=new.npz --output={output}",
        sentence,
        files={"new.npz": npz(**arrays)},
        holds=f"new.npz: {holds}",
        needs_run=True,
    )


def rows(text: str, sentence: str = "?") -> Case:
    """A prediction on the table ``new.csv``."""
    return Case(
        "predict --run=run --input=new.csv --output=p.csv --workers=1",
        sentence,
        files={"new.csv": text},
        holds=f"new.csv: {text!r}",
        needs_run=True,
    )


def four(rows: int = 2) -> np.ndarray:
    return np.ones((rows, 4), np.float32)


CASES = {
    # ---- Arrays --------------------------------------------------------------------------------
    "no_folder": Case(TRAIN + " --config.dataset.path=dta", "dataset.path='dta' is not a folder: name the one that holds"),
    "path_is_a_file": Case(TRAIN + " --config.dataset.path=data/train.npz", "dataset.path='data/train.npz' is not a folder: name the one"),
    "no_train": part("train.npz", None, "is gone", sentence="data has neither train.npz nor train_label.npy: put the"),
    "no_test": part("test.npz", None, "is gone", sentence="data has neither test.npz nor test_label.npy: put the"),
    "empty_file": part("train.npz", b"", "0 bytes", sentence="data/train.npz is damaged, not an array file, or larger than the"),
    "cut_short": part("train.npz", first_bytes(0.5), "half of it", sentence="data/train.npz is damaged, not an array file, or larger than the"),
    "cut_at_the_end": part("test.npz", first_bytes(0.98), "cut at the end", sentence="data/test.npz is damaged, not an array file, or larger than the"),
    "text": part("train.npz", "a,b,label\n1,2,0\n", "text", sentence="data/train.npz is damaged, not an array file, or larger than the"),
    "pickle": part("train.npz", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00]", "a pickle", sentence="data/train.npz is damaged, not an array file, or larger than the"),
    "npy_called_npz": part("train.npz", npy(np.ones((16, 4))), "an .npy file", sentence="data/train.npz is damaged, not an array file, or larger than the memory (an .npy"),
    "folder_called_npz": Case(TRAIN, "data has neither train.npz nor train_label.npy: put the", files={"data/train.npz": lambda p: (p.unlink(), p.mkdir())}, holds="train.npz: a folder"),
    "objects": train("a: Python objects", a=np.array([{}] * 16, object), sentence="data/train.npz is damaged, not an array file, or larger than the"),
    "empty_archive": part("train.npz", npz(), "no array", sentence="data has neither train.npz nor train_label.npy: put the"),
    "no_label": train("no label", label=None, sentence="the train split in data has no array 'label' (it has a, b): save"),
    "no_modality": train("no b", b=None, sentence="the train split in data has no array 'b' (it has label, a): name"),
    "label_of_words": train("label: words", label=np.array(["cat"] * 16), sentence="'label' of the train split in data is <U3[16]: it must be"),
    "label_of_fractions": train("label: fractions", label=LABEL / 2, sentence="'label' of the train split in data is float64[16]: it"),
    "label_one_hot": train("label: 16 x 2", label=np.eye(2, dtype=int)[LABEL], sentence="'label' of the train split in data is int64[16, 2]: it"),
    "label_negative": train("label: -1", label=LABEL - 1, sentence="'label' of the train split in data is int64[16]: it must"),
    "label_scalar": train("label: one number", label=np.array(1), sentence="'label' of the train split in data is int64[]: it must be"),
    "label_of_true_and_false": train("label: booleans", label=LABEL == 1, sentence="'label' of the train split in data is bool[16]: it must"),
    "label_short": train("label: 15 for 16 rows", label=LABEL[:15], sentence="'a' of the train split in data has shape (16, 4), and"),
    "rows_missing": train("a: 15 rows", a=np.ones((15, 4), np.float32), sentence="'a' of the train split in data has shape (15, 4), and"),
    "scalar": train("a: one number", a=np.array(1.0), sentence="'a' of the train split in data has shape (), and there"),
    "no_rows": train("no examples", label=LABEL[:0], a=four(0), b=four(0), sentence="'label' of the train split in data is int64[0]: it must"),
    "times": train("a: dates", a=np.zeros((16, 4), "datetime64[s]"), sentence="'a' of the train split in data is of type datetime64[s]:"),
    "present_width": train("present: 3 columns", present=np.ones((16, 3), bool), sentence="'present' of the train split in data has shape (16, 3),"),
    "present_rows": train("present: 15 rows", present=np.ones((15, 2), bool), sentence="'present' of the train split in data has shape (15, 2),"),
    "present_words": train("present: words", present=np.array([["yes", "no"]] * 16), sentence="'present' of the train split in data is of type <U3: it"),
    "present_numbers": train("present: 0.5", present=np.full((16, 2), 0.5), sentence="'present' of the train split in data holds other values"),
    "other_width_in_test": part("test.npz", changed("test", a=np.ones((8, 5), np.float32)), "a: 5 wide", sentence="'a' has another shape in each split: {'train': (4,),"),
    "other_type_in_test": part("test.npz", changed("test", a=np.ones((8, 4), np.int32)), "a: integers", sentence="'a' is not of the same type in all splits: {'train':"),
    "label_beyond": part("test.npz", changed("test", label=np.arange(8) + 5000), "label: 5007", sentence="the largest label of the test split in data is 5007, and"),
    "names_missing": part("classes.txt", "cat\n", "one name", sentence="data/classes.txt names 1 classes and the labels go up to"),
    "names_empty": part("classes.txt", "", "no name", sentence="data/classes.txt has no class names: write one name per line"),
    "names_binary": part("classes.txt", b"\xff\xfe\x00", "bytes", sentence="data/classes.txt is not UTF-8 text"),
    "names_twice": part("classes.txt", "cat\ncat\n", "cat twice", sentence="data/classes.txt names the class 'cat' twice: every class"),
    "npy_cut": Case(TRAIN, "data/train_a.npy is damaged, not an array file, or larger than the", files={"data/train.npz": None, "data/train_label.npy": npy(LABEL), "data/train_a.npy": npy(four(16))[:100], "data/train_b.npy": npy(four(16))}, holds="train_a.npy: 100 bytes"),
    "digits_cut": Case("main --config=configs/digits.py --config.dataset.path=mine.npz", "the digits file mine.npz is damaged or is something else", files={"mine.npz": npz(image=np.ones(3))}, holds="mine.npz: one array of three numbers"),
    "digits_missing": Case("main --config=configs/digits.py --config.dataset.path=no.npz", "cannot read the digits file no.npz"),
    # ---- New examples --------------------------------------------------------------------------
    "predict_no_modality": new("no array of the run", x=four(), sentence="unknown modality of this run (a+b) 'x': known: a, b"),
    "predict_unknown_modality": new("a and c", a=four(), c=four(), sentence="unknown modality of this run (a+b) 'c': known: a, b"),
    "predict_width": new("a: 5 wide", a=np.ones((2, 5), np.float32), sentence="input 'a' is float32[2, 5], and this run takes float32[N,"),
    "predict_rank": new("a: a row", a=np.ones(4, np.float32), sentence="input 'a' is float32[4], and this run takes float32[N, 4]"),
    "predict_rows": new("a: 2 rows, b: 3", a=four(2), b=four(3), sentence="inputs need the same number of examples, at least one, not"),
    "predict_no_rows": new("no rows", a=four(0), b=four(0), sentence="inputs need the same number of examples, at least one, not"),
    "predict_type": new("a: words", a=np.array([["x"] * 4] * 2), sentence="input 'a' is <U1[2, 4], and this run takes float32[N, 4]:"),
    "predict_float64": new("a: text numbers", a=np.array([["1"] * 4] * 2), sentence="input 'a' is <U1[2, 4], and this run takes float32[N, 4]:"),
    "predict_nan": new("a: NaN", a=four() * np.nan, b=four(), sentence="input 'a' holds NaN, infinity or values too large for"),
    "predict_label": new("label: 7", a=four(), b=four(), label=np.array([0, 7]), sentence="'label' of new.npz is '7' in row 1: labels must be"),
    "predict_label_rows": new("label: 3 for 2 rows", a=four(), b=four(), label=np.arange(3) % 2, sentence="'label' of new.npz has shape (3,), not (2,)"),
    "predict_label_words": new("label: cat", a=four(), b=four(), label=np.array(["cat", "dog"]), sentence="'label' of new.npz is 'cat' in row 0: labels must be"),
    "predict_present": new("present: 3 columns", a=four(), b=four(), present=np.ones((2, 3), bool), sentence="'present' is bool[2, 3]: it must be bool[2, 2], one"),
    "predict_ids": new("id: 1 for 2 rows", a=four(), b=four(), id=np.array(["x"]), sentence="'id' of new.npz has shape (1,), not (2,)"),
    "predict_text": Case("predict --run=run --input=new.npz --output=p.csv", "new.npz is damaged, not an array file, or larger than the", files={"new.npz": "a,b"}, holds="new.npz: text", needs_run=True),
    "predict_empty_csv": rows("", sentence="new.csv is empty: write a header and one line per example"),
    "predict_csv_without_id": rows("a,b\nx.npy,y.npy\n", sentence="new.csv has no column 'id': known: a, b"),
    "predict_csv_of_a_run_on_arrays": rows("id,a\n1,x.npy\n", sentence="x.npy and all after it are not .npy files: check the paths"),
    "predict_empty_folder": Case("predict --run=run --input=empty --output=p.csv", "--input=empty must be a folder that mla_jax.prepare", files={"empty": lambda p: p.mkdir()}, holds="empty: an empty folder", needs_run=True),
    # ---- Tables --------------------------------------------------------------------------------
    "table_empty": table("", sentence="raw/examples.csv is empty: write a header and one line"),
    "table_header_alone": table("id,label,split,x\n", sentence="raw/examples.csv has no column of a modality, or no rows:"),
    "table_binary": table(b"\xff\xfe\x00\xd8", sentence="raw/examples.csv is not UTF-8 text"),
    "table_without_split": table("id,label,x\n1,cat,a.npy\n", sentence="raw/examples.csv has no column 'split': known: id, label,"),
    "table_semicolons": table("id;label;split;x\n1;cat;train;a.npy\n", sentence="raw/examples.csv has no column 'id': known:"),
    "table_split": table("id,label,split,x\n1,cat,tran,a.npy\n", sentence="unknown split in line 2 of raw/examples.csv 'tran': did"),
    "table_id_twice": table("id,label,split,x\n1,cat,train,a.npy\n1,dog,test,a.npy\n", sentence="line 3 of raw/examples.csv repeats '1': give each line its own id"),
    "table_cells": table("id,label,split,x\n1,cat,train\n", sentence="line 2 of raw/examples.csv has 3 cells and the header 4:"),
    "table_ending": table("id,label,split,x\n1,cat,train,a.xyz\n", sentence="column 'x' of raw/examples.csv has 'a.xyz', of unknown kind: name it"),
    "table_kind": table("id,label,split,x:sound\n1,cat,train,a.npy\n", sentence="unknown kind of column 'x:sound' of raw/examples.csv"),
    "table_null": table("id,label,split,x\n1,cat,train,a\x00.npy\n", sentence="raw/a\0.npy and all after it are not .npy files: check the"),
    "table_quote": table('id,label,split,x\n1,cat,train,"a.npy\n', sentence="line 2 of raw/examples.csv is not csv (unexpected end of"),
    "table_huge_cell": table("id,label,split,x\n1,cat,train," + "a" * 200_000 + ".npy\n", sentence="line 2 of raw/examples.csv is not csv (field larger than")._replace(holds="examples.csv: a cell of 200,000 letters"),
    "table_files_missing": table("id,label,split,x\n1,cat,train,no.npy\n", sentence="raw/no.npy and all after it are not .npy files: check the"),
    "table_all_unusable": table("id,label,split,x\n1,cat,train,a.npy\n2,dog,test,b.npy\n", sentence="1 of 2 examples cannot be used in full, more")._replace(leaves="data"),
    "table_npy_text": table("id,label,split,x\n1,cat,train,a.npy\n", **{"raw/a.npy": "hello"}, sentence="raw/a.npy and all after it are not .npy files: check the"),
    "table_npy_objects": table("id,label,split,x\n1,cat,train,a.npy\n", **{"raw/a.npy": b"\x93NUMPY\x01\x00"}, sentence="raw/a.npy and all after it are not .npy files: check the"),
    "table_words_without_vocabulary": table("id,label,split,x:tokens\n1,cat,train,hello\n", sentence="text needs the WordPiece vocabulary: give --vocab=FILE,"),
    "table_vocabulary": table("id,label,split,x:tokens\n1,cat,train,hello\n", options=" --vocab=raw/vocab.txt", **{"raw/vocab.txt": "the\na\n"}, sentence="--vocab=raw/vocab.txt starts with 'the', not with [PAD]:"),
    "table_vocabulary_binary": table("id,label,split,x:tokens\n1,cat,train,hello\n", options=" --vocab=raw/vocab.txt", **{"raw/vocab.txt": b"[PAD]\n\xff\xfe\x00\n"}, sentence="--vocab=raw/vocab.txt is no vocabulary of a BERT model:"),
    "table_vocabulary_short": table("id,label,split,x:tokens\n1,cat,train,hello\n", options=" --vocab=raw/vocab.txt", **{"raw/vocab.txt": "[PAD]\n"}, sentence="--vocab=raw/vocab.txt is no vocabulary of a BERT model:")._replace(leaves="data"),
    "table_classes": table("id,label,split,x\n1,cat,train,a.npy\n", options=" --classes=raw/no.txt", sentence="cannot read raw/no.txt"),
    "table_classes_empty": table("id,label,split,x\n1,cat,train,a.npy\n", options=" --classes=raw/c.txt", **{"raw/c.txt": ""}, sentence="raw/c.txt has no class names: write one name per line"),
    "table_label_unknown": table("id,label,split,x\n1,cat,train,a.npy\n", options=" --classes=raw/c.txt", **{"raw/c.txt": "dog\n"}, sentence="--raw=raw holds no usable example of folder (1 were"),
    "table_image_side": table("id,label,split,x:image\n1,cat,train,a.npy\n", options=" --image_side=3", sentence="--image_side=3 does not suit x, stored at 256x256 for"),
    # ---- Lists ---------------------------------------------------------------------------------
    "jsonl_line": Case("prepare --dataset=food101 --raw=raw", "line 1 of raw/train.jsonl is not JSON", files={"raw/train.jsonl": "{'id': 1}\n", "raw/dev.jsonl": "", "raw/test.jsonl": ""}, holds="train.jsonl: {'id': 1}"),
    "jsonl_list": Case("prepare --dataset=food101 --raw=raw", "line 1 of raw/train.jsonl has no field 'label': fix it", files={"raw/train.jsonl": "[1, 2]\n", "raw/dev.jsonl": "", "raw/test.jsonl": ""}, holds="train.jsonl: [1, 2]"),
    "jsonl_field": Case("prepare --dataset=mvsa --raw=raw", "line 1 of raw/train.jsonl has no field 'text': fix it", files={"raw/train.jsonl": '{"id": "1", "label": "positive"}\n', "raw/dev.jsonl": "", "raw/test.jsonl": ""}, holds='train.jsonl: {"id": "1", "label": "positive"}'),
    "jsonl_number_for_text": Case("prepare --dataset=mvsa --raw=raw", "line 1 of raw/train.jsonl has 5 in its field 'text',", files={"raw/train.jsonl": '{"id": 1, "label": "positive", "text": 5, "img": 7}\n', "raw/dev.jsonl": "", "raw/test.jsonl": ""}, holds='train.jsonl: "text": 5, "img": 7'),
    "jsonl_null": Case("prepare --dataset=mvsa --raw=raw", "line 1 of raw/train.jsonl has null in its field 'label',", files={"raw/train.jsonl": '{"id": null, "label": null, "text": null, "img": null}\n', "raw/dev.jsonl": "", "raw/test.jsonl": ""}, holds='train.jsonl: null everywhere'),
    "ave_line": Case("prepare --dataset=ave --raw=raw", "line 1 of raw/trainSet.txt is not", files={f"raw/{n}Set.txt": "Bark;v0;0;3\n" for n in ("train", "val", "test")}, holds="trainSet.txt: Bark;v0;0;3"),
    "ave_number": Case("prepare --dataset=ave --raw=raw", "line 1 of raw/trainSet.txt is not", files={f"raw/{n}Set.txt": "Bark&v0&good&zero&ten\n" for n in ("train", "val", "test")}, holds="trainSet.txt: Bark&v0&good&zero&ten"),
    # ---- Records -------------------------------------------------------------------------------
    "records_missing": Case("main --config=configs/folder.py:modalities=x,encoders=features", "data/folder/default-kaldi_fbank/1.0.0 holds no records:"),
    "records_elsewhere": Case("main --config=configs/cremad.py --data_dir=nowhere", "nowhere/cremad/mla-kaldi_fbank/1.0.0 holds no records:"),
    "index_text": Case("main --config=configs/cremad.py --data_dir=d", "d/cremad/mla-kaldi_fbank/1.0.0/index.json is damaged", files={"d/cremad/mla-kaldi_fbank/1.0.0/index.json": "{"}, holds="index.json: {"),
    "index_list": Case("main --config=configs/cremad.py --data_dir=d", "d/cremad/mla-kaldi_fbank/1.0.0/index.json is damaged (no", files={"d/cremad/mla-kaldi_fbank/1.0.0/index.json": "[]"}, holds="index.json: []"),
    "index_shallow": Case("main --config=configs/cremad.py --data_dir=d", "d/cremad/mla-kaldi_fbank/1.0.0/index.json is damaged (no", files={"d/cremad/mla-kaldi_fbank/1.0.0/index.json": '{"name": "cremad", "shard_bytes": []}'}, holds='index.json: {"name": "cremad", "shard_bytes": []}'),
    "index_shards": Case("main --config=configs/cremad.py --data_dir=d", "d/cremad/mla-kaldi_fbank/1.0.0/index.json is damaged (no", files={"d/cremad/mla-kaldi_fbank/1.0.0/index.json": '{"name": "cremad", "shard_bytes": [10]}'}, holds='index.json names a shard that is not there'),
}  # fmt: skip
assert EXAMPLES["train"] == len(LABEL)
# ruff: noqa: E501
