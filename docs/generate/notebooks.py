"""Pages of the notebooks, which are Python files in the percent format of jupytext.

A page has the text and the code.  Nothing is executed when the site is built:
``tests/test_notebooks.py`` executes them.
"""

import re
from typing import NamedTuple

CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?$\n?", re.MULTILINE)
HOW = """
---

This page is made of `{path}`. To open it as a notebook, in the clone:

    pip install jupytext notebook
    jupytext --to notebook {path}

It runs as a script too: `python {path}`.
"""


class Cell(NamedTuple):
    """``kind`` is ``markdown`` or ``code``."""

    kind: str
    source: str


def cells(text: str) -> list[Cell]:
    """The cells of a notebook, without the header of jupytext.

    Raises:
      ValueError: there is no cell.
    """
    _, *parts = CELL.split(text)
    if not parts:
        raise ValueError("no cell: a notebook has lines '# %%' and '# %% [markdown]'")
    found = []
    for kind, source in zip(parts[::2], parts[1::2], strict=True):
        if kind:
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        found.append(Cell("markdown" if kind else "code", source.strip()))
    return found


def as_page(text: str, path: str) -> str:
    """A notebook as a page; ``path`` is its path from the root of the repository."""
    shown = [f"```python\n{c.source}\n```" if c.kind == "code" else c.source for c in cells(text)]
    return "\n\n".join(shown) + "\n" + HOW.format(path=path)
