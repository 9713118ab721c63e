"""The table and the plot of a comparison: each row's mean over the seeds, intervals and cost."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax import methods
from mla_jax.compare import curves, latex, layout
from mla_jax.compare.variants import Variant
from mla_jax.runs import plots, report
from mla_jax.runs.nulls import number, with_nulls

Runs = Sequence[Sequence[Mapping[str, Any]]]
"""The ``result.json`` of a row's runs, ``[seed][part]``; there is one part, or one per modality
where the method trains one modality at a time (``methods.trains_one_modality``)."""

FILES = (
    "comparison.md",
    "comparison.json",
    "comparison.png",
    "comparison.tex",
    "comparison.html",
)
RESAMPLES = 10_000
HOLM = (
    "The best was chosen on the same examples, which the correction does not know: a p just below "
    "the level deserves doubt."
)
COSTS = ("seconds", "examples/s", "GFLOPs", "parameters", "compiling")
"""The columns with the cost of a run."""


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without a fused accuracy (the ceiling), then the others, the best first."""
    return sorted(rows, key=lambda row: -row["mean"].get("fused", np.inf))


def summarize_row(variant: Variant, runs: Runs) -> dict[str, Any]:
    """One row: the values over the seeds of each figure; ``unimodal`` has no ``fused``."""
    alone = methods.trains_one_modality(variant.method)
    values: dict[str, list[float]] = {}
    for parts in runs:
        for result in parts:
            for figure in result["test"]["macro_f1"]:
                if figure != "fused" or not alone:
                    values.setdefault(figure, []).append(number(result["test"][figure]))
    rate = [1 / sum(1 / r["train"]["examples_per_second"] for r in parts) for parts in runs]
    counted = [[result["train"].get("flops") for result in parts] for parts in runs]
    flops = next((parts for parts in counted if None not in parts), [None])
    return {
        "label": variant.label,
        "method": variant.method,
        "switches": variant.switches,
        "fields": dict(variant.fields),
        "alone": alone,
        "fidelity": runs[0][0]["fidelity"],
        "test": values,
        "mean": {figure: float(np.mean(v)) for figure, v in values.items()},
        "interval": {figure: bootstrap_interval(v) for figure, v in values.items()},
        "seconds": [sum(map(seconds, parts)) for parts in runs],
        "examples_per_second": float(np.mean(rate)),
        "flops": None if None in flops else sum(flops),
        "compile_seconds": sum(r["train"]["compile_seconds"] for parts in runs for r in parts),
        "parameters": sum(r["parameters"] for r in runs[0]),
        "stages": runs[0][0]["train"]["stages"],
    }


def seconds(result: Mapping[str, Any]) -> float:
    """Seconds that a run took to train and to evaluate, without compiling."""
    return result["train"]["seconds"] + result["train"]["evaluate_seconds"]


