"""Puts finished comparisons into results/, and the figures of results/ into the documentation.

    python -m mla_jax.leaderboard add --comparison=runs/digits-compare --name=digits
    python -m mla_jax.leaderboard write
    python -m mla_jax.leaderboard --root=CLONE check
    python -m mla_jax.leaderboard ranks --artefacts=A,B,C --output=ranks.png

`add` checks every run of a comparison by mla_jax.compare (that it is finished; its data,
protocol, selection and commit; its figures against the table's) and writes results/NAME.json.
`write` generates docs/leaderboard.md and every block of README.md and docs/ that is marked with
<!-- results: NAME ... -->.  `check` changes nothing: it prints what `write` would change and which
figures of the pages are in no artefact; the exit status is 1 if there are any.  `ranks` ranks the
methods that three or more tables of different data sets share, tests whether they differ, and draws
the critical-difference diagram (Demsar 2006).

It works in a clone of the repository, which has results/ and docs/.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from mla_jax.compare import ranks
from mla_jax.config.command_line import check_output, status_of, write_whole
from mla_jax.config.help import create_parser
from mla_jax.errors import UserError
from mla_jax.leaderboard import artefacts, board, pages, ranking
from mla_jax.runs import plots

ACTIONS = ("add", "write", "check", "ranks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = create_parser("leaderboard", __doc__)
    parser.add_argument("action", choices=ACTIONS, help="what to do, see above")
    parser.add_argument(
        "--comparison", default="", metavar="DIR",
        help="the --workdir of a finished mla_jax.compare, for add",
    )  # fmt: skip
    parser.add_argument("--name", default="", help="of the artefact (digits-table3), for add")
    parser.add_argument("--artefacts", default="", metavar="NAMES", help="as A,B,C, for ranks")
    parser.add_argument("--output", default="", metavar="FILE", help="the diagram, .png, for ranks")
    parser.add_argument("--root", default=".", metavar="DIR", help="the top of the clone")
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.leaderboard", lambda: _act(chosen))


def _act(chosen: argparse.Namespace) -> int:
    root = pathlib.Path(chosen.root)
    if chosen.action == "add":
        _add(root, chosen.comparison, chosen.name)
        return 0
    if chosen.comparison or chosen.name:
        raise UserError(f"--comparison and --name belong to add, not to {chosen.action}")
    if chosen.action == "ranks":
        _rank(root, chosen.artefacts, chosen.output)
        return 0
    if chosen.action == "check":
        found = pages.problems(root)
        print("\n".join(found) or "every figure has an artefact, and every page is up to date")
        return int(bool(found))
    made, awaited = pages.made(root)
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text.encode())
            print(f"written: {path}")
    for sentence in awaited:
        print(f"left unchanged: {sentence}")
    return 0


def _add(root: pathlib.Path, comparison: str, name: str) -> None:
    if not comparison or not artefacts.NAME.fullmatch(name):
        raise UserError(
            "add needs --comparison=DIR and --name=NAME of small letters, digits and -, as in "
            "--comparison=runs/digits-compare --name=digits"
        )
    others = artefacts.read_all(root)
    path = root / artefacts.FOLDER / f"{name}.json"
    check_output(path, "--name")
    found = artefacts.of_comparison(pathlib.Path(comparison), root)
    board.page({**others, name: found})  # raises if it does not fit the others
    artefacts.write(found, path)
    print(f"written: {path}; now python -m mla_jax.leaderboard write")


def _rank(root: pathlib.Path, names: str, output: str) -> None:
    if not names:
        raise UserError("ranks needs --artefacts=A,B,C, names of three or more files of results/")
    path = pathlib.Path(output)
    if output:
        check_output(path, "--output")
        if path.suffix != ".png":
            raise UserError(f"--output={output} must end in .png")
    found = ranking.of_artefacts(artefacts.read_all(root), names.split(","))
    print(ranking.text(found))
    if output:
        plots.save(ranks.critical_difference(found), path)
        print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
