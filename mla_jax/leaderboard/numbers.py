"""Checks that every figure in the text of a page is in an artefact that the page names.

A figure is a number written like an accuracy: ``0.983``, ``.98``, ``98.3``, ``1.000``, or any
number after ``±``.  A comment before it must give its source.  The comment applies until the next
such comment or heading:

    <!-- numbers: digits-image-audio rows=mla|concat figures=fused; digits-image-audio-text -->

Each entry is the name of an artefact (``A|B`` for two) and what may be quoted from it: ``rows``,
``figures`` and ``rates`` (by default all), the words ``seeds`` for single seeds and
``differences`` for those between means, and ``in`` with ``scale`` for what a study measures or a
measurement has: the start of a value's path, in which ``*`` matches anything.  Without these words:
means, standard deviations, intervals, p values.
The name ``tables`` means the generated blocks of this page, in lines that begin with one of
``rows``.  Figures that cannot be in an artefact are marked with the reason:

    <!-- numbers: published MLA paper, Table 1 -->
    <!-- numbers: setting the weights of the fixed fusion -->
    <!-- numbers: measured 2026-11-26, by a script that is not kept -->

Generated blocks, code and the targets of links are not checked.
"""

import fnmatch
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mla_jax.errors import UserError
from mla_jax.leaderboard import marks
from mla_jax.leaderboard.artefacts import FOLDER, Artefact

FIGURE = re.compile(
    r"(?P<spread>±\s*)?(?<![\w.:/=])(?P<number>[-−]?(?:0?\.\d{2,}|\d\.\d{3,}|\d{2}\.\d{1,2}|100\.0+"
    r"|(?<=± )\d\.\d+))(?!\.?\w)"
)
"""Excludes the parts of a version, as in ``0.10.2``, and numbers with an exponent."""
MARKER = re.compile(r"<!-- (?P<end>/)?numbers:?(?P<sources>.*?)-->", re.DOTALL)
HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
HIDDEN = (
    re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
    re.compile(r"^(?: {4}.*\n?)+", re.MULTILINE),
    re.compile(r"`(?:[^`\n]|\n(?!\n))*`"),
    re.compile(r"\]\([^)\n]*\)"),
    marks.BLOCK,
)
"""What is not text, in the order in which it is removed."""
EXEMPT = {
    "published": "the source",
    "setting": "what is set",
    "measured": "the day, as 2026-11-27, and how",
}
TABLES = "tables"
DAY = re.compile(r"\d{4}-\d\d-\d\d")
WORDS, OPTIONS = ("seeds", "differences"), ("rows", "figures", "rates", "in", "scale")


class Values(NamedTuple):
    """The values that may be quoted."""

    figures: tuple[float, ...]
    spreads: tuple[float, ...]
    """Standard deviations, which may follow ± or be quoted alone."""


Source = tuple[str, Values | None]
"""Names of sources, and their values; None if figures are not checked."""


def problems(text: str, artefacts: Mapping[str, Artefact], where: str) -> list[str]:
    """A sentence for each figure of a page that has no artefact, with its line.

    Raises:
      UserError: a comment names a source that does not exist.
    """
    prose = without_code(text)
    events = [(found.start(), "heading", found) for found in HEADING.finditer(prose)]
    events += [(found.start(), "marker", found) for found in MARKER.finditer(prose)]
    comments = re.compile(r"<!--.*?-->", re.DOTALL)
    for found in FIGURE.finditer(comments.sub(lambda c: _blank(c[0]), prose)):
        events.append((found.start(), "figure", found))
    found_problems, source, percent = [], None, False
    for start, kind, found in sorted(events, key=lambda event: event[0]):
        place = f"{where}:{marks.line_of(text, start)}"
        if kind == "figure":
            number = found["number"]
            percent = percent if found["spread"] else len(number.lstrip("-−").split(".")[0]) > 1
            if problem := _problem(number, bool(found["spread"]), percent, source):
                found_problems.append(f"{place}: {problem}")
        elif kind == "heading" or found["end"]:
            source = None
        else:
            text_of = " ".join(found["sources"].split())
            source, absent = _source(text_of, artefacts, text, place)
            found_problems += [
                f"{place}: there is no {FOLDER}/{name}.json (see {FOLDER}/README.md)"
                for name in absent
            ]
    return found_problems


def without_code(text: str) -> str:
    """A page with spaces in place of what is not text; line numbers stay the same."""
    for pattern in HIDDEN:
        text = pattern.sub(lambda found: _blank(found[0]), text)
    return text


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _problem(number: str, spread: bool, percent: bool, source: Source | None) -> str:
    """What is wrong with a figure; empty if nothing is."""
    if source is None:
        return (
            f"{number} has no source: put <!-- numbers: NAME --> before it, where "
            f"{FOLDER}/NAME.json has the figure"
        )
    names, values = source
    if values is None or quoted(number, percent, values.spreads):
        return ""
    if not spread and quoted(number, percent, values.figures):
        return ""
    near = nearest(
        number, percent, values.spreads if spread else (*values.figures, *values.spreads)
    )
    return f"{number} is not a figure of {names}{near}"


def nearest(number: str, percent: bool, values: Iterable[float]) -> str:
    """The value nearest to a number, as the end of a sentence."""
    told, digits = float(number.replace("−", "-")), len(number.partition(".")[2])
    shown = [100 * v if percent and abs(v) <= 1 else v for v in values]
    if not shown:
        return ""
    return f", whose nearest is {min(shown, key=lambda v: abs(abs(v) - abs(told))):.{digits}f}"


