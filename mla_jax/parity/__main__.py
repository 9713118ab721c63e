"""Compares this package with clones of the PyTorch references, quantity by quantity.

    python -m mla_jax.parity --reference=MLA_CLONE --dimml=DIMML_CLONE --workdir=runs/parity
    python -m mla_jax.parity --reference=MLA_CLONE --modes=paper+qmf --float64
    python -m mla_jax.parity --gcnet=GCNET_CLONE --mmin=MMIN_CLONE --if_mmin=IF_MMIN_CLONE

It needs PyTorch (the extra ``parity``) and does not change the clones.
"""

import argparse
import contextlib
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.config.command_line import status_of
from mla_jax.config.help import create_parser
from mla_jax.errors import UserError, check_choice
from mla_jax.parity import compare, fixtures, ours, rows, settle, theirs
from mla_jax.parity.columns import BREAKS, COLUMNS, MLA, NOTES
from mla_jax.parity.theirs import clones

UNSETTLED = 3
CLONES = clones.REPOSITORIES | clones.MISSING_REPOSITORIES


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table.

    The exit status is 0 if all is within tolerance, 1 if not, 2 for bad input, ``UNSETTLED`` if a
    float64 process that should have decided was killed.
    """
    parser = create_parser("parity", __doc__)
    parser.add_argument(
        "--reference", default="", metavar="PATH", help="a clone of the MLA repository"
    )
    parser.add_argument(
        "--dimml", default="", metavar="PATH", help="a clone of the DI-MML repository"
    )
    for flag, repository in clones.MISSING_REPOSITORIES.items():
        parser.add_argument(
            f"--{flag}", default="", metavar="PATH", help=f"a clone of {repository.name}"
        )
    parser.add_argument("--workdir", default="", metavar="DIR", help="write parity.json, parity.md")
    parser.add_argument(
        "--modes", default="",
        help=f"columns (default: all that the clones are for): {'+'.join(COLUMNS)}",
    )  # fmt: skip
    parser.add_argument("--float64", action="store_true", help="both in double precision")
    parser.add_argument(
        "--break", dest="broken", default="", choices=("", *BREAKS),
        help="set one switch of ours wrong on purpose; float64 must not settle it: exit status 1",
    )  # fmt: skip
    parser.add_argument(
        "--write_fixtures", default="", metavar="DIR", help="write tests/fixtures instead"
    )
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.parity", lambda: run(chosen, modes_of(chosen)))


def modes_of(chosen: argparse.Namespace) -> list[str]:
    """The columns to compute.

    Raises:
      UserError: no clone is given, an unknown column, or one without its clone or its break.
    """
    if not any(getattr(chosen, flag) for flag in CLONES):
        flags = ", ".join(f"--{flag}=PATH" for flag in CLONES)
        raise UserError(f"give clones to compare with, one or several of {flags}")
    if not chosen.modes:
        known = MLA if chosen.broken else COLUMNS
        return [name for name in known if getattr(chosen, COLUMNS[name].clone)]
    modes = chosen.modes.split("+")
    for mode in modes:
        check_choice("mode", mode, COLUMNS)
        flag = COLUMNS[mode].clone
        if not getattr(chosen, flag):
            raise UserError(f"mode {mode} is compared with a clone that --{flag}=PATH must give")
        if chosen.broken and mode not in MLA:
            raise UserError(f"--break is for MLA's modes, not for {mode}")
    return modes


def run(
    chosen: argparse.Namespace, modes: Sequence[str], say: Callable[[str], None] = print
) -> int:
    """The whole comparison, after the command line was read."""
    started = time.perf_counter()
    if chosen.float64:
        jax.config.update("jax_enable_x64", True)
    dtype = jnp.float64 if chosen.float64 else jnp.float32
    cache = tempfile.TemporaryDirectory()  # the modes share most of their programs
    jax.config.update("jax_compilation_cache_dir", cache.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    double = chosen.float64 or bool(chosen.write_fixtures)
    with cache, contextlib.ExitStack() as stack:
        loaded = {
            flag: stack.enter_context(clones.loaded(flag, path, double))
            for flag in CLONES
            if (path := getattr(chosen, flag))
        }
        if chosen.write_fixtures:
            return fixtures.write(loaded, pathlib.Path(chosen.write_fixtures), say)
        table = {}
        for mode in modes:
            say(f"{COLUMNS[mode].title} ...")
            table[mode] = verdicts(loaded, mode, np.dtype(dtype), chosen)
            settle.give_memory_back()
    notes = [f"work-around: {text}" for clone in loaded.values() for text in clone.workarounds]
    if not chosen.float64:
        notes += settle.settle(chosen, table, say)
    notes += [note for note in NOTES if any(note in COLUMNS[mode].notes for mode in modes)]
    if chosen.broken:
        notes.append(f"--break={chosen.broken}: one switch of ours is wrong on purpose")
    seconds = time.perf_counter() - started
    used = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    own, other = (resource.getrusage(who).ru_maxrss / 2**20 for who in used)
    precision = "float64" if chosen.float64 else f"float32; at most {other:.1f} GB in float64"
    notes.append(f"{seconds:.0f} s, at most {own:.1f} GB in {precision}")
    say(compare.plain(table))
    for note in notes:
        say(f"* {note}")
    failed, unanswered = compare.failures(table), compare.failures(table, unanswered=True)
    for line in failed:
        say(f"OUT OF TOLERANCE  {line}")
    for line in unanswered:
        say(f"NOT SETTLED  {line}")
    if chosen.workdir:
        settings = {"float64": chosen.float64, "broken": chosen.broken, "seconds": seconds}
        compare.write(pathlib.Path(chosen.workdir), table, notes, settings)
    outcome = f"{len(failed)} cells out of tolerance" if failed else "all within tolerance"
    if unanswered:
        outcome = f"{len(unanswered)} cells not settled" + (f", {outcome}" if failed else "")
    say(f"parity: {outcome}")
    return 1 if failed else UNSETTLED if unanswered else 0


def verdicts(
    loaded: dict[str, clones.Clone], mode: str, dtype: np.dtype, chosen: argparse.Namespace
) -> dict[str, compare.Verdict]:
    """The cells of one column."""
    column = COLUMNS[mode]
    if column.published:
        found = theirs.run(loaded[column.clone], column, None, dtype)
        own = ours.run(column, None, found, dtype)
        return compare.compare(rows.quantities(found), own, chosen.float64)
    case = column.case(dtype, 1e-3 if chosen.broken == "epsilon" else 1e-5)
    few_ties = not chosen.float64
    found = theirs.run(loaded[column.clone], column, case, dtype, few_ties)
    own = ours.run(column, case, found, dtype, chosen.broken)
    double = chosen.float64 and not case.vocabulary  # JAX's attention is float32 even then
    return compare.compare(rows.quantities(found), own, double)


if __name__ == "__main__":
    sys.exit(main())
