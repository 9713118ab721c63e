"""What a study, a grid or a table of finished runs adds to the table of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.compare.measures import MEASURES
from mla_jax.compare.studies.study import Study
from mla_jax.runs import report

DASH = "–"


def of_study(name: str, study: Study, rows: list[dict[str, Any]], dataset: str) -> dict[str, Any]:
    """The entry ``study`` of a comparison; gives each row its heading and its published figures.

    A row that ``--vary`` made has no published figures.
    """
    published = study.published.get(dataset, {})
    for row in rows:
        row["heading"] = row["label"]
        for entry, heading in study.entries.items():
            if row["label"] == entry:
                row["heading"] = heading
                row["published"] = dict(published.get(entry, {}))
    notes = [study.notes[key] for key in ("", dataset) if key in study.notes and published]
    return {
        "name": name,
        "title": study.title,
        "entries_are_columns": study.entries_are_columns,
        "source": study.source if published else "",
        "notes": notes,
        "checks": [check_same_unimodal(rows, group) for group in _there(study.same_unimodal, rows)],
    }


def _there(groups: Sequence[Sequence[str]], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The entries of each group that have rows; a group needs two of them."""
    entries = {row["label"].partition(", ")[0] for row in rows}
    found = [[entry for entry in group if entry in entries] for group in groups]
    return [group for group in found if len(group) > 1]


def check_same_unimodal(rows: Sequence[Mapping[str, Any]], entries: Sequence[str]) -> dict:
    """Whether the unimodal figures of the rows of some entries are equal to the bit, by seed.

    Rows of a grid are compared with the rows that have the same field values.
    """
    differing: list[str] = []
    first: dict[str, Any] = {}
    for row in rows:
        entry, _, setting = row["label"].partition(", ")
        if entry in entries:
            alone = {name: values for name, values in row["test"].items() if name != "fused"}
            if first.setdefault(setting, alone) != alone:
                differing.append(row["label"])
    once = any(row.get("evaluated_from") for row in rows)
    found = {"rows": list(entries), "equal": not differing, "differing": differing}
    return {**found, "trained_once": once}


def title(comparison: Mapping[str, Any]) -> str:
    """The first line of ``comparison.md``."""
    study, dataset = comparison.get("study"), comparison["about"]["dataset"]
    return f"# {study['title']}, on {dataset}" if study else f"# Methods on {dataset}"


def remarks(comparison: Mapping[str, Any]) -> list[str]:
    """Sentences for the caption: how rows differ, and which rows were not trained."""
    found, rows = [], comparison["rows"]
    varied = sorted({field for row in rows for field in row["fields"]})
    if varied:
        found.append(f"Rows differ in {', '.join(varied)}, as their labels say.")
    seeds = [row.get("seeds", comparison["seeds"]) for row in rows]
    for row, own in zip(rows, seeds, strict=True):
        if own != comparison["seeds"]:
            found.append(f"`{row['label']}` has the seeds {', '.join(map(str, own))}.")
    again = [f"`{r['label']}` ({r['evaluated_from']})" for r in rows if r.get("evaluated_from")]
    if again:
        found.append(
            "Not trained, but evaluated from the training of the row in brackets, whose cost is "
            f"shown: {'; '.join(again)}."
        )
    for label, reason in comparison.get("diverged", {}).items():
        found.append(f"`{label}` is left out: {reason}.")
    return found


def with_published(
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[str],
) -> tuple[list[str], list[list[str]]]:
    """The table, with a column for each published figure that a row has, in per cent."""
    there = [f for f in figures if any(f in row.get("published", {}) for row in rows)]
    header = [*header, *(f"published {figure}, %" for figure in there)]
    cells = [[_published(row, figure) for figure in there] for row in rows]
    return header, [[*line, *own] for line, own in zip(body, cells, strict=True)]


def sections(comparison: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    """What follows the table of a study, as Markdown: its layout, its checks and its notes."""
    study = comparison.get("study")
    if not study:
        return []
    table = report.markdown_table(*as_published(comparison, figures))
    heading = "## As the paper has it" if study["source"] else "## In the study's order"
    text = [heading, _told(study), table]
    text += [verdict(check) for check in study["checks"]] + study["notes"]
    for name in MEASURES.keys() & study.keys():
        text += MEASURES[name].sections(study[name])
    return text


def as_published(
    comparison: Mapping[str, Any], figures: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a study's table in the paper's layout: fused last, in per cent.

    Each figure is followed by the published one, in its own row or column.
    """
    rows = comparison["rows"]
    header, lines = ["", *(row["heading"] for row in rows)], []
    for figure in [*(f for f in figures if f != "fused"), "fused"]:
        lines.append([figure, *(_ours(row, figure) for row in rows)])
        if any(figure in row.get("published", {}) for row in rows):
            lines.append([f"{figure}, published", *(_published(row, figure) for row in rows)])
    if comparison["study"]["entries_are_columns"]:
        return header, lines
    header, *lines = map(list, zip(header, *lines, strict=True))
    return header, lines


def _told(study: Mapping[str, Any]) -> str:
    ours = "Test accuracy in per cent, mean ± standard deviation."
    if not study["source"]:
        return f"{ours} There are no published figures for this data set."
    return f"{ours} Figures marked `published` are from {study['source']}."


def verdict(check: Mapping[str, Any]) -> str:
    """The sentence about a check of unimodal figures."""
    rows = " and ".join(f"`{row}`" for row in check["rows"])
    if check["equal"]:
        how = " (of one training, evaluated twice)" if check["trained_once"] else ""
        return f"Checked: the unimodal figures of {rows}{how} are equal to the bit, for every seed."
    return (
        f"NOT equal: the unimodal figures of {rows} should be, and differ. Where the epoch is "
        "chosen by the fused accuracy they can; with --config.selection=last they must not."
    )


def without_costs(
    header: Sequence[str], body: Sequence[Sequence[str]], costs: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """The table without the cost columns."""
    kept = [i for i, name in enumerate(header) if name not in costs]
    return [header[i] for i in kept], [[line[i] for i in kept] for line in body]


def _ours(row: Mapping[str, Any], figure: str) -> str:
    values = row["test"].get(figure)
    if not values:
        return DASH
    mean = f"{100 * np.mean(values):.2f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def _published(row: Mapping[str, Any], figure: str) -> str:
    value = row.get("published", {}).get(figure)
    return DASH if value is None else f"{value:.2f}"
