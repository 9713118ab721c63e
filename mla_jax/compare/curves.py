"""Each modality's accuracy by epoch, for every row, against its accuracy when trained alone.

This shows modality laziness: in joint training, the curve of a weak modality stays below the
dashed line.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.runs import plots
from mla_jax.runs.metrics import read_lines
from mla_jax.runs.nulls import number

FILE = "curves.png"
MOST_ROWS = 10
"""The colours cannot distinguish more rows than this: only the first ones are drawn."""


def write(workdir: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Draws ``curves.png`` into ``workdir`` if just one row trains modalities alone (the ceiling).

    Otherwise it returns False and removes an older picture.

    Args:
      rows: those of a comparison, each with ``runs``, folders relative to ``workdir``.
    """
    alone = [row for row in rows if row["alone"]]
    together = [row for row in rows if not row["alone"]][:MOST_ROWS]
    found = {}
    if len(alone) == 1:
        found = {row["label"]: by_epoch(workdir, row["runs"]) for row in together}
        found = {label: curves for label, curves in found.items() if curves}
    if not found:
        (workdir / FILE).unlink(missing_ok=True)
        return False
    plots.save(plot(found, alone[0]["mean"]), workdir / FILE)
    return True


def by_epoch(workdir: pathlib.Path, runs: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """By modality, the epochs and ``float[seeds, epochs]`` of test accuracies.

    Empty if a run's metrics are gone, or the runs were evaluated after different epochs.
    """
    of_runs = [
        [line for line in read_lines(workdir / run / "metrics.jsonl") if "test" in line]
        for run in runs
    ]
    epochs = [[line["epoch"] for line in lines] for lines in of_runs]
    if not epochs or not epochs[0] or any(own != epochs[0] for own in epochs):
        return {}
    names = [name for name in of_runs[0][0]["test"]["macro_f1"] if name != "fused"]
    return {
        name: (epochs[0], np.array([[number(l["test"][name]) for l in lines] for lines in of_runs]))
        for name in names
    }


def plot(rows: Mapping[str, Mapping[str, tuple[Any, Any]]], ceiling: Mapping[str, float]):
    """A figure, one panel per modality: each row's mean over the seeds, and the ceiling, dashed."""
    names = list(ceiling)
    canvas, axes = plots.figure(4.6 * len(names), 3.6, len(names), left=0.8, gap=0.7)
    for ax, name in zip(axes, names, strict=True):
        for i, (label, curves) in enumerate(rows.items()):
            if name in curves:
                epochs, values = curves[name]
                ax.plot(epochs, np.nanmean(values, 0), label=label, color=f"C{i}", lw=1.3)
        ax.axhline(ceiling[name], color="0.3", ls="--", lw=1.2)
        ax.set_title(f"{name} (dashed: trained alone)", fontsize="medium")
        ax.set(xlabel="epoch", ylabel="test accuracy")
        plots.set_ticks(ax.xaxis, 8, integer=True)
        plots.set_ticks(ax.yaxis, 8)
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=6, loc="lower right")
    return canvas