def bootstrap_interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over seeds; the resampling has a fixed seed.

    It cannot extend beyond the smallest and the largest value: with three seeds it is nearly
    their range.
    """
    array = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(array), (RESAMPLES, len(array)))
    tail = 50 * (1 - share)
    low, high = np.percentile(array[draws].mean(1), [tail, 100 - tail])
    return float(low), float(high)


def about(result: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """What all runs of a comparison share; ``epochs`` is the configuration's.

    A method may have fewer, as CCA has one, or more.
    """
    shared = ("dataset", "protocol", "selection", "versions", "device", "commit")
    examples = {"examples": result["test"]["examples"], "epochs": epochs}
    return {key: result[key] for key in shared} | examples


def mean_std(values: Sequence[float], form: str = ".3f") -> str:
    """``0.971 ± 0.005``: mean and sample standard deviation; only the mean for one value."""
    mean = format(np.mean(values), form)
    return f"{mean} ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else mean


def label(row: Mapping[str, Any]) -> str:
    """The entry as typed, with its fidelity unless that is ``paper`` or is in the entry."""
    told = row["fidelity"] == "paper" or "fidelity" in row["switches"]
    return row["label"] + ("" if told else f" ({row['fidelity']})")


def figures_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """``fused`` and the modalities, in that order."""
    modalities = dict.fromkeys(f for row in rows for f in row["test"] if f != "fused")
    return [f for f in ("fused", *modalities) if any(f in row["test"] for row in rows)]


def write(path: pathlib.Path, comparison: Mapping[str, Any]) -> str:
    """Writes the table, the plot and the numbers; returns the table as it goes to the terminal."""
    rows, about = comparison["rows"], caption(comparison)
    figures, statistics = figures_of(rows), comparison.get("statistics")
    header = columns(figures)
    body = [cells(row, figures, statistics) for row in rows]
    bold = [is_bold(row, statistics) for row in rows]
    header, body = layout.with_published(header, body, rows, figures)
    shown = report.markdown_table(header, marked(body, bold, "**{}**"))
    text = [layout.title(comparison), about, shown]
    text += [*layout.sections(comparison, figures), "![](comparison.png)"]
    if curves.write(path, rows):
        text.append(f"![]({curves.FILE})")
    text.append(origin(comparison))
    (path / "comparison.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    (path / "comparison.json").write_text(
        json.dumps(with_nulls(comparison), indent=1) + "\n", encoding="utf-8"
    )
    plots.save(plot(rows, figures), path / "comparison.png")
    plain = layout.without_costs(header, body, COSTS)
    if "study" in comparison:
        plain = layout.as_published(comparison, figures)
    printed = latex.document_table(*plain, about)
    (path / "comparison.tex").write_text(printed, encoding="utf-8")
    written = f"written: {path / 'comparison.md'}, .png, .json, .tex, .html"
    return "\n".join([*aligned(header, marked(body, bold, "{} *")), "", about, written])


def columns(figures: Sequence[str]) -> list[str]:
    """The names of the columns, in the order of ``cells``."""
    return ["method", *figures, "95 % seeds", "95 % seeds+examples", "p", *COSTS]


def is_bold(row: Mapping[str, Any], statistics: Mapping[str, Any] | None) -> bool:
    """Whether a row is the best, or does not differ from it significantly."""
    found = (statistics or {}).get("rows", {}).get(row["label"])
    return bool(found and found["bold"])


def marked(body: Sequence[Sequence[str]], bold: Sequence[bool], form: str) -> list[list[str]]:
    """The cells, with ``form`` around the fused accuracy (column 1) of the rows that are bold."""
    return [
        [form.format(cell) if bold[i] and column == 1 else cell for column, cell in enumerate(line)]
        for i, line in enumerate(body)
    ]


def cells(
    row: Mapping[str, Any], figures: Sequence[str], statistics: Mapping[str, Any] | None = None
) -> list[str]:
    """The cells of one row; a dash for a missing figure.

    ``statistics``: those of the comparison (``statistics.of_runs``), if there are any.
    """
    found = (statistics or {}).get("rows", {}).get(row["label"], {})
    intervals = (row["interval"].get("fused"), found.get("interval"))
    return [
        label(row),
        *(mean_std(row["test"][f]) if f in row["test"] else "–" for f in figures),
        *("[{:.3f}, {:.3f}]".format(*interval) if interval else "–" for interval in intervals),
        p_value(found["p_holm"]) if "p_holm" in found else "best" if found else "–",
        mean_std(row["seconds"], ".1f"),
        f"{row['examples_per_second']:,.0f}",
        "–" if row["flops"] is None else f"{row['flops'] / 1e9:,.0f}",
        f"{row['parameters']:,}",
        f"{row['compile_seconds']:.1f}",
    ]


def p_value(p: float) -> str:
    """``0.031``, ``< 0.001``."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def caption(comparison: Mapping[str, Any]) -> str:
    """What the columns are, and the budget with which all rows were trained."""
    facts = comparison["about"]
    selection = facts["selection"]["rule"].replace("last", "last epoch")
    text = (
        f"Test accuracy on {facts['dataset']} ({facts['examples']} examples), "
        f"{facts['epochs']} epochs, {selection}, protocol {facts['protocol']}; mean ± standard "
        f"deviation over seeds {', '.join(map(str, comparison['seeds']))}, and the bootstrap "
        "intervals of the fused mean: over the seeds, for these examples, and over seeds and "
        f"examples. {caption_of_statistics(comparison)}Seconds per run, to train and evaluate; "
        "training examples per second; billions of floating-point operations of a run's gradient "
        "steps, as XLA counts them; seconds compiling, once per row (less where programs were "
        "cached). `unimodal` is one run per modality, and its cost is that of all of them."
    )
    for row in comparison["rows"]:
        for stage, epochs in list(row["stages"].items())[1:]:
            text += f" `{row['label']}` trains {epochs} more in its stage '{stage}'."
    return " ".join([text, *layout.remarks(comparison)])


