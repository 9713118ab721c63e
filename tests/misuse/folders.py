"""Folders: runs of something else, damaged runs, places where nothing can be written."""

import fcntl
import json
import os

from tests.misuse.case import Case, first_bytes, python, replaced

AGAIN = "main --config=small.py --workdir=run"
LONGER = AGAIN + " --config.epochs=3"
OPENED = "evaluate --run=run"


def again(sentence: str = "?", holds: str = "", typed: str = AGAIN, **files: object) -> Case:
    """The command of a run whose folder was changed: ``config_json=content`` for each file."""
    return Case(typed, sentence, files=_paths(files), holds=holds, needs_run=True)


def opened(sentence: str = "?", holds: str = "", typed: str = OPENED, **files: object) -> Case:
    """A finished run, a file of which was changed, is opened."""
    return Case(typed, sentence, files=_paths(files), holds=holds, needs_run=True)


def _paths(files):
    return {"run/" + name.replace("_", "."): content for name, content in files.items()}


def locked(path):
    """Another process is at work: a lock of the file, held until the test's process ends it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fcntl.flock(HELD.setdefault(path, path.open("w")), fcntl.LOCK_EX)


HELD = {}


def link_to_nothing(path):
    path.symlink_to("nowhere/at/all")


def loop(path):
    path.symlink_to(path.name)


CASES = {
    # ---- Where a run is to be written ----------------------------------------------------------
    "workdir_is_a_file": Case("main --config=small.py --workdir=small.py", "--workdir=small.py: small.py is a file: give another"),
    "workdir_below_a_file": Case("main --config=small.py --workdir=small.py/run", "--workdir=small.py/run: small.py is a file: give another"),
    "workdir_in_proc": Case("main --config=small.py --workdir=/proc/run", "cannot write to --workdir=/proc/run"),
    "workdir_is_a_link_to_nothing": Case("main --config=small.py --workdir=x", "cannot write to --workdir=x", files={"x": link_to_nothing}, holds="x: a link to nothing"),
    "workdir_is_a_loop": Case("main --config=small.py --workdir=x", "x/config.json is unreadable or damaged", files={"x": loop}, holds="x: a link to itself"),
    "workdir_name_too_long": Case("main --config=small.py --workdir=" + "x" * 300, "cannot use"),
    "workdir_null": python("mla_jax.train(mla_jax.load_config('small.py'), 'a\\0b')", "config.json is unreadable or damaged"),
    "checkpoints_is_a_file": Case("main --config=small.py --workdir=x", "--workdir=x: x/checkpoints is a file: give another", files={"x/checkpoints": ""}, holds="x/checkpoints: a file"),
    "foreign_config": Case("main --config=small.py --workdir=x", "x/config.json is damaged (config, data expected): give", files={"x/config.json": '{"name": "npm"}'}, holds='x/config.json: {"name": "npm"}'),
    "foreign_checkpoints": Case("main --config=small.py --workdir=x", "x/config.json is gone, so it is unknown what was trained", files={"x/checkpoints/12/weights": ""}, holds="x/checkpoints/12 of somebody else"),
    "foreign_result": Case("main --config=small.py --workdir=x", "x/config.json is gone, so it is unknown what was trained", files={"x/result.json": "{}"}, holds="x/result.json: {}"),
    "config_is_a_folder": Case("main --config=small.py --workdir=x", "x/config.json is unreadable or damaged", files={"x/config.json/y": ""}, holds="x/config.json: a folder"),
    "data_is_a_folder": Case("main --config=small.py --workdir=x", "--workdir=x: x/data.json is a folder: give another", files={"x/data.json/y": ""}, holds="x/data.json: a folder"),
    "lock_is_a_folder": Case("main --config=small.py --workdir=x", "cannot write to --workdir=x", files={"x/.lock/y": ""}, holds="x/.lock: a folder"),
    "metrics_is_a_folder": Case("main --config=small.py --workdir=x", "--workdir=x: x/metrics.jsonl is a folder: give another", files={"x/metrics.jsonl/y": ""}, holds="x/metrics.jsonl: a folder"),
    "workdir_of_arrays": Case("main --config=small.py --workdir=data", "--workdir=data holds test.npz but no run: name a folder"),
    "workdir_of_everything": Case("main --config=small.py --workdir=.", "--workdir=. holds data but no run: name a folder"),
    "workdir_of_records": Case("main --config=small.py --workdir=x", "--workdir=x holds folder-all but no run: name a folder", files={"x/folder-all/1.0.0/index.json": "{}"}, holds="x: records"),
    "workdir_of_results": Case("main --config=small.py --workdir=x", "--workdir=x holds report.md but no run: name a folder", files={"x/report.md": "of mine"}),
    "workdir_of_runs": Case("main --config=small.py --workdir=x", "--workdir=x holds run but no run: name a folder", files={"x": lambda p: (p.mkdir(), os.rename(p.parent / "run", p / "run"))}, holds="x/run: a run", needs_run=True),
    "compare_workdir_of_a_bucket": Case("compare --config=small.py --methods=mla --workdir=gs://bucket/x", "this is written to a local folder, so name one"),
    "compare_workdir_name_too_long": Case("compare --config=small.py --methods=mla --workdir=" + "x" * 300, "cannot use"),
    "compare_workdir_of_arrays": Case("compare --config=small.py --methods=mla --workdir=data", "--workdir=data holds test.npz but no comparison: name"),
    "compare_workdir_of_a_run": Case("compare --config=small.py --methods=mla --workdir=run", "--workdir=run holds checkpoints but no comparison: name", needs_run=True),
    "cache_is_a_file": Case("main --config=small.py --compilation_cache=small.py", "--compilation_cache=small.py: small.py is a file: name a"),
    "cache_below_a_file": Case("main --config=small.py --compilation_cache=small.py/x", "--compilation_cache=small.py/x: small.py is a file: name"),
    "locked": Case("main --config=small.py --workdir=x", "another process is at work in x: wait for it, or give", files={"x/.lock": locked}, holds="another process is at work in x"),
    # ---- Runs of something else ----------------------------------------------------------------
    "other_seed": again("run holds a run of another configuration (seed: 0 -> 1):", typed=AGAIN + " --config.seed=1"),
    "other_method": again("run holds a run of another configuration (method.name:", typed="main --config=small.py:method=mla --workdir=run"),
    "other_modalities": again("run holds a run of another configuration (modalities:", typed="main --config=small.py:modalities=a --workdir=run"),
    "fewer_epochs": again("run holds a run of another configuration (epochs: 2 ->", typed=AGAIN + " --config.epochs=1"),
    "other_data": Case(AGAIN, "run holds a run of another configuration (data:", files={"data/test.npz": lambda p: p.write_bytes((p.parent / "validation.npz").read_bytes())}, holds="data/test.npz: other examples", needs_run=True),
    "evaluated_on_other_data": Case(OPENED, "the data has changed since run was trained", files={"data/test.npz": lambda p: p.write_bytes((p.parent / "validation.npz").read_bytes())}, holds="data/test.npz: other examples", needs_run=True),
    "longer_without_checkpoint": again("run holds a run of 2 epochs but no checkpoint to go on", "run/checkpoints: gone", LONGER, checkpoints=None),
    # ---- Damaged runs --------------------------------------------------------------------------
    "config_gone": again("run/config.json is gone, so it is unknown what was trained", "run/config.json: gone", config_json=None),
    "config_empty": again("run/config.json is unreadable or damaged", "run/config.json: empty", config_json=""),
    "config_cut": again("run/config.json is unreadable or damaged", "run/config.json: half of it", config_json=first_bytes(0.5)),
    "config_list": again("run/config.json is damaged (config, data expected): give", "run/config.json: []", config_json="[]"),
    "config_shallow": again("run/config.json is damaged (no valid 'config.encoders'):", "run/config.json: {...} without fields", config_json='{"config": {}, "data": "x"}'),
    "config_shallow_opened": opened("run/config.json is damaged (no valid 'config.encoders'):", "run/config.json: {...} without fields", config_json='{"config": {}, "data": "x"}'),
    "config_method_unknown": opened("run was trained with the method 'nla', which is not part", "run/config.json: method nla", config_json=replaced('"late_fusion"', '"nla"')),
    "config_type": opened("the saved configuration has feature_dim=many, which must", "run/config.json: feature_dim: many", config_json=replaced('"feature_dim": 4', '"feature_dim": "many"')),
    "config_modalities_gone": opened("run/config.json is damaged (no valid", "run/config.json: no modalities", config_json=replaced('"modalities"', '"modes"')),
    "config_encoder_gone": opened("unknown encoders.a.name 'mpl': did you mean 'mlp'?", "run/config.json: encoder mpl", config_json=replaced('"name": "features"', '"name": "mpl"')),
    "config_width": opened("checkpoint run/checkpoints/2 cannot be read: its arrays", "run/config.json: feature_dim: 5", config_json=replaced('"feature_dim": 4', '"feature_dim": 5')),
    "config_binary": opened("run/config.json is unreadable or damaged ('utf-8' codec", "run/config.json: bytes", config_json=b"\xff\xfe\x00"),
    "data_gone": opened("run/data.json is missing: repeat the command that trained", "run/data.json: gone", data_json=None),
    "data_empty": opened("run/data.json is unreadable or damaged (Expecting value:", "run/data.json: empty", data_json=""),
    "data_shallow": opened("run/data.json is damaged (class_names, examples, shapes,", "run/data.json: {}", data_json="{}"),
    "data_list": opened("run/data.json is damaged (class_names, examples, shapes,", "run/data.json: class_names: 3", data_json=replaced('"class_names": [', '"class_names": 3, "x": [')),
    "data_shape": opened("the split has {'a': (4,), 'b': (4,)}, and this run takes", "run/data.json: shape of a: 5", data_json=replaced('"a": [\n   4', '"a": [\n   5')),
    "data_shape_word": opened("run/data.json is damaged: delete it and repeat the", "run/data.json: shape of a: x", data_json=replaced('"a": [\n   4', '"a": [\n   "x"')),
    "data_dtype": opened("run/data.json is damaged: delete it and repeat the", "run/data.json: dtype float33", data_json=replaced('"float32"', '"float33"')),
    "result_cut": again("run/result.json is unreadable or damaged", "run/result.json: its first bytes", result_json='{"test": {'),
    "result_list": again("run/result.json is damaged (test, train, method", "run/result.json: []", result_json="[]"),
    "result_shallow": again("run/result.json is damaged (no valid 'dataset'): delete", 'run/result.json: {"test": {}, "train": {}, "method": "mla"}', result_json='{"test": {}, "train": {}, "method": "mla"}'),
    "metrics_damaged": again("run/metrics.jsonl, line 1 is damaged: give another", "run/metrics.jsonl: a line of words", LONGER, metrics_jsonl="hello\n"),
    "metrics_binary": again("run/metrics.jsonl is unreadable ('utf-8' codec can't", "run/metrics.jsonl: bytes", LONGER, metrics_jsonl=b"\xff\xfe\n"),
    "metrics_list": again("run/metrics.jsonl, line 1 is damaged: give another", "run/metrics.jsonl: [1]", LONGER, metrics_jsonl="[1]\n"),
    "checkpoints_gone": opened("run has no checkpoint: train it first", "run/checkpoints: gone", checkpoints=None),
    "checkpoints_a_file": opened("run has no checkpoint: train it first", "run/checkpoints: a file", checkpoints=lambda p: (__import__("shutil").rmtree(p), p.write_text(""))),
    "run_of_another_tool": Case("evaluate --run=x", "x/config.json is damaged (no valid 'config.encoders'):", files={"x/config.json": json.dumps({"config": {"epochs": 3}, "data": "y"})}, holds="x/config.json of another tool"),
    # ---- Comparisons ---------------------------------------------------------------------------
    "compare_workdir_is_a_file": Case("compare --config=small.py --methods=mla --workdir=small.py", "--workdir=small.py: small.py is a file: give another"),
    "compare_workdir_in_proc": Case("compare --config=small.py --methods=mla --workdir=/proc/x", "--workdir=/proc/x/comparison.md cannot be written (No"),
    "compare_holds_another_run": Case("compare --config=small.py --methods=concat,mla --seeds=0 --workdir=x", "x/mla/seed0 holds a run of another configuration", files={"x/mla/seed0": lambda p: (p.parent.mkdir(parents=True, exist_ok=True), os.rename(p.parents[2] / "run", p))}, holds="x/mla/seed0: a run of late_fusion", needs_run=True),
    "compare_row_is_a_file": Case("compare --config=small.py --methods=concat,mla --seeds=0 --workdir=x", "--workdir=x/mla/seed0: x/mla is a file: give another", files={"x/mla": ""}, holds="x/mla: a file"),
    "compare_table_is_a_folder": Case("compare --config=small.py --methods=mla --seeds=0 --workdir=x", "--workdir=x/comparison.md is a folder: name a file", files={"x/comparison.md/y": ""}, holds="x/comparison.md: a folder"),
    "compare_batch": Case("compare --config=small.py --methods=mla --config.batch_size=64", "the training split has 16 examples, fewer than"),
    # ---- Preparations --------------------------------------------------------------------------
    "prepare_into_a_file": Case("prepare --dataset=folder --raw=raw --data_dir=small.py --workers=1", "cannot use small.py/folder/default-kaldi_fbank/1.0.0", files={"raw/examples.csv": "id,label,split,x:image\n1,cat,train,a.jpg\n"}),
    "prepare_into_proc": Case("prepare --dataset=folder --raw=raw --data_dir=/proc --workers=1", "cannot use /proc/folder/default-kaldi_fbank/1.0.0", files={"raw/examples.csv": "id,label,split,x:image\n1,cat,train,a.jpg\n"}),
    "prepare_plan_damaged": Case("prepare --dataset=folder --raw=raw --workers=1", "cannot use data/folder/default-kaldi_fbank/1.0.0", files={"raw/examples.csv": "id,label,split,x:image\n1,cat,train,a.jpg\n", "data/folder/default-kaldi_fbank/1.0.0/plan.json": "{"}, holds="plan.json: {", leaves="data/folder"),
    "prepare_plan_list": Case("prepare --dataset=folder --raw=raw --workers=1", "data/folder/default-kaldi_fbank/1.0.0/plan.json is", files={"raw/examples.csv": "id,label,split,x:image\n1,cat,train,a.jpg\n", "data/folder/default-kaldi_fbank/1.0.0/plan.json": "[]"}, holds="plan.json: []", leaves="data/folder"),
    "prepare_other_records": Case("prepare --dataset=folder --raw=raw --workers=1", "data/folder/default-kaldi_fbank/1.0.0 holds records made", files={"raw/examples.csv": "id,label,split,x:image\n1,cat,train,a.jpg\n", "data/folder/default-kaldi_fbank/1.0.0/plan.json": "{}"}, holds="plan.json of other files", leaves="data/folder"),
    "prepare_locked": Case("prepare --dataset=folder --raw=raw --workers=1", "another process is at work in", files={"raw/examples.csv": "id,label,split,x:image\n1,cat,train,a.jpg\n", "data/folder/default-kaldi_fbank/1.0.0/.lock": locked}, holds="another process prepares"),
}  # fmt: skip
# ruff: noqa: E501
