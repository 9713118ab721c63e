"""Rows of a comparison that are trained at once: ``--workers`` and ``--row``."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mla_jax import train
from mla_jax.compare import workers
from mla_jax.config import files
from tests.conftest import TINY
from tests.runs import open_run

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = [f"--config={TINY}", "--methods=concat,mla,mla:fusion=fixed", "--seeds=0"]
OPTIONS += ["--config.epochs=1", "--config.selection=last"]


@pytest.fixture(scope="module")
def both(commands, tmp_path_factory):
    """A comparison by two workers, and what the same command then makes of its runs."""
    workdir = tmp_path_factory.mktemp("workers") / "runs"
    options = [*OPTIONS, f"--workdir={workdir}"]
    done = commands.run("mla_jax.compare", [*options, "--workers=2"])
    assert done.returncode == 0, done.stderr
    written = json.loads((workdir / "comparison.json").read_text())
    again = commands.run("mla_jax.compare", options)
    return workdir, done.stdout, written, again


def test_workers_make_the_table_of_one_process(both):
    workdir, said, written, again = both
    assert json.loads((workdir / "comparison.json").read_text())["rows"] == written["rows"]
    assert len(written["rows"]) == 3
    for row in written["rows"]:
        (folder,) = row["runs"]
        result = json.loads((workdir / folder / "result.json").read_text())
        assert row["test"]["fused"] == [result["test"]["fused"]]
    lines = [line for line in said.splitlines() if line.startswith("run ")]
    assert [line[: len("run 1 of 3")] for line in lines] == [f"run {i} of 3" for i in (1, 2, 3)]
    assert {line.split()[4] for line in lines[:2]} == {"concat", "mla"}, "fixed waits for mla"
    assert "loading jax" not in said
    assert len(re.findall("^run . of 3: ", again.stdout, re.M)) == 3


def test_the_runs_are_those_of_this_process(both, tmp_path):
    """Bit for bit, so the figures are those of a comparison without workers."""
    overrides = {"epochs": 1, "selection": "last", "seed": 0}
    config = files.load_config(TINY, overrides, {"method": "mla"})
    own = train.train(config, tmp_path / "mla", devices=jax.devices()[:1], say=len)
    run = open_run(both[0] / "mla" / "seed0")
    assert own.result["test"] == run.result["test"]
    jax.tree.map(np.testing.assert_array_equal, own.load(), run.load())


def test_one_row_makes_no_table(commands, both, tmp_path):
    options = [*OPTIONS, f"--workdir={tmp_path / 'runs'}"]
    done = commands.run("mla_jax.compare", [*options, "--row=concat"])
    assert done.returncode == 0, done.stderr
    assert "run 1 of 1: concat seed 0" in done.stdout
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["concat"]
    one, other = (
        json.loads((folder / "concat" / "seed0" / "result.json").read_text())["test"]
        for folder in (both[0], tmp_path / "runs")
    )
    assert one == other


def test_a_signal_stops_the_workers(tmp_path):
    """Each saves a checkpoint, and none is left."""
    workdir = tmp_path / "runs"
    command = [sys.executable, "-m", "mla_jax.compare", *OPTIONS, "--workers=2"]
    process = subprocess.Popen(
        [*command, "--config.epochs=2000", f"--workdir={workdir}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    runs = [workdir / name / "seed0" for name in ("concat", "mla")]
    deadline = time.monotonic() + 120
    while not all((run / "metrics.jsonl").exists() for run in runs):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.count("checkpoint saved: the same command resumes") == 2
    assert all(any((run / "checkpoints").iterdir()) for run in runs)
    assert not [run for run in runs if os.path.exists(run / ".lock") and locked(run / ".lock")]


def locked(path: pathlib.Path) -> bool:
    import fcntl

    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def worker(tmp_path, monkeypatch, script: str) -> None:
    """The processes of rows are a shell script, in which ``$row`` is the last option."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\nfor row; do :; done\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_row_that_is_left_out_is_not_trained_again(tmp_path, monkeypatch, capfd):
    worker(
        tmp_path, monkeypatch,
        'echo "run 1 of 1: x seed 0: test; 1.0 s; about 9 min left"\n'
        '[ "$row" != --row=b ] || echo "b: left out, the loss of \'joint\' is nan"',
    )  # fmt: skip
    assert workers.train_rows(["a", "b"], 1, 2) == {"b": "the loss of 'joint' is nan"}
    said = capfd.readouterr().out
    assert said.splitlines() == [
        "run 1 of 2: x seed 0: test; 1.0 s",
        "run 2 of 2: x seed 0: test; 1.0 s",
        "b: left out, the loss of 'joint' is nan",
    ]


def test_the_workers_share_the_cores(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(workers, "usable_cores", lambda: 7)
    worker(tmp_path, monkeypatch, "echo share $PYTHON_CPU_COUNT")
    for count, share in ((2, 3), (9, 1)):
        workers.train_rows(["a"], count, 1)
        assert capfd.readouterr().out == f"share {share}\n"


def test_a_worker_that_fails_ends_the_comparison(tmp_path, monkeypatch, capfd):
    worker(tmp_path, monkeypatch, "echo 'error: no' >&2; exit 2")
    with pytest.raises(SystemExit) as end:
        workers.train_rows(["a", "b"], 1, 2)
    assert end.value.code == 2 and capfd.readouterr().err.startswith("error: no\n")


def test_a_worker_that_is_killed_is_named(tmp_path, monkeypatch, capfd):
    worker(tmp_path, monkeypatch, "kill -9 $$")
    with pytest.raises(SystemExit) as end:
        workers.train_rows(["mla:fusion=fixed"], 1, 2)
    assert end.value.code == 128 + signal.SIGKILL
    assert capfd.readouterr().err.startswith(
        "error: the process of the row 'mla:fusion=fixed' was ended by SIGKILL, perhaps because "
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--row=mla:fusion=fixed"],
            "--row=mla:fusion=fixed is evaluated from the runs of another",
        ),
        (["--workers=0"], "--workers=0 must be at least 1 and at most 64"),
        (["--row=mls"], "unknown row 'mls': did you mean 'mla'? (known: concat, mla, mla:fusion="),
    ],
)
def test_mistakes(options, sentence, commands, tmp_path):
    done = commands.run("mla_jax.compare", [*OPTIONS, f"--workdir={tmp_path / 'x'}", *options])
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}") and done.stderr.count("\n") == 1
