"""Repeats in float64 what float32 cannot decide, one column at a time in its own process.

A ReLU or max-pooling input within rounding of a tie may fall on either side, and then two correct
float32 programs differ by percents.  A cell that such a tie can affect is settled if it agrees to
1e-9 in float64; a wrong switch or formula would differ there too.
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mla_jax.parity import compare
from mla_jax.parity.columns import COLUMNS
from mla_jax.parity.compare import Verdict

MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
"""Makes glibc return large blocks at once: 3.2 GB per float64 process instead of 5.0."""


def settle(
    chosen: argparse.Namespace, table: dict[str, dict[str, Verdict]], say: Callable[[str], None]
) -> list[str]:
    """Runs every column with a cell out of tolerance in float64; returns notes.

    ``table`` gets the answers.  Cells of a column whose process did not end by itself are
    ``unanswered`` where float64 could have settled them.
    """
    notes = []
    for mode, verdicts in table.items():
        failed = {row: v for row, v in verdicts.items() if not v.passed}
        if not failed:
            continue
        title = COLUMNS[mode].title
        say(f"{len(failed)} cells of {title} differ in float32; the column in float64 ...")
        cells, problem = in_float64(command(chosen, mode), chosen, mode)
        if problem:
            notes.append(f"{title} is not settled: {problem}")
        for row, v in failed.items():
            touched = compare.after_backward(row)
            double = cells[row]["relative"] if row in cells else None
            settled = touched and double is not None and cells[row]["passed"]
            unanswered = touched and bool(problem)
            verdicts[row] = v._replace(settled=settled, double=double, unanswered=unanswered)
            if settled:
                notes.append(
                    f"{title}: {row}: {v.relative:.0e} in float32 at {v.worst}; {double:.0e} in "
                    "float64, so it is rounding, presumably at a tie of ReLU, max-pooling or "
                    "centroids"
                )
    return notes


def command(chosen: argparse.Namespace, mode: str) -> list[str]:
    """The command for one column in float64, without the folder to write to."""
    flag = COLUMNS[mode].clone
    options = {"modes": mode, flag: getattr(chosen, flag), "break": chosen.broken}
    given = [f"--{name}={value}" for name, value in options.items() if value]
    return [sys.executable, "-m", "mla_jax.parity", "--float64", *given]


def in_float64(
    words: list[str], chosen: argparse.Namespace, mode: str
) -> tuple[Mapping[str, Any], str]:
    """``{row: cell}`` of a column, and what went wrong if there are none."""
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryFile("w+") as said:
        folder = pathlib.Path(chosen.workdir or own) / "float64" / mode
        result = folder / "parity.json"
        result.unlink(missing_ok=True)
        process = subprocess.Popen(
            [*words, f"--workdir={folder}"], stdout=said, stderr=said, env={**os.environ, **MEMORY}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        if code in (0, 1) and result.is_file():
            return json.loads(result.read_text(encoding="utf-8"))["modes"][mode], ""
        said.seek(0)
        last = (said.read().splitlines() or ["nothing was said"])[-1]
    if code < 0:
        name, peak = signal.Signals(-code).name, usage.ru_maxrss / 2**20
        return {}, (
            f"its float64 process was killed by {name}, having used {peak:.1f} GB of memory; "
            f"free some and repeat --modes={mode}"
        )
    return {}, f"its float64 process ended with exit status {code}: {last}"


def give_memory_back() -> None:
    """Frees the last column's programs, and the pages that glibc keeps."""
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
