"""Figures of the README and of docs/: of artefacts in results/, which are of finished runs."""

import functools
import json
import pathlib
import re
import subprocess

import pytest

from mla_jax.compare import table
from mla_jax.compare.variants import Variant
from mla_jax.config import fields, files
from mla_jax.datasets import load_dataset
from mla_jax.errors import UserError
from mla_jax.leaderboard import artefacts, pages
from mla_jax.leaderboard.__main__ import main
from tests import comparisons
from tests.conftest import TINY

ROOT = pathlib.Path(__file__).parents[1]
AWAITED = ()
"""Artefacts that pages name and that nobody has made yet: results/README.md has the commands."""
SEEDS = (0, 1, 2)


def test_every_figure_of_the_pages_has_an_artefact():
    assert [name for name in AWAITED if (ROOT / "results" / f"{name}.json").exists()] == []
    awaited = re.compile(rf"there is no results/({'|'.join(AWAITED)})\.json")
    assert [problem for problem in pages.problems(ROOT) if not awaited.search(problem)] == []


# ---- A clone with one artefact ------------------------------------------------------------------


@pytest.fixture(scope="module")
def commit(tmp_path_factory):
    """A repository, and its commit."""
    root = tmp_path_factory.mktemp("clone")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    told = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    )
    return root, told.stdout.strip()


@pytest.fixture
def clone(commit):
    """The repository with an empty ``results/``, a README and a comparison in ``runs/x``."""
    root, told = commit
    for folder in ("results", "docs"):
        (root / folder).mkdir(exist_ok=True)
    for path in root.rglob("*.*"):
        if path.is_file() and ".git" not in path.parts:
            path.unlink()
    (root / "README.md").write_text("# Toy\n")
    build(root / "runs" / "x", told)
    return root


@functools.cache
def of_digits():
    """A configuration as a run records it, and the fingerprint of its data."""
    loaded = fields.resolve(files.load_config(TINY, None, {"modalities": "audio+text"}))
    return fields.to_json(loaded), load_dataset(loaded.dataset, loaded.modalities).fingerprint


def build(workdir, commit):
    """The files of a comparison of ``unimodal`` and two rows of MLA, as far as ``add`` reads."""
    config, fingerprint = of_digits()
    rows, first = [], None
    for label, fused in (("unimodal", 0.5), ("mla", 0.96), ("mla:fusion=equal", 0.8)):
        parts = (["audio"], ["text"]) if label == "unimodal" else (["audio", "text"],)
        results, paths = [], []
        for seed in SEEDS:
            of_seed = []
            for part in parts:
                path = workdir / f"{label}-{'+'.join(part)}" / f"seed{seed}"
                path.mkdir(parents=True, exist_ok=True)
                result = comparisons.result(fused + seed**2 / 256, part, 100)
                figures = ("dataset", "digits"), ("method", label.partition(":")[0]), ("seed", seed)
                result |= dict(figures) | {"commit": commit}
                result["train"] |= {"epochs": 3, "steps": 9}
                identity = {"config": {**config, "modalities": part}, "data": fingerprint}
                (path / "config.json").write_text(json.dumps(identity))
                (path / "result.json").write_text(json.dumps(result))
                of_seed.append(result)
                paths.append(str(path.relative_to(workdir)))
            results.append(of_seed)
        variant = Variant(label, label.partition(":")[0], {})
        rows.append(table.summarize_row(variant, results) | {"runs": paths})
        first = first or results[0][0]
    command = "python -m mla_jax.compare --config=x '--workdir=/secret/x y' --seeds=0,1"
    found = {"command": command, "date": "2026-11-27", "seeds": list(SEEDS)}
    found |= {"about": table.about(first, 3), "rows": table.ranked(rows)}
    (workdir / "comparison.json").write_text(json.dumps(found))


def add(root, name="toy"):
    return main(["add", f"--root={root}", f"--comparison={root / 'runs' / 'x'}", f"--name={name}"])


def changed(path, *keys, value):
    """Sets a value deep in a JSON file; None takes the file away."""
    if value is None:
        path.unlink()
        return
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


def test_an_artefact_and_the_pages_made_of_it(clone, capsys):
    page = "# Toy\n\n<!-- results: toy columns=method|fused|audio rows=mla|unimodal -->\nold\n"
    (clone / "README.md").write_text(page + "<!-- /results -->\n")
    assert add(clone) == 0
    text = (clone / "results" / "toy.json").read_text()
    assert "secret" not in text and str(clone) not in text and "runs/" not in text
    assert main(["check", f"--root={clone}"]) == 1
    assert main(["write", f"--root={clone}"]) == 0 and main(["check", f"--root={clone}"]) == 0
    cells = ["| mla | 0.967 ± 0.008 | 0.483 ± 0.004 |", "| unimodal | – | 0.253 ± 0.004 |"]
    written = (clone / "README.md").read_text()
    assert "\n".join(cells) in written and "old" not in written
    board = (clone / "docs" / "leaderboard.md").read_text()
    assert "## digits: audio, text" in board and board.index("| mla |") < board.index(
        "fusion=equal"
    )
    assert add(clone, "again") == 0 and main(["write", f"--root={clone}"]) == 0
    board = (clone / "docs" / "leaderboard.md").read_text()
    assert board.count("| mla |") == 1 and "again, toy |" in board
    artefact = json.loads(text)
    other = {**artefact, "about": {**artefact["about"], "examples": 9}}
    (clone / "results" / "again.json").write_text(json.dumps(other))
    assert main(["write", f"--root={clone}"]) == 2
    assert "toy.json and results/again.json cannot be in one table" in capsys.readouterr().err


