"""The table of misuse as it stands in ``docs/misuse.md``."""

import importlib.metadata
import pathlib
import platform
from collections.abc import Mapping

from tests.misuse.case import PYTHON, Case
from tests.misuse.cases import AREAS
from tests.misuse.runner import ROOT, Outcome

FILE = ROOT / "docs" / "misuse.md"
LIBRARIES = ("absl-py", "jax", "numpy", "orbax-checkpoint", "safetensors", "tokenizers", "torch")
ABOUT = """# What happens when something is wrong

{count} mistakes, each made in a folder of its own that holds `small.py` (a configuration of two
modalities `a` and `b`), `data/` (its arrays) and, where it is needed, a finished `run/`. Every one
is answered with one sentence on standard error and the exit status in the last column. None
leaves a file behind or changes one, but for records that the same command goes on from.
`UserError` stands for Python: the exception that is raised.

`python -m tests.misuse --write` makes this page by making the mistakes; `tests/test_misuse.py`
checks every row. Some sentences quote a library: {versions}.
"""
HEADER = "\n| What is typed | What is wrong beside it | The answer | Status |\n|---|---|---|---|\n"
LONGEST = 300
"""Characters of a cell."""


def versions() -> str:
    """What sentences may quote: Python and the libraries."""
    found = [f"Python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def page(rows: Mapping[str, str]) -> str:
    """The page, of the row of each case."""
    text = ABOUT.format(count=len(rows), versions=versions())
    for area, module in AREAS.items():
        about = " ".join(module.__doc__.split())
        text += f"\n## {area.capitalize()}\n\n{about}\n" + HEADER
        text += "".join(rows[f"{area}-{name}"] for name in module.CASES)
    return text


def row(case: Case, outcome: Outcome) -> str:
    """The row of one case."""
    typed = case.typed.strip() if case.status == PYTHON else f"python -m mla_jax.{case.typed}"
    holds = case.holds
    if not holds and case.files:
        holds = "; ".join(f"{name}: {shown(content)}" for name, content in case.files.items())
    lines = [f"`{cell(line)}`" for line in typed.splitlines() if line]
    return f"| {'<br>'.join(lines)} | {cell(holds)} | {cell(outcome.said)} | {outcome.status} |\n"


def shown(content: object) -> str:
    """The content of a file in a few words."""
    if isinstance(content, str):
        return repr(content) if content else "empty"
    return "arrays" if isinstance(content, bytes) else "made for the case"


def cell(text: str) -> str:
    """A text that does not end its cell of a table of Markdown."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.strip())
    text = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return text.replace("|", "\\|").replace("<", "&lt;")


def written(path: pathlib.Path = FILE) -> dict[str, str]:
    """The rows of the page as it was written, by case."""
    lines = [line + "\n" for line in path.read_text().splitlines()]
    rows = [line for line in lines if line.startswith("| `")]
    names = [f"{area}-{name}" for area, module in AREAS.items() for name in module.CASES]
    return dict(zip(names, rows, strict=False))  # another number of rows is found by a test
