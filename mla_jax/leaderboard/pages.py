"""The pages of a clone: README.md, docs/ and the leaderboard."""

import pathlib

from mla_jax.leaderboard import artefacts, blocks, board, numbers


def pages_of(root: pathlib.Path) -> list[pathlib.Path]:
    """The pages written by hand."""
    docs = sorted(path for path in (root / "docs").rglob("*.md") if path != root / board.PAGE)
    return [root / "README.md", *docs]


def made(root: pathlib.Path) -> tuple[dict[pathlib.Path, str], list[str]]:
    """Every page as generated from the artefacts, and a sentence for each block without one.

    Raises:
      UserError: an artefact is damaged, or a page names something that does not exist.
    """
    known = artefacts.read_all(root)
    found, awaited = {root / board.PAGE: board.page(known)}, []
    for path in pages_of(root):
        text = path.read_text(encoding="utf-8")
        found[path], missing = blocks.rendered(text, known, str(path.relative_to(root)))
        awaited += missing
    return found, awaited


def problems(root: pathlib.Path) -> list[str]:
    """Problems of the pages: blocks that differ from the artefacts, and figures without one.

    Raises:
      UserError: as ``made``, or a page names a source that does not exist.
    """
    known = artefacts.read_all(root)
    texts, found = made(root)  # ``found`` begins with the blocks that have no artefact
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            found.append(f"{path} differs from results/: run python -m mla_jax.leaderboard write")
    for path in pages_of(root):
        where = str(path.relative_to(root))
        found += numbers.problems(path.read_text(encoding="utf-8"), known, where)
    return found
