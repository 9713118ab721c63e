"""``python -m mla_jax.leaderboard ranks``: methods over several data sets."""

import json
import pathlib

import pytest

from mla_jax.leaderboard import artefacts
from mla_jax.leaderboard.__main__ import main

ROOT = pathlib.Path(__file__).parents[1]
SCORES = {"mla": (0.9, 0.8, 0.7), "concat": (0.8, 0.7, 0.71), "sum": (0.5, 0.6, 0.4)}


@pytest.fixture
def clone(tmp_path):
    """A clone's results/ with three data sets, made of one that is there, and one of the same."""
    results = tmp_path / artefacts.FOLDER
    results.mkdir()
    original = json.loads((ROOT / "results" / "digits-table1.json").read_text())
    for name, place in {"a": 0, "b": 1, "c": 2, "again": 0}.items():
        rows = []
        for method, scores in SCORES.items():
            row = dict(next(r for r in original["rows"] if not r["alone"]), label=method)
            rows.append(row | {"method": method, "test": row["test"] | {"fused": [scores[place]]}})
        about = original["about"] | {"dataset": f"set{place}"}
        content = original | {"rows": rows, "about": about}
        (results / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_ranks_and_diagram(clone, capsys):
    diagram = clone / "ranks.png"
    words = [f"--root={clone}", "ranks", "--artefacts=a,b,c", f"--output={diagram}"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for line in ("| mla | 1.33 |", "| concat | 1.67 |", "| sum | 3.00 |"):
        assert line in said
    assert said.index("| mla ") < said.index("| concat ") < said.index("| sum ")
    assert "Mean ranks over 3 data sets" in said and f"written: {diagram}" in said
    assert diagram.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "ranks needs --artefacts=A,B,C"),
        (["--artefacts=a,b"], "ranks need 3 data sets or more, not 2"),
        (["--artefacts=a,b,again"], "again and a are of the same data (set0: "),
        (["--artefacts=a,b,d"], "unknown artefact of results/ 'd'"),
        (["--artefacts=a,b,c", "--output=x.pdf"], "--output=x.pdf must end in .png"),
    ],
)
def test_what_cannot_be_ranked(words, sentence, clone, capsys):
    assert main([f"--root={clone}", "ranks", *words]) != 0
    assert sentence in capsys.readouterr().err
