"""The Python of the README runs as it is written."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_of_the_readme(snippet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    if "run" in names:
        run, out = names["run"], names["out"]
        assert (out.classes == run.dataset().splits["test"].label).mean() == (
            run.result["test"]["fused"]
        )
        assert out.weights.shape == (950, 2)
    else:
        assert names["weights"].shape == (8, 2)


def test_the_readme_has_snippets():
    assert len(SNIPPETS) == 2
