"""Compares this package with clones of the PyTorch references, quantity by quantity.

    python -m mla_jax.parity --reference=MLA_CLONE --dimml=DIMML_CLONE --workdir=runs/parity
    python -m mla_jax.parity --reference=MLA_CLONE --modes=paper+qmf --float64

It needs PyTorch (the extra ``parity``) and leaves the clones as they are.
"""

import argparse
import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mla_jax.config.command_line import status_of
from mla_jax.config.help import create_parser
from mla_jax.errors import UserError, check_choice
from mla_jax.parity import compare, fixtures, ours, rows, theirs
from mla_jax.parity.columns import BREAKS, COLUMNS, MLA, NOTES
from mla_jax.parity.theirs import clones


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; exit status 0 if all is within tolerance, 1 if not, 2 for bad input."""
    parser = create_parser("parity", __doc__)
    parser.add_argument(
        "--reference", default="", metavar="PATH", help="a clone of the MLA repository"
    )
    parser.add_argument(
        "--dimml", default="", metavar="PATH", help="a clone of the DI-MML repository"
    )
    parser.add_argument("--workdir", default="", metavar="DIR", help="write parity.json, parity.md")
    parser.add_argument(
        "--modes", default="",
        help=f"columns (default: all that the clones are for): {'+'.join(COLUMNS)}",
    )  # fmt: skip
    parser.add_argument("--float64", action="store_true", help="both in double precision")
    parser.add_argument(
        "--break", dest="broken", default="", choices=("", *BREAKS),
        help="set one switch of ours wrong on purpose; the exit status must then be 1",
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
    if not chosen.reference and not chosen.dimml:
        raise UserError("give a clone to compare with: --reference=PATH, --dimml=PATH, or both")
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
            for flag in clones.REPOSITORIES
            if (path := getattr(chosen, flag))
        }
        if chosen.write_fixtures:
            return fixtures.write(loaded, pathlib.Path(chosen.write_fixtures), say)
        table = {}
        for mode in modes:
            say(f"{COLUMNS[mode].title} ...")
            table[mode] = verdicts(loaded, mode, np.dtype(dtype), chosen)
    notes = [f"work-around: {text}" for clone in loaded.values() for text in clone.workarounds]
    if not chosen.float64 and not chosen.broken:
        notes += settle_in_float64(chosen, table, say)
    notes += [note for note in NOTES if any(note in COLUMNS[mode].notes for mode in modes)]
    if chosen.broken:
        notes.append(f"--break={chosen.broken}: one switch of ours is wrong on purpose")
    seconds = time.perf_counter() - started
    notes.append(f"{seconds:.0f} s, {'float64' if chosen.float64 else 'float32'}")
    say(compare.plain(table))
    for note in notes:
        say(f"* {note}")
    failed = compare.failures(table)
    for line in failed:
        say(f"OUT OF TOLERANCE  {line}")
    if chosen.workdir:
        settings = {"float64": chosen.float64, "broken": chosen.broken, "seconds": seconds}
        compare.write(pathlib.Path(chosen.workdir), table, notes, settings)
    say(
        "parity: " + (f"{len(failed)} cells out of tolerance" if failed else "all within tolerance")
    )
    return 1 if failed else 0


def verdicts(
    loaded: dict[str, clones.Clone], mode: str, dtype: np.dtype, chosen: argparse.Namespace
) -> dict[str, compare.Verdict]:
    """The cells of one column."""
    column = COLUMNS[mode]
    case = column.case(dtype, 1e-3 if chosen.broken == "epsilon" else 1e-5)
    few_ties = not chosen.float64
    found = theirs.run(loaded[column.clone], column, case, dtype, few_ties)
    own = ours.run(column, case, found, dtype, chosen.broken)
    return compare.compare(rows.quantities(found), own, chosen.float64)


def settle_in_float64(
    chosen: argparse.Namespace, table: dict[str, Any], say: Callable[[str], None]
) -> list[str]:
    """Runs again, in double precision, the modes that float32 could not hold; returns notes.

    A ReLU or max-pooling input within rounding of a tie may fall on either side, and then two
    correct float32 programs part by percents.  Cells that such a tie can touch, of modes that
    agree to 1e-9 in float64, are settled; a wrong switch or formula differs in float64 too.
    """
    open_modes = [
        m for m, verdicts in table.items() if not all(v.passed for v in verdicts.values())
    ]
    touched = [v for m in open_modes for row, v in table[m].items() if not v.passed]
    untouchable = [row for m in open_modes for row, v in table[m].items()
                   if not v.passed and not compare.after_backward(row)]  # fmt: skip
    if not touched or untouchable:
        return []
    say(f"{len(touched)} cells differ in float32; the same in float64, {'+'.join(open_modes)} ...")
    command = [sys.executable, "-m", "mla_jax.parity", "--float64"]
    command += [f"--reference={chosen.reference}", f"--dimml={chosen.dimml}"]
    command += [f"--modes={'+'.join(open_modes)}"]
    if chosen.workdir:
        command.append(f"--workdir={pathlib.Path(chosen.workdir) / 'float64'}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(done.stdout + done.stderr)
        return []
    notes = []
    for mode in open_modes:
        for row, v in table[mode].items():
            if not v.passed:
                table[mode][row] = v._replace(settled=True)
                notes.append(
                    f"{COLUMNS[mode].title}: {row}: {v.relative:.0e} in float32 at {v.worst}; the "
                    f"same mode agrees to {compare.DOUBLE:.0e} in float64, so it is rounding, "
                    "presumably at a tie of ReLU, max-pooling or centroids"
                )
    return notes


if __name__ == "__main__":
    sys.exit(main())
