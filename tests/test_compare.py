"""The comparison: its figures are those of the runs, and finished runs are not repeated."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def compare(workdir: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mla_jax.compare", "--config=tests/configs/tiny.py"]
    return subprocess.run(
        [*command, f"--workdir={workdir}", *options], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare") / "runs"
    options = ["--methods=unimodal,concat,mla,mla", "--seeds=0,3", "--config.epochs=2"]
    options += ["--config.modalities=('audio','text')", "--config.method.fidelity=first_drop"]
    options.append("--config.method.zero_grad_drift=false")  # a switch of one method only
    done = compare(workdir, *options)
    assert done.returncode == 0, done.stderr
    return workdir, options, done.stdout


def test_the_rows_are_the_runs(compared):
    workdir, _, _ = compared
    comparison = json.loads((workdir / "comparison.json").read_text())
    assert [row["method"] for row in comparison["rows"]] == ["unimodal", "concat", "mla"]
    unimodal, concat, mla = comparison["rows"]
    assert set(unimodal["test"]) == {"audio", "text"}
    assert set(concat["test"]) == set(mla["test"]) == {"fused", "audio", "text"}
    for i, seed in enumerate((0, 3)):
        result = json.loads((workdir / "mla" / f"seed{seed}" / "result.json").read_text())
        assert mla["test"]["fused"][i] == result["test"]["fused"]
        alone = json.loads((workdir / "unimodal-text" / f"seed{seed}" / "result.json").read_text())
        assert unimodal["test"]["text"][i] == alone["test"]["text"]
    config = json.loads((workdir / "mla" / "seed0" / "config.json").read_text())["config"]
    assert [row["fidelity"] for row in comparison["rows"]] == ["paper", "paper", "first_drop"]
    assert config["method"]["zero_grad_drift"] is False and config["epochs"] == 2


def test_table_and_plot(compared):
    workdir, _, out = compared
    comparison = json.loads((workdir / "comparison.json").read_text())
    values = comparison["rows"][1]["test"]["fused"]
    cell = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    markdown = (workdir / "comparison.md").read_text()
    assert cell in out and cell in markdown
    assert "--seeds=0,3" in markdown and comparison["date"] in markdown
    assert (workdir / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_repeated(compared):
    workdir, options, _ = compared
    results = sorted(workdir.rglob("result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    assert compare(workdir, *options).returncode == 0
    assert [path.stat().st_mtime_ns for path in results] == before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--methods=mla,konkat"], "unknown method 'konkat': did you mean 'concat'?"),
        (["--seeds=0,one"], "--seeds=0,one must be integers"),
        (["--methods="], "--methods names none"),
        (["--config.seed=3"], "use --seeds alone"),
        (["--config.method.fusoin=fixed"], "unknown configuration field 'method.fusoin'"),
    ],
)
def test_mistakes(options, sentence, tmp_path):
    done = compare(tmp_path / "runs", *options)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
