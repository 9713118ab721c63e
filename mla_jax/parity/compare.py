"""Differences, tolerances and verdicts, and the table in three forms."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax.parity.columns import COLUMNS
from mla_jax.parity.formula import Tensors

FORWARD, TRAINED, DOUBLE = 1e-5, 1e-4, 1e-9
"""Relative tolerances in float32, of forward quantities and first gradients, and of what
training accumulated; and in float64, of everything."""

ACCUMULATED = (
    "head after each sub-step",
    "parameters after",
    "batch statistics after",
    "momentum after",
    "projection matrix",
    "projected gradient",
    "gradient of the head, projected",
)
AFTER_BACKWARD = (
    "gradient of",
    "head after",
    "parameters after",
    "batch statistics after",
    "momentum after",
    "projection matrix in training",
    "dimensions that teach",
)
"""Rows that a tie can change: of ReLU or max-pooling after a backward pass, or of centroids."""

LATER = ", later batches"
"""The end of the names of rows after a first training step, which are of both kinds."""

EXACT = ("predictions", "accuracy")

ALWAYS_SINGLE = "initialisation"
"""Our initial weights are float32 even in float64 runs."""

TINY = 1e-30


class Verdict(NamedTuple):
    """One cell: the worst tensor of a row in one mode."""

    absolute: float
    relative: float
    """Largest difference over largest value, tensor by tensor; for ``EXACT`` rows, the share of
    entries that differ."""
    tolerance: float
    worst: str
    """The detail (tensor, batch, modality) with the largest relative difference."""
    settled: bool = False
    """Out of tolerance in float32 because of a tie, but within it in float64."""
    double: float | None = None
    """``relative`` of the same cell in float64, if that was run."""
    unanswered: bool = False
    """Out of tolerance in float32, and the float64 run gave no answer."""

    @property
    def passed(self) -> bool:
        return self.settled or bool(self.relative <= self.tolerance)  # False on NaN

    def mark(self, settled: str, passed: str, unanswered: str, failed: str) -> str:
        """The one of the four marks that applies to the cell."""
        if self.passed:
            return settled if self.settled else passed
        return unanswered if self.unanswered else failed


def tolerance(row: str, float64: bool) -> float:
    """The largest relative difference that a row may show."""
    if row.startswith(EXACT):
        return 0.0
    if float64 and not row.startswith(ALWAYS_SINGLE):
        return DOUBLE
    return TRAINED if row.startswith(ACCUMULATED) or row.endswith(LATER) else FORWARD


def after_backward(row: str) -> bool:
    """Whether a ReLU or max-pooling tie can change a row."""
    return row.startswith(AFTER_BACKWARD) or row.endswith(LATER)


def difference(row: str, theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """``(absolute, relative)`` difference of one tensor; infinite where the shapes differ."""
    if theirs.shape != ours.shape:
        return np.inf, np.inf
    a, b = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    gap = np.abs(a - b)
    absolute = float(gap.max(initial=0))
    if row.startswith("predictions"):
        return absolute, float(np.mean(a != b))
    if row.startswith("accuracy"):  # ours are exact fractions, theirs sums of floats
        return absolute, 0.0 if absolute < 1e-12 else absolute
    return absolute, absolute / max(float(np.abs(a).max(initial=0)), TINY)


def compare(theirs: Tensors, ours: Tensors, float64: bool = False) -> dict[str, Verdict]:
    """``{row: verdict}``.  A quantity that one side lacks is an infinite difference."""
    verdicts: dict[str, Verdict] = {}
    for name in theirs | ours:
        row, _, detail = name.partition("/")
        if name in theirs and name in ours:
            absolute, relative = difference(row, np.asarray(theirs[name]), np.asarray(ours[name]))
        else:
            absolute = relative = np.inf
            detail += " (only theirs)" if name in theirs else " (only ours)"
        old = verdicts.get(row)
        if old is None or not (relative <= old.relative or np.isnan(old.relative)):  # NaN stays
            worst = max(absolute, old.absolute) if old else absolute
            verdicts[row] = Verdict(worst, relative, tolerance(row, float64), detail)
        elif absolute > old.absolute:
            verdicts[row] = old._replace(absolute=absolute)
    return verdicts


Table = Mapping[str, Mapping[str, Verdict]]
"""``{mode: {row: verdict}}``."""


def rows_of(table: Table) -> list[str]:
    """The rows of all modes, in the order in which they were recorded."""
    return list(dict.fromkeys(row for verdicts in table.values() for row in verdicts))


def failures(table: Table, unanswered: bool = False) -> list[str]:
    """One line for each cell out of tolerance, or for each that float64 should have settled."""
    return [
        f"{COLUMNS[mode].title}: {row}: {v.relative:.2e} > {v.tolerance:.0e} at {v.worst or 'all'}"
        + ("" if v.double is None else f"; {v.double:.2e} in float64")
        for mode, verdicts in table.items()
        for row, v in verdicts.items()
        if not v.passed and v.unanswered == unanswered
    ]


def markdown(table: Table, notes: Sequence[str]) -> str:
    """The table and the notes as Markdown; a cell is ``absolute / relative``."""
    header = ["quantity", "tolerance", *(COLUMNS[mode].title for mode in table)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows_of(table):
        found = [verdicts.get(row) for verdicts in table.values()]
        allowed = next(v.tolerance for v in found if v)
        cells = [_cell(v) for v in found]
        lines.append(f"| {row} | {allowed:.0e} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"* {note}" for note in notes), ""])


def plain(table: Table, abreast: int = 5) -> str:
    """The table for a terminal: both differences and a verdict, a few columns at a time."""
    if len(table) > abreast:
        names = list(table)
        parts = [names[i : i + abreast] for i in range(0, len(names), abreast)]
        return "\n\n".join(plain({name: table[name] for name in part}) for part in parts)
    width = max(map(len, rows_of(table))) + 1
    titles = [COLUMNS[mode].title for mode in table]
    lines = [" " * width + "  ".join(f"{name:>24}" for name in titles)]
    for row in rows_of(table):
        cells = []
        for verdicts in table.values():
            v = verdicts.get(row)
            mark = v.mark("tie", "ok", "?", "FAIL") if v else ""
            cells.append(f"{v.absolute:9.1e}{v.relative:9.1e} {mark:>5}" if v else f"{'-':>24}")
        lines.append(f"{row:<{width}}" + "  ".join(cells))
    return "\n".join(lines)


def write(
    path: pathlib.Path, table: Table, notes: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Writes ``parity.json`` and ``parity.md`` into a directory."""
    path.mkdir(parents=True, exist_ok=True)
    cells = {
        mode: {row: {**v._asdict(), "passed": v.passed} for row, v in verdicts.items()}
        for mode, verdicts in table.items()
    }
    content = {
        **settings,
        "passed": all(v.passed for found in table.values() for v in found.values()),
    }
    content |= {"notes": list(notes), "modes": cells}
    (path / "parity.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    head = (
        "# Parity with the PyTorch reference\n\nEach cell: largest absolute / relative difference."
    )
    (path / "parity.md").write_text(f"{head}\n\n{markdown(table, notes)}", encoding="utf-8")


def _cell(v: Verdict | None) -> str:
    if v is None:
        return "-"
    mark = v.mark(" (tie)", "", " **not settled**", " **out**")
    return f"{v.absolute:.1e} / {v.relative:.1e}{mark}"
