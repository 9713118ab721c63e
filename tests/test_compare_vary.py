"""``--vary``: a grid of fields, checked before training; what acts at test time is not trained."""

import json
import os
import pathlib
import re

import jax
import numpy as np
import pytest

from mla_jax import methods, open_run
from mla_jax.compare import latex, training, variants
from mla_jax.compare.training import Progress, duration
from mla_jax.compare.variants import Variant
from mla_jax.functional.optimizers import StepInfo

TINY = ["--config=tests/configs/tiny.py", "--config.epochs=1"]
RULES = ("entropy", "equal", "batch_entropy")
GRID = [
    "--methods=concat,mla",
    f"--vary=method.fusion={','.join(RULES)}",
    "--vary=optimizer.learning_rate=0.05,1e-2",
    "--seeds=0",
]


@pytest.fixture(scope="module")
def grid(commands, tmp_path_factory):
    """Two methods at two learning rates, one of them under three rules of fusion."""
    workdir = tmp_path_factory.mktemp("vary") / "runs"
    options = [*TINY, "--config.selection=last", *GRID, f"--workdir={workdir}"]
    done = commands.run("mla_jax.compare", options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((workdir / "comparison.json").read_text())["rows"]
    return workdir, options, done.stdout, {row["label"]: row for row in rows}


def test_every_point_is_a_row(grid):
    workdir, _, out, rows = grid
    mla = [f"mla, method.fusion={rule}" for rule in RULES]
    heads = ["concat", *mla]  # concat has no such switch
    assert set(rows) == {
        f"{head}, optimizer.learning_rate={rate}" for head in heads for rate in ("0.05", "1e-2")
    }
    for label, row in rows.items():
        (folder,) = {pathlib.Path(run).parent.name for run in row["runs"]}
        assert re.fullmatch(rf"{row['method']}[\w.-]*-[0-9a-f]{{8}}", folder)
        config = json.loads((workdir / row["runs"][0] / "config.json").read_text())["config"]
        rate = float(label.rpartition("=")[2])
        assert row["fields"] == {"optimizer.learning_rate": rate}
        assert config["optimizer"]["learning_rate"] == rate
        if row["method"] == "mla":
            assert row["switches"] == {"fusion": config["method"]["fusion"]}
            assert f"fusion={config['method']['fusion']}," in label
    assert len({row["runs"][0] for row in rows.values()}) == 8
    assert "Rows differ in optimizer.learning_rate, as their labels say." in out
    assert "run 1 of 8: concat-" in out and re.search(r"run 2 of 8: .* s; about .* left\n", out)


def test_a_switch_that_acts_at_test_time_is_not_trained_again(grid):
    workdir, _, _, rows = grid
    for rate in ("0.05", "1e-2"):
        first, *others = (
            rows[f"mla, method.fusion={rule}, optimizer.learning_rate={rate}"] for rule in RULES
        )
        assert "evaluated_from" not in first
        assert (workdir / first["runs"][0] / "metrics.jsonl").exists()
        for row in others:
            assert row["evaluated_from"] == first["label"]
            assert not (workdir / row["runs"][0] / "metrics.jsonl").exists()
            assert row["test"]["audio"] == first["test"]["audio"]  # of one training
    entropy, over_batch = (
        rows[f"mla, method.fusion={rule}, optimizer.learning_rate=0.05"]["test"]["fused"]
        for rule in ("entropy", "batch_entropy")
    )
    assert entropy != over_batch


@pytest.mark.parametrize("rule", RULES[1:])
def test_it_has_the_figures_of_a_run_trained_with_that_rule(grid, commands, tmp_path, rule):
    workdir, _, _, rows = grid
    options = [*TINY, "--config.selection=last", f"--config.method.fusion={rule}"]
    options += ["--config.optimizer.learning_rate=0.05", f"--workdir={tmp_path / 'run'}"]
    assert commands.run("mla_jax.main", options).returncode == 0
    label = f"mla, method.fusion={rule}, optimizer.learning_rate=0.05"
    found = workdir / rows[label]["runs"][0]
    ours, theirs = (
        [json.loads((path / name).read_text()) for name in ("result.json", "confusion.json")]
        for path in (found, tmp_path / "run")
    )
    assert ours[1] == theirs[1]
    for part in ("test", "validation", "selection", "parameters", "method", "fidelity"):
        assert ours[0][part] == theirs[0][part], part
    assert (found / ours[0]["evaluated_from"] / "metrics.jsonl").exists()


def test_such_a_run_can_be_opened(grid):
    workdir, _, _, rows = grid
    label = "mla, method.fusion=batch_entropy, optimizer.learning_rate=0.05"
    run = open_run(workdir / rows[label]["runs"][0])
    assert run.config.method.fusion == "batch_entropy" and run.is_finished()
    again = run.evaluate("test")
    for figure in ("audio", "text"):
        assert again[figure] == run.result["test"][figure]


def test_finished_points_are_not_repeated(grid, commands):
    workdir, options, _, _ = grid
    results = sorted(workdir.rglob("result.json"))
    before = [path.stat().st_mtime_ns for path in results]
    assert len(before) == 8
    assert commands.run("mla_jax.compare", options).returncode == 0
    assert [path.stat().st_mtime_ns for path in results] == before


def test_trained_where_the_epoch_is_chosen_by_an_accuracy():
    def folders(selection: str) -> dict[str, str]:
        config = variants.files.load_config("tests/configs/tiny.py")
        other = variants.files.load_config("tests/configs/tiny.py", {"method.fusion": "equal"})
        parts = [variants.Part(name, c, None, "data", selection)
                 for name, c in (("a", config), ("b", other))]  # fmt: skip
        return training.trained_folders(parts)

    assert folders("last") == {"a": "a", "b": "a"}
    assert folders("validation") == folders("best_test") == {"a": "a", "b": "b"}


VALUES = {
    ("mla", "fusion"): "batch_entropy",
    ("mla", "fusion_weights"): (0.3, 0.7),
    ("ensemble", "average"): "probabilities",
}
"""Another value of every switch that is declared to act at test time only."""


def test_declared_switches():
    declared = {(name, s) for name in methods.REGISTRY for s in methods.test_time(name)}
    assert declared == set(VALUES)


@pytest.mark.parametrize(("name", "switch"), VALUES)
def test_a_declared_switch_changes_nothing_but_the_fusion(name, switch, make_dataset, make_program):
    """The programs of training and of the modalities' logits are the same, equation by equation."""
    dataset = make_dataset()
    fixed = {"method.fusion": "fixed"} if switch == "fusion_weights" else {}
    step = StepInfo(*map(np.int32, (0, 0, 4)))

    def programs(**options) -> tuple[list[str], str]:
        method = make_program(dataset, method=name, **fixed, **options).method
        batch = dataset.splits["train"].fetch(np.arange(16))
        state = jax.eval_shape(method.init, jax.random.key(0), batch)
        traced = [jax.make_jaxpr(method.init)(jax.random.key(0), batch)]
        traced += [jax.make_jaxpr(method.predict)(state.variables, batch)]
        for stage in method.stages:
            traced += [jax.make_jaxpr(p.update)(state, batch, step) for p in stage.phases]
        prediction = jax.eval_shape(method.predict, state.variables, batch)
        fuse = jax.make_jaxpr(method.fuse)(prediction, batch["present"], state.method_state)
        consts = [str(np.asarray(c)) for c in fuse.consts]
        return [re.sub(r"0x[0-9a-f]+", "", str(t)) for t in traced], f"{fuse} {consts}"

    usual, other = programs(), programs(**{f"method.{switch}": VALUES[name, switch]})
    assert usual[0] == other[0] and len(usual[0]) > 2
    assert usual[1] != other[1]


@pytest.mark.parametrize(
    ("vary", "sentence"),
    [
        ("optimizer.learning_rat=0.1", "did you mean 'optimizer.learning_rate'?"),
        ("method.fusoin=equal", "unknown configuration field 'method.fusoin': did you mean"),
        ("optimizer=sgd", "configuration field 'optimizer' is a group: vary one of its fields"),
        ("epochs=", "--vary=epochs= has no value: write it as --vary=FIELD=a,b,c"),
        ("epochs", "--vary=epochs: write it as --vary=FIELD=a,b,c"),
        ("epochs=1,2.5", "epochs takes an integer, not '2.5'"),
        ("optimizer.nesterov=maybe", "unknown value of optimizer.nesterov 'maybe': known: false,"),
        ("optimizer.learning_rate=0.1,-1", "optimizer.learning_rate must be at least 0, not -1.0"),
        ("method.fusion=equal,fixd", "unknown value of method.fusion 'fixd': did you mean 'fixed'"),
        ("epochs=1 --vary=epochs=2", "--vary names 'epochs' twice: give all its values in one"),
        ("optimizer.learning_rate=0.1,1e-1", "names 1e-1 twice: once is enough"),
        ("epochs=2,3 --config.epochs=1", "--config.epochs and --vary=epochs=2,3 both"),
        ("method.fusion=fixed --methods=mla:fusion=equal", "'mla:fusion=equal' of --methods"),
        ("seed=1,2", "give the seeds with --seeds"),
        ("protocol=strict,paper", "all rows of a table share it: set --config.protocol"),
        ("missing.test=0.5 --missing=0.5", "--missing and --vary=missing.test both set what is"),
    ],
)  # fmt: skip
def test_mistakes(commands, vary, sentence, tmp_path):
    options = [TINY[0], "--methods=mla", f"--workdir={tmp_path / 'runs'}"]
    done = commands.run("mla_jax.compare", [*options, *f"--vary={vary}".split(" ")])
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_folders_of_points():
    point = Variant("mla, epochs=3", "mla", {}, {"epochs": 3})
    other = Variant("mla:fusion=equal, epochs=3", "mla", {"fusion": "equal"}, {"epochs": 3})
    names = [point.folder, other.folder, point._replace(fields={"epochs": 4}).folder]
    assert names[0].startswith("mla-epochs-3-") and len(set(names)) == 3
    assert point._replace(fields={}).folder == "mla"


def test_progress_counts_what_is_left(tmp_path):
    paths = [tmp_path / name / "seed0" for name in "abc"]
    paths[1].mkdir(parents=True)
    (paths[1] / "result.json").write_text("{}")
    test = {"fused": 0.5, "macro_f1": {"fused": 0.5}}
    result = {"test": test, "train": {"seconds": 1.0, "evaluate_seconds": 0.5}}
    progress = Progress(paths, [tmp_path / "d" / "seed0"])
    first = "run 1 of 4: a seed 0: test fused 0.5000; 1.5 s; about 0 s left"
    assert progress.line(paths[0], result) == first
    assert "run 2 of 4: b seed 0" in progress.line(paths[1], result)
    assert progress.line(paths[2], result).endswith("1.5 s")
    assert [duration(s) for s in (7.4, 600, 9000)] == ["7 s", "10 min", "2.5 h"]


def test_latex(grid):
    text = (grid[0] / "comparison.tex").read_text()
    assert r"mla, method.fusion=batch\_entropy, optimizer.learning\_rate=0.05 & " in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 9 and len({line.count(" & ") for line in rows}) == 1
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{@{}lrrrrrr@{}}"):
        assert text.count(command) == 1
    assert r"95 \% seeds+examples" in text and "seconds &" not in text
    assert latex.cell("**0.97 ± 0.01**") == r"\textbf{0.97 $\pm$ 0.01}"
    assert latex.escape(r"a\b_{c}^~#$&–") == (
        r"a\textbackslash{}b\_\{c\}\textasciicircum{}\textasciitilde{}\#\$\&--"
    )


def test_links_stay_inside_the_comparison(grid):
    links = [path for path in grid[0].rglob("checkpoints") if path.is_symlink()]
    assert len(links) == 4
    for link in links:
        assert not os.path.isabs(os.readlink(link)) and link.is_dir()
