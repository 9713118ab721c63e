"""The tables and the curves of a comparison under missing modalities."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from mla_jax.compare import latex, layout, published, table
from mla_jax.runs import plots, report
from mla_jax.runs.nulls import with_nulls

FIGURES = {"accuracy": "Accuracy", "macro_f1": "Macro-F1", "weighted_f1": "Weighted F1"}
MOST_COLUMNS = 7
"""Up to this number, each subset has its own column; more are averaged by their size."""


def write(path: pathlib.Path, comparison: Mapping[str, Any]) -> str:
    """Writes the table, the plot and the numbers; returns the table as it goes to the terminal."""
    rows = comparison["rows"]
    if "study" not in comparison:
        rows = best_first(rows)
    facts = comparison["about"]
    rates = list(rows[0]["rates"])
    header, true = columns(rows)
    statistics = comparison.get("statistics", {})
    body = {figure: [cells(row, rates, figure) for row in rows] for figure in FIGURES}
    bold = {**body, "accuracy": marked(body["accuracy"], rows, rates, statistics, "**{}**")}
    text = [title(comparison), caption(comparison)]
    for figure, heading in FIGURES.items():
        text += [f"## {heading}", report.markdown_table(header, [true, *bold[figure]])]
    text += ["## Subsets of modalities", *_subset_tables(rows, rates)]
    if facts["dataset"].startswith("iemocap"):
        text += ["## Published", _published_table(rows)]
    text += [*comparison.get("study", {}).get("notes", ()), "![](comparison.png)"]
    text.append(table.origin(comparison))
    (path / "comparison.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    (path / "comparison.json").write_text(
        json.dumps(with_nulls(comparison), indent=1) + "\n", encoding="utf-8"
    )
    plots.save(plot(rows, rates), path / "comparison.png")
    plain = layout.without_costs(header, [true, *bold["accuracy"]], header[-2:])
    printed = latex.document_table(*plain, caption(comparison))
    (path / "comparison.tex").write_text(printed, encoding="utf-8")
    shown = marked(body["accuracy"], rows, rates, statistics, "{} *")
    return "\n".join([*table.aligned(header, [true, *shown]), "", caption(comparison)])


def title(comparison: Mapping[str, Any]) -> str:
    """The first line of ``comparison.md``."""
    if "study" in comparison:
        return layout.title(comparison)
    return f"# Missing modalities on {comparison['about']['dataset']}"


def marked(
    body: Sequence[Sequence[str]],
    rows: Sequence[Mapping[str, Any]],
    rates: Sequence[str],
    statistics: Mapping[str, Any],
    form: str,
) -> list[list[str]]:
    """The cells of the accuracies, with ``form`` around those that are bold at their rate."""
    bold = [[False, *(table.is_bold(row, statistics.get(rate)) for rate in rates)] for row in rows]
    return [
        [form.format(cell) if there else cell for cell, there in zip_longest(line, of_row)]
        for line, of_row in zip(body, bold, strict=True)
    ]


def best_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows by their fused accuracy, the mean over all rates."""

    def mean_over_rates(row: Mapping[str, Any]) -> float:
        return float(np.mean([cell["accuracy"]["fused"] for cell in row["rates"].values()]))

    return sorted(rows, key=lambda row: -mean_over_rates(row))


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The names of the columns, in the order of ``cells``, and the line of the true rates."""
    rates = rows[0]["rates"]
    true = ["true rate", *(f"{cell['true_rate']:.3f}" for cell in rates.values()), "", ""]
    return ["method", *rates, "seconds", "parameters"], true


def cells(row: Mapping[str, Any], rates: Sequence[str], figure: str) -> list[str]:
    """The cells of one row of the table of a figure, one of ``FIGURES``."""
    by_rate = [table.mean_std(row["rates"][rate][figure]["fused"]) for rate in rates]
    costs = [table.mean_std(row["seconds"], ".1f"), f"{row['parameters']:,}"]
    return [table.label(row), *by_rate, *costs]


def caption(comparison: Mapping[str, Any]) -> str:
    """What the columns are, and the protocol of all rows."""
    facts, missing = comparison["about"], comparison["missing"]
    where = "in the training, validation and test splits"
    if comparison["trained_once"]:
        where = f"in the test split; every method is trained once, at {missing['train']:g}"
    text = (
        f"Fused test accuracy on {facts['dataset']} ({facts['examples']} examples) by the nominal "
        f"rate of missing modalities, rule `{missing['rule']}`, {where}. All rows and seeds have "
        f"the same masks (seed {missing['seed']}). {facts['epochs']} epochs, "
        f"{facts['selection']['rule'].replace('last', 'last epoch')}, protocol "
        f"{facts['protocol']}; mean ± standard deviation over the seeds "
        f"{', '.join(map(str, comparison['seeds']))}. {caption_of_statistics(comparison)}Seconds "
        "per run, to train and evaluate."
    )
    for row in comparison["rows"]:
        stages = ", ".join(f"{name} {epochs}" for name, epochs in row["stages"].items())
        if len(row["stages"]) > 1:
            text += f" Epochs of `{row['label']}`: {stages}."
    return " ".join([text, *layout.remarks(comparison)])


def caption_of_statistics(comparison: Mapping[str, Any]) -> str:
    """What is bold; empty if nothing was tested."""
    found = comparison.get("statistics", {})
    if not any(at_rate["rows"] for at_rate in found.values()):
        return ""
    level = next(at_rate["level"] for at_rate in found.values())
    return (
        "Bold (`*` without bold), at each rate: the best accuracy, and all that the paired "
        f"bootstrap does not tell from it at {100 * level:g} %, after Holm's correction within the "
        f"rate. {table.HOLM} "
    )


def _subset_tables(rows: Sequence[Mapping[str, Any]], rates: Sequence[str]) -> list[str]:
    """Accuracy with only a subset of the modalities, for the first and the last rate."""
    names = [name for name in rows[0]["rates"][rates[0]]["subsets"] if name != "incomplete"]
    if not names:
        return ["They are evaluated for up to six modalities."]
    groups = {name: [name] for name in names}
    told = "Accuracy when these modalities are given and no others"
    if len(names) > MOST_COLUMNS:
        groups = {}
        for name in names:
            groups.setdefault(f"{name.count('+') + 1} given", []).append(name)
        told = "Accuracy when so many modalities are given, the mean over all subsets of that size"
    groups["incomplete"] = ["incomplete"]
    text = []
    for rate in dict.fromkeys((rates[0], rates[-1])):
        body = []
        for row in rows:
            found = row["rates"][rate]["subsets"]
            means = [np.mean([found[n] for n in members], 0) for members in groups.values()]
            body.append([table.label(row), *map(table.mean_std, means)])
        text.append(
            f"{told}; column `incomplete` pools all but the whole, as the protocol `six` does. "
            f"Row of rate {rate}."
        )
        text.append(report.markdown_table(["method", *groups], body))
    return text


def _published_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The paper's figures, in columns named so, and where they seem to come from."""
    header = ["method", *(f"paper {rate:g}" for rate in published.RATES), "origin"]
    body = []
    for row in rows:
        if found := published.IEMOCAP.get(row["method"]):
            cells = [f"{found.figures[rate]:.2f}" for rate in published.RATES]
            body.append([row["method"], *cells, found.origin])
    return (
        "MLA paper, Table 2, IEMOCAP, in per cent. Context, not a target: its rows come from "
        "several protocols (docs/missing.md).\n\n" + report.markdown_table(header, body)
    )


def plot(rows: Sequence[Mapping[str, Any]], rates: Sequence[str]):
    """A figure: fused accuracy over the nominal rate, with a band of one standard deviation."""
    from matplotlib import colormaps

    canvas, (ax,) = plots.figure(9, 5.2, left=0.8)
    canvas.subplots_adjust(right=0.78)
    x = [float(rate) for rate in rates]
    palette: Any = colormaps["tab20"]  # a list of colours
    colours = palette.colors
    for i, row in enumerate(rows):
        values = np.array([row["rates"][rate]["accuracy"]["fused"] for rate in rates])
        mean = values.mean(1)
        colour, style = colours[(2 * i) % 20 + i // 10], "-" if i < 6 else "--"
        ax.plot(x, mean, marker=".", color=colour, ls=style, label=table.label(row))
        if values.shape[1] > 1:
            std = values.std(1, ddof=1)
            ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="nominal rate of missing modalities", ylabel="test accuracy, fused")
    plots.set_ticks(ax.xaxis, 8)
    plots.set_ticks(ax.yaxis, 8)
    ax.grid(alpha=0.3)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return canvas
