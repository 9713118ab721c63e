"""comparison.html: the comparison as one page that needs only a browser.

The page contains its table, plot, curves and confusion matrices and loads nothing from a
network; its content policy forbids it.  All text that comes from a run is escaped: class names
and labels may contain any character.
"""

import html
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mla_jax.compare import curves, layout, page_runs, page_text, sweep_table, table
from mla_jax.compare.page_runs import Detail, Run, RunFolder

FILE = "comparison.html"
TEMPLATE = pathlib.Path(__file__).with_name("page.html")
CURVES = f"![Accuracy by epoch]({curves.FILE})"
LARGEST = 1_900_000
"""The most bytes of the page; what it shows of the runs is reduced until it fits."""
DETAILS = (
    *(Detail(points, 1000) for points in (200, 100, 60)),
    *(Detail(points, 1) for points in (60, 30, 15)),
    *(Detail(points, 0) for points in (30, 15, 5, 1)),
)
"""Levels of detail, from the most to the least."""


def write(
    path: pathlib.Path,
    comparison: Mapping[str, Any],
    runs: Mapping[str, Sequence[RunFolder]] | None = None,
) -> None:
    """Writes ``comparison.html`` into the folder ``path``, beside ``comparison.png``.

    Args:
      comparison: what ``table.write`` or ``sweep_table.write`` took.
      runs: ``{row label: its runs}``; by default those of the comparison in ``path``.
    """
    folders = page_runs.run_folders(path, comparison) if runs is None else runs
    rows = ordered_rows(comparison)
    found = [
        [page_runs.read_run(run, bool(row.get("alone"))) for run in folders.get(row["label"], ())]
        for row in rows
    ]
    labels = [row["label"] for row in rows]
    configs = {l: [run.config for run in r] for l, r in zip(labels, found, strict=True)}
    image = path / "comparison.png"
    writer = sweep_table if "missing" in comparison else table
    title = (sweep_table if "missing" in comparison else layout).title(comparison)[2:]
    caption = writer.caption(comparison)
    parts = {
        "title": html.escape(title),
        "caption": page_text.text_html(caption),
        "tables": tables_html(tables(comparison)),
        "sections": page_text.blocks_html(sections(comparison), path),
        "plot": plot_html(image.read_bytes() if image.is_file() else b"")
        + (page_text.block_html(CURVES, path) if writer is table else ""),
        "differences": differences_html(labels, page_runs.differences(configs)),
        "facts": facts_html(comparison),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    for detail in DETAILS:
        data = runs_data(path, list(map(table.label, rows)), found, detail)
        page = fill(template, {**parts, "data": script_json(data)})
        if len(page.encode()) <= LARGEST:
            break
    (path / FILE).write_text(page, encoding="utf-8")


def runs_data(
    path: pathlib.Path, labels: Sequence[str], runs: Sequence[Sequence[Run]], detail: Detail
) -> dict[str, Any]:
    """What the page's script reads: the runs of every row, and the class names they refer to."""
    classes: list[list[str]] = []
    rows = [
        {"label": label, "runs": [page_runs.shown(run, path, detail, classes) for run in row]}
        for label, row in zip(labels, runs, strict=True)
    ]
    return {"rows": rows, "classes": classes, "matrices": detail.figures}


def ordered_rows(comparison: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The rows in the order of comparison.md."""
    rows = comparison["rows"]
    ranked = "missing" in comparison and "study" not in comparison
    return sweep_table.best_first(rows) if ranked else rows


class Table(NamedTuple):
    """A table of comparison.md."""

    title: str
    columns: list[str]
    fixed: list[str]
    """The cells of a line that sorting does not move; empty if there is none."""
    body: list[list[str]]


def tables(comparison: Mapping[str, Any]) -> list[Table]:
    """The tables of the rows in comparison.md."""
    rows = ordered_rows(comparison)
    if "missing" not in comparison:
        figures = table.figures_of(rows)
        statistics = comparison.get("statistics")
        body = [table.cells(row, figures, statistics) for row in rows]
        body = table.marked(body, [table.is_bold(row, statistics) for row in rows], "{} *")
        columns, body = layout.with_published(table.columns(figures), body, rows, figures)
        return [Table("", columns, [], body)]
    columns, true = sweep_table.columns(rows)
    rates, found = columns[1:-2], []
    for figure, title in sweep_table.FIGURES.items():
        body = [sweep_table.cells(row, rates, figure) for row in rows]
        if figure == "accuracy":
            statistics = comparison.get("statistics", {})
            body = sweep_table.marked(body, rows, rates, statistics, "{} *")
        found.append(Table(title, columns, true, body))
    return found


def sections(comparison: Mapping[str, Any]) -> Sequence[str]:
    """What a study adds to comparison.md, as Markdown."""
    if "missing" in comparison:
        return comparison.get("study", {}).get("notes", ())
    return layout.sections(comparison, table.figures_of(comparison["rows"]))


def fill(template: str, parts: Mapping[str, str]) -> str:
    """``template`` with each ``<!--name-->`` replaced by that part, whatever the parts contain."""
    return re.sub(r"<!--(\w+)-->", lambda found: parts[found[1]], template)


def script_json(content: Any) -> str:
    """JSON that is safe in a ``<script>``: nothing in it ends the element or begins another."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def sort_value(cell: str) -> str:
    """The first number in a cell, without commas, by which it is sorted; empty if it has none."""
    found = re.search(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", cell)
    return found[0].replace(",", "") if found else ""


def tables_html(found: Sequence[Table]) -> str:
    """The first table open and the others folded, so that the runs are near their rows."""
    first, *others = found
    parts = [f"<h2>{html.escape(first.title)}</h2>" if first.title else "", table_html(first)]
    for other in others:
        summary = f"<summary>{html.escape(other.title)}</summary>"
        parts.append(f"<details>{summary}{table_html(other)}</details>")
    return "\n".join(parts)


def table_html(found: Table) -> str:
    """A table that is sorted by a click on a header, and whose rows choose a run."""

    def line(cells: Sequence[str], index: int | None) -> str:
        label, *others = (html.escape(cell) for cell in cells)
        values = [sort_value(cell) for cell in cells[1:]]
        numbers = [f'<td data-value="{v}">{c}</td>' for v, c in zip(values, others, strict=True)]
        if index is None:
            return f'<tr class="fixed"><th scope="row">{label}</th>{"".join(numbers)}</tr>'
        name = f'<th scope="row"><button type="button">{label}</button></th>'
        return f'<tr data-row="{index}">{name}{"".join(numbers)}</tr>'

    head = "".join(
        f'<th scope="col"><button type="button">{html.escape(column)}</button></th>'
        for column in found.columns
    )
    lines = [line(cells, i) for i, cells in enumerate(found.body)]
    return "\n".join(
        [
            '<div class="wide"><table class="sortable">',
            f"<thead><tr>{head}</tr>{line(found.fixed, None) if found.fixed else ''}</thead>",
            f"<tbody>{''.join(lines)}</tbody>",
            "</table></div>",
        ]
    )


def plot_html(image: bytes) -> str:
    """The PNG, in the page."""
    if not image:
        return "<p>There is no comparison.png beside this page.</p>"
    return page_text.picture_html(image, "Accuracy by row")


def differences_html(labels: Sequence[str], found: Mapping[str, Mapping[str, str]]) -> str:
    """The fields in which rows differ, with one column per row of the comparison."""
    if not found:
        return "<p>No field differs, as far as the runs' folders tell.</p>"
    head = "".join(f'<th scope="col">{html.escape(label)}</th>' for label in labels)
    lines = []
    for field, texts in found.items():
        cells = "".join(
            f"<td>{html.escape(texts[label])}</td>" if label in texts else '<td class="none">–</td>'
            for label in labels
        )
        lines.append(f'<tr><th scope="row">{html.escape(field)}</th>{cells}</tr>')
    return (
        '<div class="wide"><table class="differences">'
        f'<thead><tr><th scope="col">field</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def facts_html(comparison: Mapping[str, Any]) -> str:
    """The command, the date, and what the runs share."""
    about = comparison["about"]
    facts = {
        "command": comparison["command"],
        "date": comparison["date"],
        "commit": about["commit"] or "no commit",
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "device": about["device"],
        "data set": f"{about['dataset']}, {about['examples']} test examples",
        "protocol": f"{about['protocol']}, selection {about['selection']['rule']}",
        "epochs": about["epochs"],
        "seeds": ", ".join(map(str, comparison["seeds"])),
    }
    if "missing" in comparison:
        missing = comparison["missing"]
        facts["missing"] = f"rule {missing['rule']}, masks of seed {missing['seed']}"
    lines = []
    for name, value in facts.items():
        text = html.escape(str(value))
        text = f"<code>{text}</code>" if name == "command" else text
        lines.append(f"<dt>{name}</dt><dd>{text}</dd>")
    return f"<dl>{''.join(lines)}</dl>"