def caption_of_statistics(comparison: Mapping[str, Any]) -> str:
    """What is bold, what p is, and which rows were not tested; empty without statistics."""
    statistics = comparison.get("statistics")
    if not statistics:
        return ""
    text = ""
    if rows := statistics["rows"]:
        where = "examples" if statistics["seeds"] == 1 else "seeds and examples"
        text = (
            f"Bold (`*` without bold): the best fused accuracy, `{statistics['best']}`, and all "
            f"that the test does not tell from it at {100 * statistics['level']:g} %; p is that of "
            f"the paired bootstrap over {where} against the best, after Holm's correction for "
            f"{len(rows) - 1}. {HOLM} "
        )
    alone = {row["label"] for row in comparison["rows"] if row["alone"]}
    if out := [f"`{name}`" for name in statistics["without"] if name not in alone]:
        text += (
            f"Not tested, as comparison.json says why (runs of earlier versions keep no "
            f"predictions): {', '.join(out)}. "
        )
    return text


def origin(comparison: Mapping[str, Any]) -> str:
    """The command, and the hardware and versions it ran on."""
    facts, versions = comparison["about"], comparison["about"]["versions"]
    return (
        f"`{comparison['command']}` on {comparison['date']}, {facts['device']}, "
        f"mla_jax {versions['mla_jax']} ({facts['commit'] or 'no commit'}), "
        f"jax {versions['jax']}, Python {versions['python']}."
    )


def aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table for the terminal."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in (header, ["-" * w for w in widths], *body)
    ]


def plot(rows: Sequence[Mapping[str, Any]], figures: Sequence[str]):
    """A figure of accuracy per row, one panel per modality: every seed, the mean, its interval.

    The axis of a panel covers its own figures, so that .947 and .983 lie far apart.
    A dashed line is the accuracy of the modality trained alone (in the first such row).
    The gap to it is the modality's laziness.
    """
    alone = next((row for row in rows if row["alone"]), None)
    shown = [row for row in rows if row is not alone] or list(rows)
    labels = [label(row) for row in shown]
    left = max(1.5, 0.3 + plots.longest(labels, 10))  # inches; 1.5 suits every method's name
    panels, height = 2.7 * len(figures), 0.9 + 0.24 * len(shown)
    canvas, axes = plots.figure(left - 0.1 + panels, height, len(figures), left=left)
    for ax, figure in zip(axes, figures, strict=True):
        if alone and figure in alone["test"]:
            ax.axvspan(*alone["interval"][figure], color="C1", alpha=0.15, lw=0)
            ax.axvline(alone["mean"][figure], color="C1", ls="--", lw=1.5)
            ax.set_title(f"{figure} (dashed: trained alone)", fontsize="medium")
        else:
            ax.set_title(figure, fontsize="medium")
        for y, row in enumerate(shown):
            if figure not in row["test"]:
                continue
            values = row["test"][figure]
            ax.plot(row["interval"][figure], (y, y), color="C0", lw=2.5, alpha=0.4)
            ax.plot(values, [y] * len(values), ".", color="C0", ms=4, alpha=0.6)
            ax.plot(row["mean"][figure], y, "o", color="C0", ms=6)
        ax.set(ylim=(len(shown) - 0.4, -0.6), xlabel="test accuracy")
        plots.set_ticks(ax.xaxis, 4)
        ax.set_yticks(range(len(shown)), labels if ax is axes[0] else [])
        ax.grid(alpha=0.3)
    return canvas
