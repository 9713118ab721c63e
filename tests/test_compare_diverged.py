"""Rows of a comparison whose loss becomes NaN or infinite."""

import json

import pytest

from mla_jax.compare import layout
from mla_jax.compare.studies import STUDIES
from tests.conftest import TINY

WITH = "mla, optimizer.learning_rate="
OPTIONS = [f"--config={TINY}", "--methods=mla,mla:fusion=fixed", "--seeds=0"]
OPTIONS += ["--vary=optimizer.learning_rate=0.05,1e25", "--config.selection=last"]
OPTIONS += ["--config.epochs=1", "--config.check_loss_every=1"]


@pytest.fixture(scope="module")
def diverged(commands, tmp_path_factory):
    """A row by itself, as on one of several machines, and then the table."""
    workdir = tmp_path_factory.mktemp("diverged") / "runs"
    options = [*OPTIONS, f"--workdir={workdir}"]
    row = commands.run("mla_jax.compare", [*options, f"--row={WITH}1e25"])
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("*/seed0/metrics.jsonl")}
    done = commands.run("mla_jax.compare", options)
    assert done.returncode == 0, done.stderr
    return workdir, row, before, done


def test_it_and_the_rows_that_are_evaluated_from_it_are_left_out(diverged):
    workdir, row, _, done = diverged
    found = json.loads((workdir / "comparison.json").read_text())
    fixed = f"{WITH}0.05".replace("mla", "mla:fusion=fixed")
    assert {row["label"] for row in found["rows"]} == {f"{WITH}0.05", fixed}
    left_out = [f"{WITH}1e25", f"{WITH}1e25".replace("mla", "mla:fusion=fixed")]
    assert list(found["diverged"]) == left_out
    said = (workdir / "comparison.md").read_text()
    for label, reason in found["diverged"].items():
        assert reason.startswith("the loss of '") and "(epoch 1)" in reason
        assert f"{label}: left out, {reason}\n" in done.stdout
        assert f"`{label}` is left out: {reason}." in said
    assert row.returncode == 0
    assert f"{left_out[0]}: left out, {found['diverged'][left_out[0]]}\n" in row.stdout


def test_the_final_command_does_not_train_it_again(diverged):
    _, _, before, done = diverged
    assert len(before) == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert done.stdout.count("the loss was not finite; to train it again, delete it\n") == 2


def test_a_study_checks_the_rows_that_are_there():
    study = STUDIES["table3"]
    group = study.same_unimodal[0]
    rows = [{"label": e, "test": {"fused": [0.5], "a": [0.1]}} for e in study.entries]
    whole = layout.of_study("table3", study, rows, "digits")["checks"]
    assert [check["rows"] for check in whole] == [list(g) for g in study.same_unimodal]
    rows = [row for row in rows if row["label"] != group[0]]
    assert layout.of_study("table3", study, rows, "digits")["checks"] == whole[1:]
