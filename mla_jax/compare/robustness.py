"""How runs perform on a test split with one corrupted modality: curves and the areas under them.

MultiBench's relative robustness (Liang et al., 2021) is the area under the curve of accuracy over
the noise level; here it is divided by the length of the axis, so it is the mean accuracy.  Its
effective robustness is the margin over late fusion's curve, shifted to start where the
method's does: the mean of f(s) - [LF(s) + f(0) - LF(0)] over the severities s, here also over the
axis.  MultiBench then scales both from 0 to 1 over its methods; we do not.

A run's figures are saved in its folder, and are valid as long as its result is the same.
"""

import hashlib
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mla_jax.compare import kept as kept_figures
from mla_jax.config import fields
from mla_jax.data.corruptions import corrupted, kinds_of, position
from mla_jax.errors import UserError
from mla_jax.program import build_program
from mla_jax.runs import plots, report
from mla_jax.runs.nulls import number, with_nulls
from mla_jax.runs.run import Run, open_run

PLOT = "robustness.png"
PLOTS = (PLOT,)
KEPT = "robustness.json"
"""The file in a run's folder that holds its figures."""
RECIPE = 1
"""The version of the corrupted examples and the figures; files of another version are not used."""
BASELINE = "late_fusion"
"""The row against which effective robustness is measured."""
COLUMNS = 3
"""The most panels in a row of the figure."""

Curves = Mapping[str, Mapping[str, list[float]]]
"""By ``modality:kind``: ``levels``, the severities; ``fused`` and ``itself``, the accuracies of the
fusion and of the corrupted modality at each."""


