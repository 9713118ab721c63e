"""Signals: Ctrl-C while something is read, prepared, converted or trained."""

import numpy as np

from tests.misuse.case import Case, npy, npz

TABLE = {"raw/examples.csv": "id,label,split,x\n1,cat,train,a.npy\n", "raw/a.npy": npy([1.0])}
ONE = np.ones((1, 4), np.float32)


def stopped(typed: str, during: str, sentence: str = "?", **options: object) -> Case:
    """Ctrl-C comes when ``during`` is called."""
    return Case(
        typed, sentence, 130, holds=f"Ctrl-C in {during}", during=f"mla_jax.{during}", **options
    )


BEFORE = "stopped before the first checkpoint: the same command starts from the beginning"
RESUMED = "stopped: the same command goes on from the last checkpoint"
LONGER = "main --config=small.py --workdir=run --config.epochs=3"
COMPARED = {"x/mla/seed1/checkpoints/4/state": ""}

CASES = {
    "main_reads_its_file": stopped("main --config=small.py", "config.files.load_config", sentence="stopped before the start: repeat the command"),
    "main_reads_data": stopped("main --config=small.py", "train.load_dataset", sentence=BEFORE),
    "main_builds": stopped("main --config=small.py", "train.build_program", sentence=BEFORE),
    "main_starts": stopped("main --config=small.py", "train.initial_state", sentence=BEFORE),
    "main_compares_two_processes": stopped("main --config=small.py", "distributed.check_agreement", sentence=BEFORE),
    "main_takes_its_folder": stopped("main --config=small.py", "runs.workdir.Workdir.create", sentence=BEFORE),
    "main_opens_a_run": stopped(LONGER, "train.load_dataset", needs_run=True, sentence=RESUMED),
    "main_goes_on": stopped(LONGER, "runs.run.Run.restore", needs_run=True, leaves="run", sentence=RESUMED),
    "compare_goes_on": stopped("compare --config=small.py --methods=concat --workdir=x", "train.initial_state", files=COMPARED, sentence=RESUMED),
    "compare_starts": stopped("compare --config=small.py --methods=mla", "train.initial_state", sentence=BEFORE),
    "compare_reads_data": stopped("compare --config=small.py --methods=mla", "compare.variants.load_dataset", sentence=BEFORE),
    "benchmark_reads_its_file": stopped("benchmark step --config=small.py", "config.files.load_config", sentence="stopped before the end"),
    "benchmark_writes_files": stopped("benchmark input --recipe=text", "benchmark.recipes.write_files", sentence="stopped before the end"),
    "evaluate_opens": stopped("evaluate --run=run", "runs.run.open_run", needs_run=True, sentence="stopped before the end"),
    "evaluate_reads_data": stopped("evaluate --run=run --output=f.json", "runs.reload.load_dataset", needs_run=True, sentence="stopped before the end"),
    "predict_reads": stopped("predict --run=run --input=data/test.npz --output=p.csv", "predict.read.read_examples", needs_run=True, sentence="stopped before the end"),
    "predict_computes": stopped("predict --run=run --input=new.npz --output=p.csv", "runs.run.Run.load", files={"new.npz": npz(a=ONE)}, needs_run=True, sentence="stopped before the end"),
    "export_lowers": stopped("export --run=run --to=x.stablehlo", "runs.stablehlo.lower", needs_run=True, sentence="stopped before the end"),
    "convert_reads": stopped("convert --from=run --to=w.safetensors", "runs.weights.flat", needs_run=True, sentence="stopped before the end"),
    "prepare_enumerates": stopped("prepare --dataset=folder --raw=raw --workers=1", "prepare.plan.make_plan", files=TABLE, sentence="stopped: the same command goes on from here"),
    "prepare_opens_media": stopped("prepare --dataset=folder --raw=raw --workers=1", "prepare.store.load", files=TABLE, leaves="data/folder", sentence="stopped: the same command goes on from here"),
    "prepare_writes_its_index": stopped("prepare --dataset=folder --raw=raw --workers=1", "prepare.run._write_index", files=TABLE, leaves="data/folder", sentence="stopped: the same command goes on from here"),
    "parity_loads": stopped("parity --reference=data", "parity.theirs.clones.loaded", sentence="stopped before the end"),
}  # fmt: skip
# ruff: noqa: E501
