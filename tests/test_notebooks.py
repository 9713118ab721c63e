"""The notebooks run from top to bottom, and their last cells hold; their pages are made of them."""

import os
import pathlib

import jupytext
import nbclient
import pytest

from docs.generate import links, notebooks

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
TIMEOUT = 300
"""Seconds for one cell; the longest takes about thirty on two busy cores."""
OPTIMISED = ("laziness",)
"""Without XLA's optimisations, which the suite leaves out, its image encoder does not learn."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    if path.stem in OPTIMISED:
        monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    notebook = jupytext.read(path)
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources=where
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any(output.output_type == "stream" for output in outputs)
    assert not [o for o in outputs if o.get("name") == "stderr"], "a notebook prints warnings"


def test_every_notebook_checks_what_it_says():
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        assert "assert " in notebooks.cells(path.read_text())[-1].source


def test_a_page_of_a_notebook():
    text = "# ---\n# jupyter: x\n# ---\n\n# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n"
    assert notebooks.cells(text) == [
        notebooks.Cell("markdown", "# Title\n\nText."),
        notebooks.Cell("code", "x = 1"),
    ]
    page = notebooks.as_page(text, "docs/notebooks/x.py")
    assert page.startswith("# Title\n\nText.\n\n```python\nx = 1\n```\n")
    assert "jupytext --to notebook docs/notebooks/x.py" in page
    linked = links.rewritten("[a](notebooks/x.py)", "docs/index.md")
    assert linked == "[a](notebooks/x.md)"
    with pytest.raises(ValueError, match="no cell"):
        notebooks.cells("x = 1\n")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_has_all_of_a_notebook(path):
    text = path.read_text()
    page = notebooks.as_page(text, str(path.relative_to(ROOT)))
    start = text.index("# %% [markdown]\n# # ")
    lines = [line for line in text[start:].splitlines() if not line.startswith("# %%")]
    assert [line for line in lines if line.removeprefix("# ").rstrip() not in page] == []
