"""``--study``: the papers' tables as data, beside ours; ``--runs``: finished runs in one table."""

import copy
import json
import pathlib
import shutil

import pytest

from mla_jax import methods
from mla_jax.compare import layout, published, runs, table, training
from mla_jax.compare.studies import STUDIES
from mla_jax.compare.variants import parse_variants
from mla_jax.config import fields
from mla_jax.datasets import DESCRIPTIONS
from mla_jax.errors import UserError

TINY = ["--config=tests/configs/tiny.py", "--config.epochs=1"]


# ---- The studies themselves --------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_sound(name):
    study = STUDIES[name]
    rows = parse_variants(list(study.entries))
    assert [row.label for row in rows] == list(study.entries)  # none is another one again
    assert len(set(study.entries.values())) == len(rows) and study.title
    assert (study.source != "") == bool(study.published or study.missing)
    for dataset, figures in study.published.items():
        known = {"fused", *DESCRIPTIONS[dataset].modalities}
        assert set(figures) == set(study.entries)
        for row in figures.values():
            assert set(row) == known and all(0 < value < 100 for value in row.values())
    for group in study.same_unimodal:
        assert set(group) <= set(study.entries)


def test_published_figures():
    """Cells that the spec has, and what the paper itself says of them."""
    one, three = STUDIES["table1"].published, STUDIES["table3"].published
    assert one["cremad"]["mla"] == {"fused": 79.70, "audio": 59.27, "video": 64.91}
    assert one["kinetics_sounds"]["ogm_ge"] == {"fused": 65.74, "audio": 48.87, "video": 29.73}
    assert one["iemocap"]["qmf"]["text"] == 75.03
    neither, fused, hgm, both = STUDIES["table3"].entries
    for dataset, rows in three.items():
        assert rows[neither] == one[dataset]["late_fusion"]  # digit for digit
        assert rows[both]["fused"] == one[dataset]["mla"]["fused"]
        for pair in ((neither, fused), (hgm, both)):
            a, b = ({k: v for k, v in rows[e].items() if k != "fused"} for e in pair)
            assert a == b


def test_table2_is_the_sweep_of_the_paper():
    study = STUDIES["table2"]
    assert set(study.entries) == set(published.TABLE2) == set(published.IEMOCAP)
    assert set(published.RATES) < set(map(float, study.missing)) and len(study.missing) == 8


def test_fidelity_has_every_switch_that_the_published_forms_set():
    entries = [variant.switches for variant in parse_variants(list(STUDIES["fidelity"].entries))]
    forms = methods.get("mla").FIDELITY
    for name in ("released", "first_drop"):
        for switch, value in fields.flatten(forms[name]).items():
            assert {switch: value} in entries
        assert {"fidelity": name} in entries


# ---- A study that is run -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def table3(commands, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "table3"
    options = [*TINY, "--config.selection=last", "--seeds=0,1", "--study=table3"]
    done = commands.run("mla_jax.compare", [*options, f"--workdir={workdir}"])
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout, json.loads((workdir / "comparison.json").read_text())


def test_rows_keep_the_order_of_the_study(table3):
    workdir, out, found = table3
    entries = STUDIES["table3"].entries
    assert [row["label"] for row in found["rows"]] == list(entries)
    assert [row["heading"] for row in found["rows"]] == list(entries.values())
    assert [bool(row.get("evaluated_from")) for row in found["rows"]] == [False, True] * 2
    markdown = (workdir / "comparison.md").read_text()
    assert "|  | HGM ✗, DF ✗ | HGM ✗, DF ✓ | HGM ✓, DF ✗ | HGM ✓, DF ✓ |" in markdown
    assert "no published figures for this data set" in markdown and "published" not in out
    printed = (workdir / "comparison.tex").read_text()
    assert r"HGM $\times$, DF $\checkmark$" in printed


def test_the_identity_of_table3_is_checked(table3):
    workdir, out, found = table3
    checks = found["study"]["checks"]
    assert [check["equal"] for check in checks] == [True, True]
    rows = {row["label"]: row for row in found["rows"]}
    for check in checks:
        first, second = (rows[label]["test"] for label in check["rows"])
        assert first["audio"] == second["audio"] and first["text"] == second["text"]
        assert layout.verdict(check) in out
        assert layout.verdict(check) in (workdir / "comparison.md").read_text()
    broken = copy.deepcopy(found["rows"])
    broken[1]["test"]["audio"][1] += 1e-9
    check = layout.check_same_unimodal(broken, checks[0]["rows"])
    assert not check["equal"] and check["differing"] == [broken[1]["label"]]
    assert layout.verdict(check).startswith("NOT equal")