def of_rows(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> dict[str, Any]:
    """Curves and areas of each row of a comparison, by label; draws ``robustness.png``.

    Rows that train one modality at a time have no fusion and are left out.

    Args:
      rows: each with ``label``, ``alone`` and ``runs``, folders relative to ``workdir``.
      workdir: the comparison's.
    """
    curves: dict[str, list[Curves]] = {}
    if jax.process_count() == 1:  # the other processes would wait for process 0
        for row in rows:
            try:
                if not row["alone"]:
                    folders = [workdir / path for path in row["runs"]]
                    curves[row["label"]] = curves_of(folders, row["label"])
            except UserError as error:  # a run whose data or checkpoint is gone
                print(f"robustness of {row['label']} is left out: {error}", flush=True)
    found = {label: summarize(runs) for label, runs in curves.items()}
    for label, panels in found.items():
        base = found.get(baseline_of(label), {})
        for panel in panels.keys() & base.keys():
            panels[panel]["effective"] = effective(panels[panel], base[panel])
    if any(found.values()):
        plots.save(plot(found), workdir / PLOT)
    return found


def curves_of(folders: Sequence[pathlib.Path], label: str) -> list[Curves]:
    """The curves of the runs of one row; those without saved figures share one compiled program."""
    found, programs = [], {}
    for folder in folders:
        run = open_run(folder, _nothing)
        curves = kept(run)
        if curves is None:
            begun = time.perf_counter()
            config = {**fields.to_json(run.config), "seed": 0}
            key = json.dumps(config, sort_keys=True)
            if key not in programs:
                programs[key] = build_program(run.config, run.data, jax.local_devices())
            run.use(programs[key])
            curves = measure(run)
            keep(run, curves)
            spent = time.perf_counter() - begun
            print(f"robustness of {label}, {folder.name}: {spent:.1f} s", flush=True)
        found.append(curves)
    return found


def measure(run: Run) -> Curves:
    """The curves of a finished run, on its test split, for all corruptions of each modality."""
    split = run.dataset().splits["test"]
    evaluator, state, size = run.program.evaluator, run.load(), run.config.evaluation.batch_size
    clean = evaluator(state, split, size)
    found = {}
    for column, modality in enumerate(run.modalities):
        if not split.present[:, column].any():
            continue
        for name, kind in kinds_of(run.data, modality).items():
            spoilt = (corrupted(split, run.data, modality, name, s) for s in kind.levels[1:])
            at = [clean, *(evaluator(state, one, size) for one in spoilt)]
            found[f"{modality}:{name}"] = {
                "levels": list(kind.levels),
                "fused": [figures["fused"] for figures in at],
                "itself": [figures[modality] for figures in at],
            }
    return found


def identity_of(run: Run) -> dict[str, Any]:
    """What the saved figures of a run depend on: its result, the severities and the version."""
    result = json.dumps(run.result, sort_keys=True).encode()
    levels = {
        f"{m}:{name}": with_nulls(kind.levels)
        for m in run.modalities
        for name, kind in kinds_of(run.data, m).items()
    }
    return {"recipe": RECIPE, "result": hashlib.sha256(result).hexdigest(), "levels": levels}


def kept(run: Run) -> Curves | None:
    """The figures saved in the run's folder; None if there are none that are valid."""
    content = kept_figures.read(run.path / KEPT, identity_of(run)) or {}
    try:
        curves = content["curves"]
        for panel in curves.values():
            panel["levels"] = [np.inf if x is None else x for x in panel["levels"]]
            for figure in ("fused", "itself"):
                panel[figure] = [number(value) for value in panel[figure]]
        return curves
    except (ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        return None


def keep(run: Run, curves: Curves) -> None:
    """Writes the figures into the run's folder."""
    kept_figures.write(run.path / KEPT, identity_of(run), {"curves": curves})


def summarize(runs: Sequence[Curves]) -> dict[str, Any]:
    """The panels of one row, whose runs differ only in the seed.

    Each has ``levels``, ``axis``, the curves ``fused`` and ``itself: [seeds][levels]``, and with
    ``seeds``, ``mean`` and ``std`` the ``area`` under the fused curve, its ``drop`` below the clean
    accuracy, and the area of the modality ``alone``.
    """
    found = {}
    for panel, first in runs[0].items():
        name = panel.rpartition(":")[2]
        axis = [position(name, level) for level in first["levels"]]
        fused, itself = ([run[panel][figure] for run in runs] for figure in ("fused", "itself"))
        areas = [area(axis, curve) for curve in fused]
        found[panel] = {
            "levels": first["levels"],
            "axis": axis,
            "fused": fused,
            "itself": itself,
            "area": of_seeds(areas),
            "drop": of_seeds([curve[0] - a for curve, a in zip(fused, areas, strict=True)]),
            "alone_area": of_seeds([area(axis, curve) for curve in itself]),
        }
    return found


def area(axis: Sequence[float], accuracy: Sequence[float]) -> float:
    """The area under a curve by trapezoids, over the length of its axis: a mean accuracy."""
    return float(np.trapezoid(accuracy, axis) / (axis[-1] - axis[0]))


def of_seeds(values: Sequence[float]) -> dict[str, Any]:
    """The values, their mean and sample standard deviation (NaN for a single one)."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"seeds": list(values), "mean": float(np.mean(values)), "std": std}


def baseline_of(label: str) -> str:
    """The label of the row of late fusion with the same fields of ``--vary``."""
    _, comma, setting = label.partition(", ")
    return BASELINE + comma + setting


def effective(panel: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Effective robustness, for each seed: the baseline's drop minus that of the row."""
    drops = zip(base["drop"]["seeds"], panel["drop"]["seeds"], strict=True)
    return of_seeds([theirs - ours for theirs, ours in drops])


def sections(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What ``comparison.md`` says of it, as Markdown."""
    heading = "## Robustness"
    if not any(found.values()):
        if jax.process_count() > 1:
            return [
                heading,
                "Not measured: repeat the command in one process, which trains no more.",
            ]
        return [heading, "Not measured: no row has runs with a modality that can be corrupted."]
    told = (
        "One modality of the test split is corrupted, the others stay as they are; every row and "
        "seed sees the same corrupted examples (`mla_jax/data/corruptions.py`). `clean`: fused "
        "accuracy without corruption. For each modality and kind, the area under the curve of "
        "fused accuracy over the severity, divided by the length of the axis: the mean accuracy "
        "(relative robustness of MultiBench). Mean ± sample standard deviation over the seeds."
    )
    text = [heading, told, table(found, "area")]
    if any("effective" in panel for panels in found.values() for panel in panels.values()):
        text += [
            f"Effective robustness: the drop of the mean accuracy below the clean one of "
            f"`{BASELINE}`, less that of the row. Above 0, the row loses less.",
            table(found, "effective"),
        ]
    text += [
        "The same areas of the corrupted modality's own predictions, which no fusion touches.",
        table(found, "alone_area"),
    ]
    return [*text, f"![]({PLOT})"]


def table(found: Mapping[str, Mapping[str, Any]], figure: str) -> str:
    """Markdown: one line per row, one column per modality and kind."""
    panels = panels_of(found)
    header = ["row", *(["clean"] if figure == "area" else []), *panels]
    body = []
    for label, of_row in found.items():
        line = [label]
        if figure == "area":
            first = next(iter(of_row.values()), None)
            line.append(cell(of_seeds([c[0] for c in first["fused"]]) if first else None))
        body.append([*line, *(cell(of_row.get(panel, {}).get(figure)) for panel in panels)])
    return report.markdown_table(header, body)


def panels_of(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """``modality:kind`` of all rows, in their order."""
    return list(dict.fromkeys(panel for panels in found.values() for panel in panels))


def cell(figure: Mapping[str, Any] | None) -> str:
    """``0.812 ± 0.004``."""
    if figure is None:
        return "–"
    mean = f"{figure['mean']:.3f}"
    return mean if np.isnan(figure["std"]) else f"{mean} ± {figure['std']:.3f}"


def plot(found: Mapping[str, Mapping[str, Any]]):
    """Fused accuracy over the severity: one panel per modality and kind, one line per row, a band
    for the range over the seeds."""
    from matplotlib.figure import Figure

    panels = panels_of(found)
    lines = -(-len(panels) // COLUMNS)
    columns = -(-len(panels) // lines)
    width, height = 0.2 + 4.2 * columns, 0.1 + 3.3 * lines
    canvas = Figure(figsize=(width, height), dpi=120)
    grid = canvas.subplots(lines, columns, squeeze=False).ravel()
    canvas.subplots_adjust(
        left=0.7 / width, right=1 - 0.1 / width, bottom=0.55 / height, top=1 - 0.35 / height,
        wspace=0.2, hspace=0.4,
    )  # fmt: skip
    for ax in grid[len(panels) :]:
        ax.remove()
    for ax, panel in zip(grid, panels, strict=False):
        for place, (label, of_row) in enumerate(found.items()):
            if panel not in of_row:
                continue
            curves, axis = np.asarray(of_row[panel]["fused"], float), of_row[panel]["axis"]
            colour = f"C{place % 10}"
            ax.plot(axis, curves.mean(0), color=colour, marker=".", label=label)
            ax.fill_between(axis, curves.min(0), curves.max(0), color=colour, alpha=0.15, lw=0)
        shown = next(of_row[panel] for of_row in found.values() if panel in of_row)
        names = [f"{x:g}" if np.isfinite(x) else "clean" for x in shown["levels"]]
        ax.set_xticks(shown["axis"], names)
        ax.set(title=panel.replace(":", ": "), xlabel=axis_label(panel))
        ax.grid(alpha=0.3)
    grid[0].set_ylabel("fused accuracy")
    grid[0].legend(fontsize=6)
    return canvas


def axis_label(panel: str) -> str:
    """The label of a panel's axis."""
    return {
        "noise": "standard deviation",
        "blur": "deviation / shorter side",
        "frames": "share of frames dropped",
        "snr": "signal-to-noise ratio, dB",
        "dropout": "share of tokens dropped",
    }[panel.rpartition(":")[2]]


def _nothing(line: str) -> None:
    """Prints nothing."""