RESULTS = "*/*/result.json"
RUN, RESULT = "mla-audio+text/seed1/config.json", "mla-audio+text/seed1/result.json"
WRONG = {
    "unfinished": (RESULT, (), None, "seed1 is not finished"),
    "dirty": (RESULTS, ("commit",), "abc1234-dirty", "'abc1234-dirty', which is not a commit"),
    "no commit": (RESULTS, ("commit",), "", "'', which is not a commit"),
    "elsewhere": (RESULTS, ("commit",), "abc1234", "which is not an ancestor of HEAD"),
    "two commits": (RESULT, ("commit",), "abc1234", "seed1 has another commit than"),
    "protocol": (RESULT, ("protocol",), "paper", "another protocol"),
    "rule": (RESULT, ("selection", "rule"), "validation", "another selection rule"),
    "data": (RUN, ("data",), "digits-other", "has other data than"),
    "data of today": ("*/*/config.json", ("data",), "digits-other", "the data has changed since"),
    "figure": (RESULT, ("test", "fused"), 0.99, "'mla' has fused"),
    "parameters": ("mla-audio+text/seed0/result.json", ("parameters",), 7, "100 parameters in"),
    "no folders": ("comparison.json", ("rows", 1, "runs"), 2, "'mla' in .* does not name its runs"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_artefact(case, clone, capsys):
    pattern, keys, value, sentence = WRONG[case]
    found = list((clone / "runs" / "x").glob(pattern))
    for path in found:
        changed(path, *keys, value=value)
    if len(found) > 1 and keys == ("commit",):
        changed(clone / "runs" / "x" / "comparison.json", "about", "commit", value=value)
    assert found and add(clone) == 2
    assert re.search(sentence, capsys.readouterr().err)
    assert not (clone / "results" / "toy.json").exists()


SOURCE = "<!-- numbers: toy rows=mla figures=fused -->\n"
BLOCK = """<!-- results: toy columns=method|fused|audio rows=mla|unimodal -->

| method | fused | audio |
| :-- | --: | --: |
| mla | 0.967 ± 0.008 | 0.483 ± 0.004 |
| unimodal | – | 0.253 ± 0.004 |

<!-- /results -->
"""
PROSE = {
    f"{SOURCE}MLA has 0.967 ± 0.008, or 96.7 ± 0.8 %.": "",
    f"{SOURCE}MLA has 0.966.": "README.md:4: 0.966 is not a figure of toy rows=mla figures=fused",
    f"{SOURCE}MLA has 0.967 ± 0.007.": "4: 0.007 is not a figure",
    f"{SOURCE}MLA has 96.8 %": "4: 96.8 is not a figure",
    f"{SOURCE}\n| a | .483 |": "5: .483 is not a figure",
    "MLA has 0.967.": "3: 0.967 has no source",
    f"{SOURCE}\n## Next\n\nMLA has 0.967.": "7: 0.967 has no source",
    f"{SOURCE}<!-- /numbers -->MLA has 0.967.": "4: 0.967 has no source",
    f"{SOURCE}One seed has 0.964": "4: 0.964 is not a figure",
    "<!-- numbers: toy rows=mla seeds -->One seed has 0.964.": "",
    f"{SOURCE}It is 0.160 more.": "4: 0.160 is not a figure",
    "<!-- numbers: toy differences figures=fused -->It is 0.160 more.": "",
    f"{BLOCK}<!-- numbers: tables rows=mla -->\nMLA has 0.967 ± 0.008.": "",
    f"{BLOCK}<!-- numbers: tables rows=mla -->\nMLA has 0.253.": "0.253 is not a figure of tables",
    "`0.967`, version 3.11.20\n\n    0.967 --x=0.123\n": "",
    "<!-- numbers: published a paper, Table 1 --> It has 71.35.": "",
    "<!-- numbers: other --> It has 71.35.": "3: there is no results/other.json",
}
MISTAKES = {
    "<!-- numbers: published --> 71.35": "3: after 'numbers: published' write the source",
    "<!-- numbers: measured by hand --> 71.35": "write the day, as 2026-11-27",
    "<!-- numbers: toy rows=mlaa -->": "there is no row 'mlaa', only",
    "<!-- numbers: toy figures=video -->": "there is no figure 'video'",
    "<!-- numbers: toy row=mla -->": "unknown option 'row': did you mean 'rows'?",
    "<!-- results: toy columns=fusd -->\n<!-- /results -->": "there is no column 'fusd'",
}


def test_figures_of_a_page(clone):
    assert add(clone) == 0 and main(["write", f"--root={clone}"]) == 0
    for text, expected in PROSE.items():
        (clone / "README.md").write_text(f"# Toy\n\n{text}\n")
        found = pages.problems(clone)
        assert len(found) == bool(expected) and expected in "".join(found), (text, found)
    for text, sentence in MISTAKES.items():
        (clone / "README.md").write_text(f"# Toy\n\n{text}\n")
        with pytest.raises(UserError, match=re.escape(sentence)):
            pages.problems(clone)


def test_rows_under_missing_modalities():
    of_rate = {f: {"fused": [0.5, 0.75], "audio": [0.5, 0.5]} for f in ("accuracy", "macro_f1")}
    row = {"label": "mla", "rates": {"0.3": of_rate}}
    runs = [
        artefacts.Finished(
            pathlib.Path(str(seed)), {"missing": {"test": 0.3}}, "x",
            {"seed": seed, "test": {"fused": 0.5 + seed / 4, "audio": 0.5}},
        )
        for seed in (1, 0)
    ]  # fmt: skip
    artefacts.check_rates(row, runs, [0, 1])
    with pytest.raises(UserError, match=r"'mla at 0\.3' has fused"):
        artefacts.check_rates(row, runs, [1, 0])
    with pytest.raises(UserError, match=r"'mla at 0\.3' has fused"):
        artefacts.check_rates(row, runs[:1], [0, 1])