def test_published_figures_stand_beside_ours(table3, tmp_path):
    """The rows of a run are printed as if they were CREMA-D's."""
    comparison = copy.deepcopy(table3[2])
    for row in comparison["rows"]:
        for group in ("test", "mean", "interval"):
            row[group]["video"] = row[group].pop("text")
    comparison["about"]["dataset"] = "cremad"
    study, rows = STUDIES["table3"], comparison["rows"]
    comparison["study"] = layout.of_study("table3", study, rows, "cremad")
    said = table.write(tmp_path, comparison)
    markdown = (tmp_path / "comparison.md").read_text()
    assert "published fused, %" in said and "79.70" in said
    assert "| fused, published | 66.32 | 72.79 | 74.51 | 79.70 |" in markdown
    assert "| audio, published | 52.17 | 52.17 | 59.27 | 59.27 |" in markdown
    assert "from MLA paper, Table 3" in markdown and study.notes[""] in markdown
    assert "audio, published & 52.17" in (tmp_path / "comparison.tex").read_text()
    comparison["study"]["entries_are_columns"] = False
    header, lines = layout.as_published(comparison, ("fused", "audio", "video"))
    assert header[-2:] == ["fused", "fused, published"] and lines[3][-1] == "79.70"


def test_a_varied_study_has_the_identity_at_every_point(table3):
    rows = []
    for setting, shift in (("", 0.0), (", epochs=2", 0.1)):
        for row in copy.deepcopy(table3[2]["rows"]):
            row["label"] += setting
            row["test"]["audio"] = [value + shift for value in row["test"]["audio"]]
            rows.append(row)
    assert layout.check_same_unimodal(rows, STUDIES["table3"].same_unimodal[0])["equal"]


@pytest.mark.parametrize("name", ["table2", "table4", "fidelity", "dimml", "representation"])
def test_a_study_is_planned(name, commands, tmp_path):
    """Its plan is made, then a mistake in the folder stops it before anything is trained."""
    (tmp_path / "mine").write_text("")
    options = [TINY[0], f"--study={name}", "--seeds=0", f"--workdir={tmp_path}"]
    done = commands.run("mla_jax.compare", options)
    assert done.returncode == 2 and "holds mine but no comparison" in done.stderr


# ---- Finished runs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(commands, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "made"
    options = [*TINY, "--methods=unimodal,concat,mla:zero_grad_drift=true+fusion=equal"]
    options += ["--seeds=0,3", f"--workdir={workdir}"]
    done = commands.run("mla_jax.compare", options)
    assert done.returncode == 0, done.stderr
    return workdir


def facts(path: pathlib.Path):
    found = json.loads((path / "comparison.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("runs", "seeds")} for row in found["rows"]]
    lines = (path / "comparison.md").read_text().splitlines()
    return rows, found["about"], [line for line in lines if line.startswith("|")]


def test_the_runs_of_a_comparison_make_the_same_table(compared, commands, tmp_path):
    folders = sorted(path.parent for path in compared.rglob("config.json"))
    before = [path.stat().st_mtime_ns for path in sorted(compared.rglob("*.json"))]
    listed = ",".join(map(str, folders))
    done = commands.run("mla_jax.compare", [f"--runs={listed}", f"--workdir={tmp_path}"])
    assert done.returncode == 0, done.stderr
    # Git's HEAD may have moved from one run to the next: the table names the commits of all.
    commits = [json.loads((f / "result.json").read_text())["commit"] or "none" for f in folders]
    rows, about, lines = facts(compared)
    assert (about["commit"] or "none") in commits
    about["commit"] = ", ".join(dict.fromkeys(commits))
    assert facts(tmp_path) == (rows, about, lines)
    assert [path.stat().st_mtime_ns for path in sorted(compared.rglob("*.json"))] == before
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert found["seeds"] == [0, 3] and {tuple(row["seeds"]) for row in found["rows"]} == {(0, 3)}
    run = tmp_path / found["rows"][0]["runs"][0]
    assert run.resolve().is_relative_to(compared.resolve())


def test_so_do_the_runs_alone(compared, tmp_path):
    """Without the comparison's own file, whose labels are as they were typed."""
    moved = tmp_path / "moved"
    shutil.copytree(compared, moved, symlinks=True)
    (moved / "comparison.json").unlink()
    rows, _ = runs.rows_of([str(moved)])
    ours = {row["label"]: row for row in rows}
    theirs = {row["label"]: row for row in facts(compared)[0]}
    assert set(ours) == {"unimodal", "concat", "mla:fusion=equal+zero_grad_drift=true"}
    renamed = {"mla:fusion=equal+zero_grad_drift=true": "mla:zero_grad_drift=true+fusion=equal"}
    for label, row in ours.items():
        other = theirs[renamed.get(label, label)]
        assert row["test"] == other["test"] and row["switches"] == other["switches"]


def edited(compared: pathlib.Path, path: pathlib.Path, **changes) -> str:
    """A copy of the run of ``concat`` with seed 0, with fields of its files changed."""
    shutil.copytree(compared / "concat" / "seed0", path)
    for name, change in changes.items():
        file = path / f"{name}.json"
        content = json.loads(file.read_text())
        for field, value in change.items():
            *groups, last = field.split(".")
            node = content
            for group in groups:
                node = node[group]
            node[last] = value
        file.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"result": {"dataset": "mfeat"}}, "whose dataset differs (digits and mfeat)"),
        ({"result": {"protocol": "paper"}}, "whose protocol differs (strict and paper)"),
        ({"result": {"test.examples": 10}}, "whose number of test examples differs (950 and 10)"),
        ({"result": {"selection.rule": "last"}}, "selection rule differs (validation and last)"),
        ({"config": {"config.dataset.split": "x"}}, "whose split differs"),
        ({"config": {"data": "other", "config.seed": 7}}, "which were trained on different data"),
        ({}, "are the same training with the same seed (0): leave one out"),
    ],
)
def test_runs_that_cannot_stand_in_one_table(compared, tmp_path, changes, sentence):
    other = edited(compared, tmp_path / "a" / "b", **changes)
    first = str(compared / "concat" / "seed0")
    with pytest.raises(UserError) as caught:
        runs.rows_of([first, other])
    assert sentence in str(caught.value)
    assert first in str(caught.value) and other in str(caught.value)


