"""Compares this package with clones of the PyTorch references, quantity by quantity."""

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

from mla_jax.convert.names import Tensors
from mla_jax.errors import UserError, check_choice
from mla_jax.parity import cases, columns, compare, fixtures, others, ours, reference, theirs
from mla_jax.parity.cases import BREAKS, MODES, Case, Mode

PER_EPOCH = 10
PAPER_NOTE = (
    "paper: no code of the reference computes its projection and its per-example fusion; its own "
    "training loop was run with an independent float64 implementation in the place of its plugin"
)
DRIFT_NOTE = (
    "PyTorch 1.8 columns: the optimiser's zero_grad was told to fill zeros (set_to_none=False)"
)
NAME_NOTE = (
    "first drop: the shared head was wrapped, so that its parameter has the one name "
    "(module.weight) for which the released plugin acts"
)
TOY_NOTE = (
    "3 modalities and epoch 51: narrow encoders; the reference's loop ran in the branch for its "
    "transformers, whose place the encoders took"
)
NOISE_NOTE = (
    "OGM-GE: each normal draw was 1 on both sides, so that its noise is its standard deviation"
)
DIMML_NOTE = (
    "DI-MML: in get_indices the device and the feature width 512, constants of its code, were "
    "those of the case; main_CFT.main ran whole for its calendar, without data and models"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; exit status 0 if all is within tolerance, 1 if not, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m mla_jax.parity", description=__doc__)
    parser.add_argument(
        "--reference", default="", metavar="PATH", help="a clone of the MLA repository"
    )
    parser.add_argument(
        "--dimml", default="", metavar="PATH", help="a clone of the DI-MML repository"
    )
    parser.add_argument("--workdir", default="", metavar="DIR", help="write parity.json, parity.md")
    parser.add_argument(
        "--modes", default="",
        help=f"columns (default: all that the clones are for): {'+'.join(columns.NAMES)}",
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
    try:
        return run(chosen, modes_of(chosen))
    except UserError as error:
        print(f"mla_jax.parity: {error}", file=sys.stderr)
        return 2


def modes_of(chosen: argparse.Namespace) -> list[str]:
    """The columns to compute.

    Raises:
      UserError: no clone is given, an unknown column, or one without its clone or its break.
    """
    if not chosen.reference and not chosen.dimml:
        raise UserError("give a clone to compare with: --reference=PATH, --dimml=PATH, or both")
    given = {False: bool(chosen.reference), True: bool(chosen.dimml)}
    if not chosen.modes:
        known = MODES if chosen.broken else columns.NAMES
        return [name for name in known if given[columns.needs_dimml(name)]]
    modes = chosen.modes.split("+")
    for mode in modes:
        check_choice("mode", mode, columns.NAMES)
        if not given[columns.needs_dimml(mode)]:
            flag = "--dimml" if columns.needs_dimml(mode) else "--reference"
            raise UserError(f"mode {mode} is compared with a clone that {flag}=PATH must give")
        if chosen.broken and mode not in MODES:
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
        mla = dimml = None
        if chosen.reference:
            mla = stack.enter_context(reference.loaded(chosen.reference, double))
        if chosen.dimml:
            dimml = stack.enter_context(reference.loaded_dimml(chosen.dimml, double))
        if chosen.write_fixtures:
            return fixtures.write(mla, dimml, pathlib.Path(chosen.write_fixtures), say)
        case = cases.resnet_case(1e-3 if chosen.broken == "epsilon" else 1e-5, dtype)
        table = {}
        for mode in modes:
            say(f"{columns.title(mode)} ...")
            if mode in MODES:
                adapter = theirs.av_classifier(mla, few_ties=not chosen.float64)
                found = both(mla, adapter, case, MODES[mode], np.dtype(dtype), chosen.broken)
                table[mode] = compare.compare(*found, chosen.float64)
            else:
                clone = dimml if columns.needs_dimml(mode) else mla
                table[mode] = other(clone, mode, case, np.dtype(dtype), chosen.float64)
        loaded = [clone for clone in (mla, dimml) if clone]
        workarounds = [f"work-around: {text}" for clone in loaded for text in clone.workarounds]
    if not chosen.float64 and not chosen.broken:
        ties = settle_in_float64(chosen, table, say)
        workarounds += ties
    notes = workarounds
    if set(modes) & set(MODES):
        notes += [DRIFT_NOTE, NAME_NOTE, PAPER_NOTE]
    for note, about in (
        (TOY_NOTE, [n for n, column in columns.JOINT.items() if column.toy_only]),
        (NOISE_NOTE, ["ogm_ge"]),
        (DIMML_NOTE, columns.DIMML),
    ):
        if set(modes) & set(about):
            notes.append(note)
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
                    f"{columns.title(mode)}: {row}: {v.relative:.0e} in float32 at {v.worst}; the "
                    f"same mode agrees to {compare.DOUBLE:.0e} in float64, so it is rounding, "
                    "presumably at a tie of ReLU, max-pooling or centroids"
                )
    return notes


def other(
    clone: Any, name: str, case: Case, dtype: Any, float64: bool
) -> dict[str, compare.Verdict]:
    """The cells of another method's column."""
    column = columns.JOINT.get(name)
    if name in columns.FUSIONS or (column and column.toy_only):
        case = others.toy(name, dtype)
    found = others.theirs(clone, name, case, dtype, few_ties=not float64)
    return others.verdicts(found, others.ours(name, case, found, dtype), float64)


def both(
    loaded: reference.Reference,
    adapter: theirs.Adapter,
    case: Case,
    mode: Mode,
    dtype: Any,
    broken: str = "",
) -> tuple[Tensors, Tensors]:
    """Every quantity of the table, theirs and ours.

    Evaluation starts from the reference's weights after training on both sides, so that its rows
    show the forward pass alone and not what training accumulated.
    """
    program = ours.Program(case, mode, broken)
    initial = adapter.tensors()
    a = theirs.train(loaded, adapter, case, mode, dtype)
    b = ours.train(program, initial, dtype)
    a |= theirs.evaluate(loaded, adapter, case, mode, dtype)
    b |= ours.evaluate(program, adapter.tensors(), dtype)
    inputs = [x.astype(dtype) for x in fixtures.projection_inputs(512)]
    a |= theirs.projection_updates(loaded, mode, *inputs, PER_EPOCH)
    b |= ours.projection_updates(program.switches, *inputs, PER_EPOCH)
    a["StepLR over 100 epochs/"] = theirs.step_lr(loaded, case.learning_rate, 100)
    b["StepLR over 100 epochs/"] = ours.step_lr(case, 100)
    return a, b


if __name__ == "__main__":
    sys.exit(main())
