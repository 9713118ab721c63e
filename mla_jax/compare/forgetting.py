"""What the shared head forgets, from the telemetry of runs, with intervals over the seeds.

MLA's claim (section 3.2) is that the head's step for one modality undoes what it learnt for the one
before, and that the projection prevents this.  ``telemetry`` measures it at each step; this module
summarises it.  A run without projection has no separate unprojected steps, and a joint method has
no step per modality.
"""

import itertools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from mla_jax.runs import plots, report
from mla_jax.runs.metrics import read_lines
from mla_jax.telemetry import EVENT, measurements

STEPS = {
    "taken": "the step that was taken",
    "gradient": "this batch's gradient alone, projected where the run does",
    "unprojected": "the same gradient without the projection",
    "same_length": "that, scaled to the length of the projected one",
}
"""The kinds of steps, and their labels in the plot."""
COLOURS = {"taken": "0.5", "gradient": "C0", "unprojected": "C3", "same_length": "C1"}
PLOT = "forgetting.png"
PLOTS = (PLOT,)
ALL, ITSELF, SIZE, HARM = "all", "itself", "others (size)", "others (harm)"
"""``all>all``: the mean over all ordered pairs; ``all>itself``: what the steps do to the modality
that they are for; ``all>others (size)``: the mean over the pairs of the change without its sign;
``all>others (harm)``: of its positive part, 0 where a step helps."""
MOST_PANELS = 6
"""With more ordered pairs than this, the plot shows their mean."""
UNIT = 1e-3
"""The unit of the tables, in nats: one thousandth."""

Lines = Sequence[Mapping[str, Any]]
"""The lines of a run's ``metrics.jsonl``."""


def pairs(lines: Lines) -> list[tuple[str, str]]:
    """The ordered pairs (m, k) of different modalities: the head's step for m, the loss of k.

    Empty where the phases are not modalities, as in joint training.
    """
    found = measurements(lines)
    if not found:
        return []
    modalities = list(found[0][EVENT]["loss"])
    phases = found[0][EVENT]["head_step"]
    return [(m, k) for m, k in itertools.permutations(modalities, 2) if m in phases]


def changes(lines: Lines, step: str, m: str, k: str) -> np.ndarray:
    """``float[measurements]``: the change of k's loss, in nats, by the head's step for m."""
    if m == ALL:
        of = [(m, m) for m in sorted({m for m, _ in pairs(lines)})] if k == ITSELF else pairs(lines)
        found = [changes(lines, step, *pair) for pair in of]
        parts: dict[str, Callable[[Any], Any]] = {
            SIZE: np.abs,
            HARM: lambda values: np.maximum(values, 0),
        }
        return np.mean(parts.get(k, np.asarray)(found), 0)
    return np.array([line[EVENT]["head_step"][m][step][k] for line in measurements(lines)])


def kinds_of(lines: Lines) -> list[str]:
    """The kinds of steps that a run has measured, in the order of ``STEPS``."""
    found = next(iter(measurements(lines)[0][EVENT]["head_step"].values()))
    return [name for name in STEPS if name in found]


def interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean over independent seeds; NaN for a single one.

    A percentile bootstrap over a handful of seeds is too narrow.
    """
    if len(values) < 2:
        return math.nan, math.nan
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    low, high = stats.t.interval(share, len(values) - 1, np.mean(values), max(error, 1e-300))
    return float(low), float(high)


def summarize(runs: Sequence[Lines]) -> dict[str, Any]:
    """The figures of one row, whose runs differ only in the seed.

    For each ordered pair and each kind of step: the mean change per step of every seed, the mean
    over the seeds and its interval.  Also what the projection prevents, by seed: the change by
    the unprojected gradient of the same length minus that by the projected one.

    ``{"image>audio": {"taken": {"seeds", "mean", "interval"}, ..., "prevented": {...}}}``, in nats
    per step of the head; for each pair, and for ``all``.  Empty for joint methods, and where the
    runs were not measured at the same batches.
    """
    found = {}
    steps = [[line["step"] for line in measurements(run)] for run in runs]
    shown = pairs(runs[0]) if all(own == steps[0] for own in steps) else []
    for m, k in [*shown, *((ALL, k) for k in (ALL, HARM, SIZE, ITSELF) if shown)]:
        kinds = kinds_of(runs[0])
        seeds = {step: [float(changes(r, step, m, k).mean()) for r in runs] for step in kinds}
        if "same_length" in seeds:
            both = zip(seeds["same_length"], seeds["gradient"], strict=True)
            seeds["prevented"] = [plain - projected for plain, projected in both]
        found[f"{m}>{k}"] = {
            name: {"seeds": values, "mean": float(np.mean(values)), "interval": interval(values)}
            for name, values in seeds.items()
        }
    return found


def of_rows(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> dict[str, Any]:
    """``summarize`` for each row of a comparison, by label; draws ``forgetting.png`` of the first.

    Args:
      rows: each with ``label`` and ``runs``, folders relative to ``workdir``.
      workdir: the comparison's.
    """
    runs = {
        row["label"]: [read_lines(workdir / path / "metrics.jsonl") for path in row["runs"]]
        for row in rows
    }
    found = {label: summarize(lines) for label, lines in runs.items()}
    measured = [lines for label, lines in runs.items() if found[label]]
    if measured:
        plots.save(plot(measured[0]), workdir / PLOT)
    return found


def sections(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What ``comparison.md`` says of it, as Markdown."""
    told = (
        "How the loss of one modality on a probe batch of training examples changes with one step "
        "of the head for another modality. A positive change means that the head forgets. Changes "
        "are in 0.001 nats per step: the mean over all measured steps, and its 95 % interval over "
        "the seeds (Student's t). `taken`: the step of the run itself; `gradient`: this batch's "
        "gradient without the momentum of earlier batches, projected if the run projects; "
        "`unprojected`: the same without the projection; `same_length`: `unprojected`, scaled to "
        "the length of `gradient`; `prevented`: `same_length` minus `gradient`, which is positive "
        f"if the direction of the projection reduces forgetting. `{ALL}`: the mean over all "
        f"ordered pairs of modalities; `{SIZE}`: the mean of the absolute changes; `{HARM}`: the "
        f"mean of the positive parts; `{ITSELF}`: the change for the modality that the step is for."
    )
    if not any(rows.values()):
        told = "No row has runs that measured one step per modality at the same batches."
        return ["## Forgetting", told]
    return ["## Forgetting", told, table(rows), f"![]({PLOT})"]


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: one line per row and ordered pair; thousandths of a nat per step of the head."""
    header = ["row", "step for", "loss of", *STEPS, "prevented"]
    body = [
        [label, *pair.split(">"), *(cell(kinds.get(name)) for name in (*STEPS, "prevented"))]
        for label, found in rows.items()
        for pair, kinds in found.items()
    ]
    return report.markdown_table(header, body)


def cell(figure: Mapping[str, Any] | None) -> str:
    """``6.31 [5.02, 7.60]``, in thousandths of a nat."""
    if figure is None:
        return "–"
    low, high = (value / UNIT for value in figure["interval"])
    mean = f"{figure['mean'] / UNIT:.3f}"
    return mean if math.isnan(low) else f"{mean} [{low:.3f}, {high:.3f}]"


def plot(runs: Sequence[Lines]):
    """Forgetting by epoch: mean and range over seeds, one panel per ordered pair or one for all."""
    shown = pairs(runs[0])
    shown = shown if len(shown) <= MOST_PANELS else [(ALL, ALL)]
    canvas, axes = plots.figure(4 * len(shown), 3.4, len(shown), left=0.8, gap=0.8)
    for ax, (m, k) in zip(axes, shown, strict=True):
        for step in kinds_of(runs[0]):
            colour = COLOURS[step]
            epochs, values = by_epoch(runs, step, m, k)
            ax.plot(epochs, values.mean(0) / UNIT, color=colour, marker=".", label=STEPS[step])
            ax.fill_between(
                epochs, values.min(0) / UNIT, values.max(0) / UNIT, color=colour, alpha=0.15
            )
        ax.axhline(0, color="0.6", lw=1)
        title = f"head's step for {m}: loss of {k}"
        ax.set(title="mean over all pairs" if m == ALL else title, xlabel="epoch")
        ax.set_yscale("symlog", linthresh=0.01)
        plots.set_ticks(ax.xaxis, 8, integer=True)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("change per step, 0.001 nats")
    axes[0].legend(fontsize=6)
    return canvas


def by_epoch(runs: Sequence[Lines], step: str, m: str, k: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs, and ``float[seeds, epochs]``: mean change in nats over each epoch's steps."""
    epochs = np.array([line["epoch"] for line in measurements(runs[0])])
    names = np.unique(epochs)
    values = np.stack([changes(run, step, m, k) for run in runs])
    return names, np.stack([values[:, epochs == epoch].mean(1) for epoch in names], 1)
