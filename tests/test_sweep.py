"""The comparison under missing modalities: its figures are those of the runs."""

import json

import numpy as np
import pytest

from mla_jax.compare import published, sweep_table
from mla_jax.runs.run import open_run
from tests.comparisons import embedded, labels, undocumented

OPTIONS = ["--config=tests/configs/tiny.py", "--config.modalities=('audio','text')"]
OPTIONS += ["--config.epochs=1", "--seeds=0,1"]
SILENT = {"say": lambda line: None}


@pytest.fixture(scope="module")
def compared(commands, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "both"
    options = [f"--workdir={workdir}", "--methods=concat,late_fusion", "--missing=0.5,0"]
    done = commands.run("mla_jax.compare", OPTIONS + options)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def read(workdir, folder, seed, file="result.json"):
    return json.loads((workdir / folder / f"seed{seed}" / file).read_text())


def test_every_rate_has_its_runs(compared):
    workdir, said = compared
    found = json.loads((workdir / "comparison.json").read_text())
    assert found["missing"]["rule"] == "rate" and not found["trained_once"]
    for row in found["rows"]:
        assert list(row["rates"]) == ["0", "0.5"] and len(row["seconds"]) == 4
        expected = [f"{row['method']}-missing{r}/seed{s}" for r in ("0", "0.5") for s in (0, 1)]
        assert row["runs"] == expected
        for rate, cell in row["rates"].items():
            results = [read(workdir, f"{row['method']}-missing{rate}", s) for s in (0, 1)]
            assert cell["accuracy"]["fused"] == [r["test"]["fused"] for r in results]
            weighted = [r["test"]["weighted_f1"]["fused"] for r in results]
            assert cell["weighted_f1"]["fused"] == weighted
            for name, values in cell["subsets"].items():
                assert values == [r["subsets"][name]["accuracy"] for r in results]
            assert set(cell["subsets"]) == {"audio", "text", "audio+text", "incomplete"}
            assert cell["true_rate"] == results[0]["missing"]["true_rate"]["test"]
        assert row["rates"]["0"]["true_rate"] == 0 < row["rates"]["0.5"]["true_rate"]
    assert list(found["statistics"]) == ["0", "0.5"]
    for rate, statistics in found["statistics"].items():
        means = {r["label"]: np.mean(r["rates"][rate]["accuracy"]["fused"]) for r in found["rows"]}
        assert statistics["best"] == max(means, key=means.get) and not statistics["without"]
        told = {label: row["accuracy"] for label, row in statistics["rows"].items()}
        assert told == pytest.approx(means)
        assert statistics["rows"][statistics["best"]]["bold"]
    text = (workdir / "comparison.md").read_text()
    best = found["statistics"]["0.5"]["best"]
    (line,) = [line for line in text.split("## Macro")[0].splitlines() if f"| {best} |" in line]
    assert line.split("|")[3].strip().startswith("**") and "Bold" in text
    for part in ("## Accuracy", "## Macro-F1", "## Weighted F1", "| true rate |", "## Subsets"):
        assert part in text
    assert "Published" not in text and (workdir / "comparison.png").stat().st_size > 10_000
    assert "late_fusion-missing0.5 seed 1: test fused" in said


def test_the_page_has_every_rate_and_run(compared):
    workdir, said = compared
    found = json.loads((workdir / "comparison.json").read_text())
    stages = {key for row in found["rows"] for key in row["stages"]}
    varying = {row["label"] for row in found["rows"]} | {
        "fused",
        "audio",
        "text",
        "audio+text",
        "incomplete",
        "0",
        "0.5",
        *stages,
    }
    assert "comparison.html" in said and not undocumented(found, varying)
    text = (workdir / "comparison.html").read_text()
    for part in ("<h2>Accuracy</h2>", "Macro-F1", "true rate", "data:image/png", "rule rate"):
        assert part in text
    rows = embedded(text)["rows"]
    assert [row["label"] for row in rows] == labels(text)
    runs = [run for row in rows for run in row["runs"]]
    assert len(runs) == 8 and {run["part"] for run in runs} == {"rate 0", "rate 0.5"}
    assert all(run["loss"]["x"] == [1] and run["confusion"] for run in runs)


def test_all_methods_and_seeds_have_the_same_masks(compared):
    workdir, _ = compared
    folders = [
        workdir / f"{m}-missing0.5" / f"seed{s}" for m in ("concat", "late_fusion") for s in (0, 1)
    ]
    first, *others = [np.load(folder / "masks.npz") for folder in folders]
    assert set(first.files) == {"train", "validation", "test", "modalities"}
    for other in others:
        for name in first.files:
            np.testing.assert_array_equal(first[name], other[name])
    prints = {json.loads((folder / "config.json").read_text())["data"] for folder in folders}
    assert len(prints) == 1 and "missing" in prints.pop()


def test_a_run_is_evaluated_again_with_its_masks(compared):
    workdir, _ = compared
    result = read(workdir, "late_fusion-missing0.5", 0)
    run = open_run(workdir / "late_fusion-missing0.5" / "seed0", **SILENT)
    assert run.evaluate()["fused"] == result["test"]["fused"]
    assert run.subsets() == result["subsets"]
    assert result["subsets"]["audio"]["examples"] == run.data.examples["test"]


def test_rows_trained_once_are_evaluated_at_every_rate(commands, compared, tmp_path):
    options = [f"--workdir={tmp_path / 'once'}", "--methods=late_fusion", "--missing=0,0.5"]
    done = commands.run("mla_jax.compare", OPTIONS + options + ["--config.missing.train=0"])
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "once" / "comparison.json").read_text())
    (row,) = found["rows"]
    assert found["trained_once"] and row["runs"] == [
        f"late_fusion-trained0/seed{s}" for s in (0, 1)
    ]
    for rate, statistics in found["statistics"].items():
        told = statistics["rows"]["late_fusion"]["accuracy"]
        assert told == pytest.approx(np.mean(row["rates"][rate]["accuracy"]["fused"]))
    (shown,) = embedded((tmp_path / "once" / "comparison.html").read_text())["rows"]
    assert [(r["seed"], r["part"]) for r in shown["runs"]] == [
        (0, "trained at rate 0"),
        (1, "trained at rate 0"),
    ]
    assert all(run["confusion"] for run in shown["runs"])
    both = json.loads((compared[0] / "comparison.json").read_text())
    (trained_at_each,) = (r for r in both["rows"] if r["method"] == "late_fusion")
    # Trained on complete data and tested on it: the same runs in both.
    assert row["rates"]["0"]["accuracy"] == trained_at_each["rates"]["0"]["accuracy"]
    assert row["rates"]["0.5"]["true_rate"] == trained_at_each["rates"]["0.5"]["true_rate"]
    assert row["rates"]["0.5"]["subsets"] == row["rates"]["0"]["subsets"]
    assert row["rates"]["0.5"]["accuracy"] != row["rates"]["0"]["accuracy"]
    again = commands.run("mla_jax.compare", OPTIONS + options + ["--config.missing.train=0"])
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "once" / "comparison.json").read_text())
    assert repeated["rows"] == found["rows"] and repeated["statistics"] == found["statistics"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--missing=half"], "--missing=half must be rates"),
        (["--missing=0.5,1.5"], "must be different rates from 0 to 1"),
        (["--missing=0.5,0.5"], "must be different rates from 0 to 1"),
        (["--missing=0.5", "--config.missing.test=0.1"], "both set what is missing"),
        (["--missing=0.5", "--config.missing.rule=six"], "missing.rule=six and missing.masks use"),
        (["--missing=0.5", "--methods=unimodal"], "'unimodal' trains one modality"),
    ],
)
def test_rates_that_cannot_be_are_refused(commands, tmp_path, options, sentence):
    done = commands.run("mla_jax.compare", [*OPTIONS, f"--workdir={tmp_path / 'x'}", *options])
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_published_figures_stand_apart():
    assert set(published.IEMOCAP) == set(published.TABLE2) and len(published.TABLE2) == 12
    text = sweep_table._published_table([{"method": "mla"}, {"method": "concat"}])
    assert "| method | paper 0.1 | paper 0.2 |" in text and "| mla | 75.07 |" in text
    assert "concat" not in text and published.OWN in text