def test_labels_say_what_differs(compared, tmp_path):
    change = {"config.optimizer.learning_rate": 0.5, "config.loader.threads": 2}
    other = edited(compared, tmp_path / "x" / "y", config=change)
    same = edited(compared, tmp_path / "z" / "seed0")
    rows, _ = runs.rows_of([same, other])
    assert [row["label"] for row in rows] == [
        "concat, optimizer.learning_rate=0.05",
        "concat, optimizer.learning_rate=0.5",
    ]
    assert rows[1]["fields"] == {"optimizer.learning_rate": 0.5}


def test_labels_of_two_comparisons_say_what_differs(compared, tmp_path):
    """Each has a row ``concat``, and neither label says at which learning rate."""
    other = tmp_path / "other"
    shutil.copytree(compared, other, symlinks=True)
    for file in other.glob("concat/*/config.json"):
        file.write_text(file.read_text().replace('"learning_rate": 0.05', '"learning_rate": 0.5'))
    folders = [compared / "concat", other / "concat", compared / "unimodal-text"]
    rows, _ = runs.rows_of(list(map(str, folders)))
    assert [row["label"] for row in rows] == [
        "concat, optimizer.learning_rate=0.05",
        "concat, optimizer.learning_rate=0.5",
        "unimodal, optimizer.learning_rate=0.05",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--runs="], "--runs is empty: give folders of finished runs"),
        (["--runs=nowhere"], "--runs names 'nowhere', which holds no run (no config.json)"),
        (["--runs=a", "--methods=mla"], "--runs trains nothing, so --methods does not apply"),
        (["--runs=a", "--seeds=0"], "--runs trains nothing, so --seeds does not apply"),
        ([*TINY, "--runs=a"], "--runs trains nothing, so --config does not apply"),
        ([*TINY, "--study=tabel1"], "unknown study 'tabel1': did you mean 'table1'?"),
        ([*TINY, "--study=table1", "--methods=mla"], "--study=table1 sets its own --methods"),
        ([*TINY, "--study=table2", "--missing=0"], "--study=table2 sets its own --missing"),
    ],
)
def test_mistakes(commands, options, sentence, tmp_path):
    done = commands.run("mla_jax.compare", [*options, f"--workdir={tmp_path / 'runs'}"])
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_finished(compared, tmp_path):
    path = edited(compared, tmp_path / "a" / "b")
    pathlib.Path(path, "result.json").unlink()
    with pytest.raises(UserError, match="which is not finished"):
        runs.rows_of([path])


def test_checkpoints_are_shared_whole_or_not_at_all(tmp_path, monkeypatch):
    """Where there are no links, a copy that was cut short is not taken for the checkpoints."""
    source, path = tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints"
    (source / "3").mkdir(parents=True)
    path.parent.mkdir()

    def no_links(*_, **__):
        raise OSError

    monkeypatch.setattr(pathlib.Path, "symlink_to", no_links)
    with monkeypatch.context() as cut:
        cut.setattr(shutil, "copytree", lambda _, to: (to.mkdir(), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            training._share(source, path)
    assert not path.exists()
    training._share(source, path)
    assert (path / "3").is_dir() and not path.is_symlink()


def test_a_seed_without_a_modality(compared):
    folders = [str(compared / name) for name in ("unimodal-audio", "unimodal-text/seed0")]
    with pytest.raises(UserError, match="'unimodal' of seed 3 without text"):
        runs.rows_of(folders)
