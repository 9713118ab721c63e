"""Rows of a comparison that are trained at once: ``--workers`` and ``--row``."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import TINY

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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers=0"], "--workers=0 must be at least 1 and at most 64"),
        (["--row=mls"], "unknown row 'mls': did you mean 'mla'? (known: concat, mla, mla:fusion="),
    ],
)
def test_mistakes(options, sentence, commands, tmp_path):
    done = commands.run("mla_jax.compare", [*OPTIONS, f"--workdir={tmp_path / 'x'}", *options])
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}") and done.stderr.count("\n") == 1
