"""The comparison: its figures are those of the runs, and finished runs are not repeated."""

import json
import pathlib
import re
import subprocess

import numpy as np
import pytest

from mla_jax import methods
from mla_jax.compare import table, variants
from mla_jax.errors import UserError
from tests.comparisons import embedded, labels, undocumented


@pytest.fixture(scope="module")
def compare(commands):
    def compare(workdir: pathlib.Path, *options: str) -> subprocess.CompletedProcess:
        config = "--config=tests/configs/tiny.py"
        return commands.run("mla_jax.compare", [config, f"--workdir={workdir}", *options])

    return compare


SAME = "mla:fidelity=first_drop"  # as every method that knows it, by the options below
OTHER = "mla:zero_grad_drift=true+fusion=fixed"
METHODS = f"unimodal,unimodal:fusion=equal,concat,mla,{SAME},mla,{OTHER}"
METHODS += ",mla:fusion=fixed+zero_grad_drift=True"  # OTHER again


@pytest.fixture(scope="module")
def compared(compare, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compare") / "runs"
    options = [f"--methods={METHODS}", "--seeds=0,3", "--config.epochs=2"]
    options += ["--config.modalities=('audio','text')", "--config.method.fidelity=first_drop"]
    options.append("--config.method.zero_grad_drift=false")  # a switch of one method only
    done = compare(workdir, *options)
    assert done.returncode == 0, done.stderr
    return workdir, options, done.stdout


@pytest.fixture(scope="module")
def rows(compared):
    found = json.loads((compared[0] / "comparison.json").read_text())["rows"]
    assert len({row["label"] for row in found}) == len(found)
    return {row["label"]: row for row in found}


def read(workdir: pathlib.Path, entry: str, file: str, part: str = "", seed: int = 0) -> dict:
    folder = variants.parse_variant(entry).folder + part
    return json.loads((workdir / folder / f"seed{seed}" / file).read_text())


def test_the_rows_are_the_runs(compared, rows):
    workdir, _, _ = compared
    assert list(rows)[:2] == ["unimodal", "unimodal:fusion=equal"]
    fused = [np.mean(row["test"]["fused"]) for row in list(rows.values())[2:]]
    assert fused == sorted(fused, reverse=True)
    assert set(rows) == {"unimodal", "unimodal:fusion=equal", "concat", "mla", SAME, OTHER}
    for label, row in rows.items():
        method = row["method"]
        assert method == label.partition(":")[0]
        assert set(row["test"]) == {"audio", "text"} | (
            {"fused"} if method != "unimodal" else set()
        )
        for i, seed in enumerate((0, 3)):
            for figure, values in row["test"].items():
                part = f"-{figure}" if method == "unimodal" else ""
                result = read(workdir, label, "result.json", part, seed)
                assert values[i] == result["test"][figure]
                assert (result["method"], result["fidelity"]) == (method, row["fidelity"])
    assert rows["mla"]["parameters"] == read(workdir, "mla", "result.json")["parameters"] > 1000
    assert rows["mla"]["examples_per_second"] > 0
    parts = [read(workdir, "unimodal", "result.json", p, 0) for p in ("-audio", "-text")]
    assert rows["unimodal"]["flops"] == sum(part["train"]["flops"] for part in parts)
    assert all(row["flops"] > 2 * row["parameters"] for row in rows.values())


def test_plain_methods_have_folders_of_their_names(compared):
    folders = {path.name for path in compared[0].iterdir() if path.is_dir()}
    plain = {"unimodal-audio", "unimodal-text", "concat", "mla"}
    assert plain < folders
    for folder in folders - plain:
        assert re.fullmatch(r"(mla|unimodal)-[\w.-]+", folder)
    assert len(folders) == len(plain) + 2 + 2  # two of unimodal's variant, one each of mla's


def test_switches_for_all_rows_and_for_one(compared, rows):
    workdir, _, _ = compared
    fidelity = {label: row["fidelity"] for label, row in rows.items()}
    assert fidelity == {
        "unimodal": "paper",  # it knows no first_drop
        "unimodal:fusion=equal": "paper",
        "concat": "paper",
        "mla": "first_drop",
        SAME: "first_drop",
        OTHER: "first_drop",
    }
    config = read(workdir, "mla", "config.json")["config"]
    assert config["method"]["zero_grad_drift"] is False and config["epochs"] == 2
    assert config["method"]["fusion"] == "batch_entropy"
    own = read(workdir, OTHER, "config.json")["config"]
    assert own["method"]["zero_grad_drift"] is True and own["method"]["fusion"] == "fixed"
    assert own["method"]["projection"] == config["method"]["projection"]


def test_a_variant_that_changes_nothing_has_the_figures_of_the_plain_method(compared, rows):
    workdir, _, _ = compared
    assert rows[SAME]["test"] == rows["mla"]["test"]
    for seed in (0, 3):
        plain, same, other = (
            read(workdir, label, "result.json", seed=seed)["test"] for label in ("mla", SAME, OTHER)
        )
        assert plain == same  # also macro-F1
        assert plain != other
    assert rows["unimodal:fusion=equal"]["test"] == rows["unimodal"]["test"]


def test_table_and_plot(compared, rows):
    workdir, _, out = compared
    found = json.loads((workdir / "comparison.json").read_text())
    row = rows["concat"]
    values = row["test"]["fused"]
    low, high = row["interval"]["fused"]
    assert min(values) <= low <= np.mean(values) <= high <= max(values)
    assert f"[{low:.3f}, {high:.3f}]" in out
    cell = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    markdown = (workdir / "comparison.md").read_text()
    assert cell in out and cell in markdown
    assert "--seeds=0,3" in markdown and found["date"] in markdown
    for label in ("unimodal", "concat", "mla (first_drop)", SAME, f"{OTHER} (first_drop)"):
        assert markdown.count(f"| {label} |") == 1
    assert (workdir / "comparison.png").read_bytes().startswith(b"\x89PNG")
    varying = {"fused", "audio", "text"}
    varying |= {key for row in rows.values() for key in (*row["switches"], *row["stages"])}
    varying |= set(rows)  # by which the statistics are
    assert not undocumented(found, varying)


def test_the_page_has_every_row_and_run(compared, rows):
    workdir, _, out = compared
    assert "comparison.html" in out
    text = (workdir / "comparison.html").read_text()
    assert labels(text) == list(map(table.label, rows.values())) and "data:image/png" in text
    data = embedded(text)
    runs = [run for row in data["rows"] for run in row["runs"]]
    assert len(runs) == len(list(workdir.rglob("result.json")))
    for run in runs:
        assert (workdir / run["folder"] / "metrics.jsonl").is_file()
        assert run["loss"]["x"] == [1, 2] and run["confusion"] and run["chosen"] in (1, 2)
    assert data["classes"] == [read(workdir, "mla", "data.json")["class_names"]]
    assert "method.zero_grad_drift" in text.partition("Configuration differences")[2]


def test_statistics_of_the_runs(compared, rows):
    workdir, _, out = compared
    found = json.loads((workdir / "comparison.json").read_text())["statistics"]
    fused = {label: np.mean(row["test"]["fused"]) for label, row in list(rows.items())[2:]}
    assert set(found["rows"]) == set(fused)
    assert set(found["without"]) == {"unimodal", "unimodal:fusion=equal"}
    assert fused[found["best"]] == max(fused.values())
    assert (found["seeds"], found["examples"]) == (2, 950)
    markdown = (workdir / "comparison.md").read_text()
    for label, row in found["rows"].items():
        assert row["accuracy"] == pytest.approx(fused[label])
        low, high = row["interval"]
        assert low <= fused[label] <= high and f"[{low:.3f}, {high:.3f}]" in out
        cell = table.mean_std(rows[label]["test"]["fused"])
        if row["bold"]:
            assert f"| **{cell}** |" in markdown and f"{cell} *" in out
    assert found["rows"][SAME]["bold"] == found["rows"]["mla"]["bold"]
    assert f"the best fused accuracy, `{found['best']}`" in markdown


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
        (["--methods="], "--methods is empty"),
        (["--config.seed=3"], "use only --seeds"),
        (["--config.method.fusoin=fixed"], "unknown configuration field 'method.fusoin'"),
        (["--methods=concat,mla:fusoin=fixed"], "unknown switch of method 'mla' 'fusoin': did you"),
        (["--methods=concat,mla:fusion=fixd"], "unknown value of method.fusion 'fixd': did you"),
        (["--methods=concat,qmf:fidelity=relased"], "did you mean 'released'?"),
        (["--methods=concat,film:condition_on=autio"], "did you mean 'audio'?"),
        (["--methods=concat,qmf:ranking_weight=nan"], "must be a finite number"),
    ],
)
def test_mistakes(compare, options, sentence, tmp_path):
    done = compare(tmp_path / "runs", *options)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("maa:fusion=fixed", "unknown method 'maa': did you mean 'mla'?"),
        ("all:fidelity=released", "unknown method 'all'"),
        ("mla:", "write a variant as NAME:field=value+field=value"),
        ("mla:released", "write a variant as NAME:field=value+field=value"),
        ("mla:fusion=fixed+", "write a variant as NAME:field=value+field=value"),
        ("mla:fusion=fixed+fusion=fixed", "sets 'fusion' twice"),
        ("mla:name=concat", "unknown switch of method 'mla' 'name'"),
        ("mla:projection=false", "unknown switch of method 'mla' 'projection': did you mean"),
        ("concat:fusion=fixed", "unknown switch of method 'concat' 'fusion': known: fidelity"),
        ("mla:projection.enabled=flase", "'flase': did you mean 'false'?"),
        ("mla:projection.alpha=small", "method.projection.alpha takes a number, not 'small'"),
        ("dimml:split_epoch=1.5", "method.split_epoch takes an integer, not '1.5'"),
        ("mla:fusion_weights=a/b", "takes values separated by slashes (0.5/0.5), not 'a/b'"),
    ],
)
def test_what_is_no_variant(entry, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        variants.parse_variant(entry)


@pytest.mark.parametrize(
    ("entry", "switches"),
    [
        ("concat", {}),
        ("mla:projection.enabled=FALSE", {"projection.enabled": False}),
        ("mla:zero_grad_drift=true+fidelity=paper", {"zero_grad_drift": True, "fidelity": "paper"}),
        ("mla:projection.alpha=1e-2", {"projection.alpha": 0.01}),
        ("mla:projection.alpha=1", {"projection.alpha": 1.0}),
        ("mla:fusion_weights=0.25/0.75", {"fusion_weights": (0.25, 0.75)}),
        ("mla:fusion_weights=", {"fusion_weights": ()}),
        ("dimml:split_epoch=3", {"split_epoch": 3}),
        ("film:condition_on=", {"condition_on": ""}),
    ],
)
def test_switches_have_their_types(entry, switches):
    found = variants.parse_variant(entry)
    assert (found.label, found.method) == (entry, entry.partition(":")[0])
    assert found.switches == switches
    assert list(map(type, found.switches.values())) == list(map(type, switches.values()))


def test_folders():
    def folder(entry: str) -> str:
        return variants.parse_variant(entry).folder

    assert [folder(name) for name in methods.REGISTRY] == list(methods.REGISTRY)
    assert folder("mla:fusion=fixed+fidelity=paper") == folder("mla:fidelity=paper+fusion=fixed")
    entries = [
        f"film:condition_on={text}" for text in ("a b", "a/b", "a:b", "A b", "../a", "a" * 300)
    ]
    entries += ["mla:fidelity=released", "mla:fidelity=released+fusion=fixed", "film:condition_on="]
    found = list(map(folder, entries))
    assert len({name.lower() for name in found}) == len(entries)  # also where case does not count
    for name in found:
        assert re.fullmatch(r"[A-Za-z][\w.-]{,99}", name, re.ASCII)


def test_all_may_stand_among_variants():
    entries = ["mla", "all", "mla:fusion=fixed", "concat", "mla:fusion=fixed"]
    labels = [variant.label for variant in variants.parse_variants(entries)]
    everywhere = [name for name in methods.REGISTRY if not methods.handles_missing(name)]
    others = [name for name in everywhere if name != "mla"]
    assert labels == ["mla", *others, "mla:fusion=fixed"] and len(others) == 12
    table2 = [variant.method for variant in variants.parse_variants(["table2", "mla"])]
    assert len(table2) == 12 and set(methods.REGISTRY) - set(everywhere) < set(table2)


def test_the_caption_has_the_epochs_of_the_configuration(compare, tmp_path):
    """CCA, which is solved in one epoch, comes first."""
    options = ["--methods=cca", "--seeds=0", "--config.epochs=3"]
    done = compare(tmp_path / "runs", "--config.modalities=('audio','text')", *options)
    assert done.returncode == 0 and "950 examples), 3 epochs" in done.stdout, done.stderr
