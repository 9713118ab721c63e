"""The generated blocks of a page: tables, captions and commands of artefacts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.compare import layout, sweep_table, table
from mla_jax.compare.measures import MEASURES
from mla_jax.errors import UserError
from mla_jax.leaderboard import marks
from mla_jax.leaderboard.artefacts import FOLDER, Artefact
from mla_jax.runs import report

OPTIONS = ("columns", "rows", "rate", "in", "tables")


def rendered(text: str, artefacts: Mapping[str, Artefact], where: str) -> tuple[str, list[str]]:
    """A page with its blocks generated again, and a sentence for each block without an artefact.

    Such a block is not changed.

    Raises:
      UserError: a marker names something that does not exist.
    """
    awaited = []

    def anew(found: Any) -> str:
        place = f"{where}:{marks.line_of(text, found.start())}"
        parts = (*PARTS, *MEASURES)
        marker = marks.parse(found["marker"], place, parts, OPTIONS)
        if marker.name not in artefacts:
            awaited.append(f"{place}: there is no {FOLDER}/{marker.name}.json")
            return found[0]
        body = block(artefacts[marker.name], marker, place)
        return f"<!-- results: {found['marker']} -->\n\n{body}\n\n<!-- /results -->"

    return marks.BLOCK.sub(anew, text), awaited


def block(artefact: Artefact, marker: marks.Marker, where: str) -> str:
    """The content of a block.

    Raises:
      UserError: the artefact has no such part, row, column or rate.
    """
    part = marker.words[0] if marker.words else "table"
    if part in MEASURES:
        return _measured(artefact, part, marker.options, where)
    if artefact["kind"] != "comparison":
        raise UserError(f"{where}: {marker.name} is a measurement, which has no {part}")
    ordered = sweep_table.best_first if "missing" in artefact else table.ranked
    rows = ordered(artefact["rows"])
    labels = marks.chosen((row["label"] for row in rows), marker.options.get("rows"), "row", where)
    of_label = {row["label"]: row for row in rows}
    return PARTS[part](artefact, [of_label[label] for label in labels], marker.options, where)


def _table(
    artefact: Artefact, rows: Sequence[dict], options: Mapping[str, Sequence[str]], where: str
) -> str:
    """The table of a comparison, with only the requested columns and rows."""
    if "missing" in artefact:
        rates = list(rows[0]["rates"])
        header, true = sweep_table.columns(rows)
        body = [sweep_table.cells(row, rates, "accuracy") for row in rows]
        body = sweep_table.marked(body, rows, rates, artefact.get("statistics", {}), "**{}**")
        return _selected(header, [true, *body], options, where)
    figures, statistics = table.figures_of(rows), artefact.get("statistics")
    body = [table.cells(row, figures, statistics) for row in rows]
    bold = [table.is_bold(row, statistics) for row in rows]
    header, body = layout.with_published(table.columns(figures), body, rows, figures)
    return _selected(header, table.marked(body, bold, "**{}**"), options, where)


def _means(
    artefact: Artefact, rows: Sequence[dict], options: Mapping[str, Sequence[str]], where: str
) -> str:
    """Fused means by rate of missing modalities."""
    if "missing" not in artefact:
        raise UserError(f"{where}: 'means' is for a comparison under missing modalities")
    header, true = sweep_table.columns(rows)
    rates = list(rows[0]["rates"])
    body = [[table.label(row), *(_mean(row, rate) for rate in rates), "", ""] for row in rows]
    kept = options.get("columns") or [marks.squeezed(name) for name in ("method", *rates)]
    return _selected(header, [true, *body], {**options, "columns": kept}, where)


def _mean(row: Mapping[str, Any], rate: str) -> str:
    return f"{np.mean(row['rates'][rate]['accuracy']['fused']):.3f}"


def _subsets(
    artefact: Artefact, rows: Sequence[dict], options: Mapping[str, Sequence[str]], where: str
) -> str:
    """The mean accuracy by subset of modalities, for one rate."""
    rates = [rate for rate, found in rows[0].get("rates", {}).items() if found["subsets"]]
    (rate,) = marks.chosen(rates, options.get("rate", ())[:1] or ("?",), "rate", where)
    names = list(rows[0]["rates"][rate]["subsets"])
    body = [
        [table.label(row), *(f"{np.mean(row['rates'][rate]['subsets'][n]):.3f}" for n in names)]
        for row in rows
    ]
    return _selected(["method", *names], body, options, where)


def _layout(artefact: Artefact, rows: Sequence[dict], _: Any, where: str) -> str:
    """The table of a study in the paper's layout and order."""
    if "study" not in artefact or "missing" in artefact:
        raise UserError(f"{where}: 'layout' is for a study, and not for missing modalities")
    return report.markdown_table(*layout.as_published(artefact, table.figures_of(rows)))


def _caption(artefact: Artefact, rows: Sequence[dict], *_: Any) -> str:
    writer = sweep_table if "missing" in artefact else table
    return writer.caption({**artefact, "rows": list(rows)})


def _origin(artefact: Artefact, *_: Any) -> str:
    return table.origin(artefact)


def _measured(
    artefact: Artefact, measure: str, options: Mapping[str, Sequence[str]], where: str
) -> str:
    """The tables of a study's measurements, selected by the numbers ``tables``.

    ``in`` are the beginnings of names of measurements: pairs of modalities, or corruptions.
    """
    whole = artefact.get("study", {}).get(measure)
    if not whole:
        raise UserError(f"{where}: the artefact has no study of {measure}")
    found = whole.get("rows", whole)  # one measure has its rows a level deeper
    labels = marks.chosen(found, options.get("rows"), "row", where)
    kept = {
        label: {
            name: figures
            for name, figures in found[label].items()
            if marks.squeezed(name).startswith(tuple(options.get("in", ("",))))
        }
        for label in labels
    }
    kept = {**whole, "rows": kept} if "rows" in whole else kept
    tables = [text for text in MEASURES[measure].sections(kept) if text.startswith("|")]
    by_number = {str(number): text for number, text in enumerate(tables, 1)}
    wanted = marks.chosen(by_number, options.get("tables"), "table", where)
    return "\n\n".join(by_number[number] for number in wanted)


PARTS: dict[str, Callable[..., str]] = {
    "table": _table, "layout": _layout, "means": _means, "subsets": _subsets,
    "caption": _caption, "origin": _origin,
}  # fmt: skip


def _selected(
    header: Sequence[str],
    body: Sequence[Sequence[str]],
    options: Mapping[str, Sequence[str]],
    where: str,
) -> str:
    wanted = marks.chosen(header, options.get("columns"), "column", where)
    places = [list(header).index(name) for name in wanted]
    return report.markdown_table(wanted, [[line[i] for i in places] for line in body])
