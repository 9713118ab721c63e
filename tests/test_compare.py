"""The comparison: its figures are those of the runs, and finished runs are not repeated."""

import json
import pathlib
import subprocess

import numpy as np
import pytest

from mla_jax.compare import table


@pytest.fixture(scope="module")
def compare(commands):
    def compare(workdir: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
        config = "--config=tests/configs/tiny.py"
        return commands.run("mla_jax.compare", [config, f"--workdir={workdir}", *options])

    return compare


@pytest.fixture(scope="module")
def compared(compare, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare") / "runs"
    options = ["--methods=unimodal,concat,mla,mla", "--seeds=0,3", "--config.epochs=2"]
    options += ["--config.modalities=('audio','text')", "--config.method.fidelity=first_drop"]
    options.append("--config.method.zero_grad_drift=false")  # a switch of one method only
    done = compare(workdir, *options)
    assert done.returncode == 0, done.stderr
    return workdir, options, done.stdout


def test_the_rows_are_the_runs(compared):
    workdir, _, _ = compared
    found = json.loads((workdir / "table.json").read_text())
    unimodal, *others = found["rows"]
    assert unimodal["method"] == "unimodal"
    fused = [np.mean(row["test"]["fused"]) for row in others]
    assert fused == sorted(fused, reverse=True)
    concat, mla = sorted(others, key=lambda row: row["method"])
    assert (concat["method"], mla["method"]) == ("concat", "mla")
    assert set(unimodal["test"]) == {"audio", "text"}
    assert set(concat["test"]) == set(mla["test"]) == {"fused", "audio", "text"}
    for i, seed in enumerate((0, 3)):
        result = json.loads((workdir / "mla" / f"seed{seed}" / "result.json").read_text())
        assert mla["test"]["fused"][i] == result["test"]["fused"]
        alone = json.loads((workdir / "unimodal-text" / f"seed{seed}" / "result.json").read_text())
        assert unimodal["test"]["text"][i] == alone["test"]["text"]
    config = json.loads((workdir / "mla" / "seed0" / "config.json").read_text())["config"]
    assert [row["fidelity"] for row in (unimodal, concat, mla)] == ["paper", "paper", "first_drop"]
    assert mla["parameters"] == result["parameters"] > 1000
    assert mla["examples_per_second"] > 0
    assert config["method"]["zero_grad_drift"] is False and config["epochs"] == 2


def test_table_and_plot(compared):
    workdir, _, out = compared
    found = json.loads((workdir / "table.json").read_text())
    row = next(row for row in found["rows"] if row["method"] == "concat")
    values = row["test"]["fused"]
    low, high = row["interval"]["fused"]
    assert min(values) <= low <= np.mean(values) <= high <= max(values)
    assert f"[{low:.3f}, {high:.3f}]" in out
    cell = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    markdown = (workdir / "table.md").read_text()
    assert cell in out and cell in markdown
    assert "--seeds=0,3" in markdown and found["date"] in markdown
    assert (workdir / "table.png").read_bytes().startswith(b"\x89PNG")


def test_bootstrap_interval():
    assert table.bootstrap_interval([0.5]) == (0.5, 0.5)
    low, high = table.bootstrap_interval([0.1, 0.2, 0.3])
    assert low == pytest.approx(0.1) and high == pytest.approx(0.3)
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.1, 400)
    low, high = table.bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / 20  # the normal interval
    assert low == pytest.approx(values.mean() - half, abs=0.001)
    assert high == pytest.approx(values.mean() + half, abs=0.001)


def test_finished_runs_are_not_repeated(compare, compared):
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
def test_mistakes(compare, options, sentence, tmp_path):
    done = compare(tmp_path / "runs", *options)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