def quoted(number: str, percent: bool, values: Iterable[float]) -> bool:
    """Whether a number is a value, or a fraction in ``percent``, rounded to its digits.

    A number without a sign may be a negative value, since the text may give the direction.
    """
    number = number.replace("−", "-")
    told, digits = float(number), len(number.partition(".")[2])
    half = 0.5 * 10**-digits * (1 + 1e-6)
    fractions = (100 * v if percent and abs(v) <= 1 else v for v in values)
    return any(abs(value - told) <= half or abs(abs(value) - told) <= half for value in fractions)


def _source(
    text: str, artefacts: Mapping[str, Artefact], page: str, where: str
) -> tuple[Source, list[str]]:
    """The source named by a marker, and the artefacts that are missing.

    If one is missing, that is reported and the figures are not checked.

    Raises:
      UserError: an exemption without reason, or an unknown row, figure, rate or path.
    """
    kind, _, reason = text.partition(" ")
    if kind in EXEMPT:
        if not reason.strip() or (kind == "measured" and not DAY.search(reason)):
            raise UserError(f"{where}: after 'numbers: {kind}' write {EXEMPT[kind]}")
        return (kind, None), []
    found, names, absent = [], [], []
    for entry in text.split(";"):
        marker = marks.parse(entry, where, WORDS, OPTIONS)
        names.append(marker.text)
        for name in marker.name.split(marks.SEPARATOR):
            if name == TABLES:
                found.append(_values_of_blocks(page, marker, where))
            elif name in artefacts:
                found.append(values_of(artefacts[name], marker, where))
            else:
                absent.append(name)
    values = Values(
        tuple(itertools.chain.from_iterable(v.figures for v in found)),
        tuple(itertools.chain.from_iterable(v.spreads for v in found)),
    )
    return ("; ".join(names), None if absent else values), absent


def values_of(artefact: Artefact, marker: marks.Marker, where: str) -> Values:
    """The values that a marker allows to be quoted.

    Raises:
      UserError: the artefact has no such row, figure, rate or path.
    """
    if "in" in marker.options or artefact["kind"] == "measurement":
        return _values_in(artefact, marker, where)
    labels = marks.chosen(
        (row["label"] for row in artefact["rows"]), marker.options.get("rows"), "row", where
    )
    wanted = marker.options.get("figures")
    if wanted is not None:
        there = {figure for row in artefact["rows"] for figure, _ in _listed(row, None)}
        wanted = tuple(marks.chosen(there, wanted, "figure", where))
    figures: list[float] = []
    spreads: list[float] = []
    means: list[float] = []
    for row in artefact["rows"]:
        if row["label"] not in labels:
            continue
        for figure, values in _listed(row, marker.options.get("rates")):
            if wanted is None or figure in wanted:
                means.append(float(np.mean(values)))
                figures += values if "seeds" in marker.words else ()
                spreads += [float(np.std(values, ddof=1))] if len(values) > 1 else ()
        for figure, interval in row.get("interval", {}).items():
            figures += interval if wanted is None or figure in wanted else ()
        statistics = artefact.get("statistics", {})
        for of_rows in [statistics, *(statistics.get(rate, {}) for rate in row.get("rates", ()))]:
            tested = of_rows.get("rows", {}).get(row["label"])
            if tested and (wanted is None or "fused" in wanted):
                figures += [*tested["interval"], *tested.get("difference_interval", ())]
                figures += [tested[key] for key in ("difference", "p", "p_holm") if key in tested]
    if "differences" in marker.words:
        figures += [abs(a - b) for a, b in itertools.combinations(means, 2)]
    return Values((*figures, *means), tuple(spreads))


def _listed(row: Mapping[str, Any], rates: Iterable[str] | None) -> Iterator[tuple[str, list]]:
    """The figures of a row with their values over the seeds, for ``rates``, or all if None.

    Under missing modalities, also the figures of subsets, by the name of the subset.
    """
    yield from row.get("test", {}).items()
    for rate, found in row.get("rates", {}).items():
        if rates is None or rate in rates:
            yield from found["accuracy"].items()
            yield from found["subsets"].items()


def _values_of_blocks(page: str, marker: marks.Marker, where: str) -> Values:
    """The figures in the generated tables of a page, in the lines that begin with ``rows``."""
    lines: dict[str, list[str]] = {}
    for block in marks.BLOCK.finditer(page):
        for line in block["body"].splitlines():
            if line.startswith("| "):
                lines.setdefault(line[2:].partition(" |")[0], []).append(line)
    labels = marks.chosen(lines, marker.options.get("rows"), "row", where)
    found = [f for label in labels for line in lines[label] for f in FIGURE.finditer(line)]
    numbers = [(float(f["number"]), bool(f["spread"])) for f in found]
    return Values(
        tuple(number for number, spread in numbers if not spread),
        tuple(number for number, spread in numbers if spread),
    )


def _values_in(artefact: Artefact, marker: marks.Marker, where: str) -> Values:
    """Numbers of a study, or of a measurement, whose path starts with a value of ``in``."""
    starts = marker.options.get("in", ("",))
    scale = float(marker.options.get("scale", ("1",))[0])
    tree = artefact.get("values", artefact.get("study", {}))
    seeds = "seeds" in marker.words
    found = [
        scale * value
        for path, value in leaves(tree)
        if any(fnmatch.fnmatchcase(path, f"{start}*") for start in starts)
        and (seeds or "/seeds/" not in path)
    ]
    if not found:
        raise UserError(f"{where}: {marker.name} has nothing in {' or '.join(starts)}")
    return Values(tuple(found), ())


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings and lists, with their paths: ``a/b/0``, without spaces."""
    if isinstance(tree, Mapping | list):
        pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in pairs:
            yield from leaves(value, f"{path}{marks.squeezed(key)}/")
    elif isinstance(tree, int | float) and not isinstance(tree, bool) and math.isfinite(tree):
        yield path, tree
