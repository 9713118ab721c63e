"""Cells that float32 cannot hold: what a float64 process says of them, and what if it dies."""

import argparse
import contextlib
import json
import re
import types

import jax
import numpy as np
import pytest

from mla_jax.parity import __main__ as parity
from mla_jax.parity import compare, settle
from mla_jax.parity.theirs import clones

TIE, FORWARD = "momentum after 3", "features, training"


def cells(**relative):
    """One column, whose rows differ as told."""
    theirs = {f"{row}/": np.ones(1) for row in (TIE, FORWARD, "loss")}
    given = {"tie": TIE, "forward": FORWARD}
    ours = theirs | {f"{given[k]}/": np.ones(1) * (1 + value) for k, value in relative.items()}
    return compare.compare(theirs, ours)


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the command with given cells and a given float64 process; status, text and report."""
    settings = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in settings}

    def run(found, script, *flags):
        target = tmp_path / "report"
        clone = types.SimpleNamespace(workarounds=[])
        monkeypatch.setattr(clones, "loaded", lambda *_: contextlib.nullcontext(clone))
        monkeypatch.setattr(parity, "verdicts", lambda *_: dict(found))
        monkeypatch.setattr(settle, "give_memory_back", lambda: None)
        monkeypatch.setattr(settle, "command", lambda *_: ["sh", "-c", script, "sh"])
        arguments = ["--reference=x", "--modes=released", f"--workdir={target}", *flags]
        status = parity.main(arguments)
        return status, capsys.readouterr().out, json.loads((target / "parity.json").read_text())

    yield run
    for name, value in before.items():
        jax.config.update(name, value)


def answer(tmp_path, **relative):
    """A process that reports these cells."""
    compare.write(tmp_path / "answer", {"released": cells(**relative)}, [], {})
    return f'd="${{1#--workdir=}}"; mkdir -p "$d" && cp {tmp_path}/answer/parity.json "$d"'


def test_a_tie_is_settled_by_the_same_cell_in_float64(run, tmp_path):
    status, said, report = run(cells(tie=1e-2), answer(tmp_path, tie=1e-12))
    cell = report["modes"]["released"][TIE]
    assert status == 0 and report["passed"] and "parity: all within tolerance" in said
    assert cell["settled"] and cell["double"] == pytest.approx(1e-12, rel=1e-3)


@pytest.mark.parametrize("flags", [(), ("--break=epsilon",)])
def test_a_disagreement_is_one_in_float64_too(run, tmp_path, flags):
    """With a switch wrong on purpose as well: an exit status of 1 then proves something."""
    script = answer(tmp_path, tie=2e-2, forward=3e-2)
    status, said, report = run(cells(tie=1e-2, forward=1e-2), script, *flags)
    assert status == 1 and not report["passed"]
    for row, double in ((TIE, "2.00e-02"), (FORWARD, "3.00e-02")):
        assert f"{row}: 1.00e-02 > " in said and f"; {double} in float64" in said
    assert "parity: 2 cells out of tolerance" in said


def test_a_break_that_float64_settles_is_no_proof(run, tmp_path):
    assert run(cells(tie=1e-2), answer(tmp_path, tie=0), "--break=epsilon")[0] == 0


def test_float64_does_not_settle_what_no_tie_can_touch(run, tmp_path):
    status, said, _ = run(cells(forward=1e-2), answer(tmp_path, forward=1e-12))
    assert status == 1 and "; 1.00e-12 in float64" in said


def test_a_killed_process_is_reported_as_that(run):
    status, said, report = run(cells(tie=1e-2), "kill -9 $$")
    assert status == parity.UNSETTLED and not report["passed"]
    assert re.search("process was killed by SIGKILL, having used [0-9.]+ GB of memory", said)
    assert "OUT OF TOLERANCE" not in said and "NOT SETTLED  released" in said
    assert "parity: 1 cells not settled" in said
    assert report["modes"]["released"][TIE]["unanswered"]


def test_a_process_that_fails_is_quoted(run):
    status, said, _ = run(cells(tie=1e-2), "echo one >&2; echo no torch here >&2; exit 2")
    assert status == parity.UNSETTLED
    assert "its float64 process ended with exit status 2: no torch here" in said


def test_a_killed_process_excuses_no_other_cell(run):
    status, said, _ = run(cells(tie=1e-2, forward=1e-2), "kill -9 $$")
    assert status == 1 and f"{FORWARD}: 1.00e-02" in said
    assert "parity: 1 cells not settled, 1 cells out of tolerance" in said


def test_the_process_gets_the_column_s_clone_and_the_break():
    chosen = argparse.Namespace(reference="a", dimml="b", broken="epsilon")
    assert settle.command(chosen, "paper")[2:] == [
        "mla_jax.parity", "--float64", "--modes=paper", "--reference=a", "--break=epsilon",
    ]  # fmt: skip
    chosen.broken = ""
    assert settle.command(chosen, "film")[4:] == ["--modes=film", "--dimml=b"]
