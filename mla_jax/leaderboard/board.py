"""``docs/leaderboard.md``: the rows of all artefacts, best first, by data set and protocol."""

import json
from collections.abc import Mapping
from typing import Any

from mla_jax.compare import layout, sweep_table, table
from mla_jax.errors import UserError
from mla_jax.leaderboard.artefacts import FOLDER, Artefact
from mla_jax.runs import report

PAGE = "docs/leaderboard.md"
INTRODUCTION = """\
# Leaderboard

Made from the files of [`results/`](../results/README.md) by `python -m mla_jax.leaderboard write`;
edits of this page are lost. Every row is of finished runs whose data, protocol and commit were
checked.
Test accuracy, mean ± sample standard deviation over the seeds; the interval is the 95 % bootstrap
interval of the fused mean over seeds and test examples, of the table that the row is from. A row
that two of those tables have with equal figures stands here once. Tables differ in what they hold
fixed: rows from different files may differ in training settings, which the commands below say."""

Entry = tuple[dict[str, Any], list[str], Mapping[str, Any]]
"""A row, the artefacts that have it, and what is tested of it."""


def page(artefacts: Mapping[str, Artefact]) -> str:
    """The page.

    Raises:
      UserError: artefacts of one table have different data or numbers of test examples.
    """
    text = [INTRODUCTION]
    groups: dict[tuple[str, ...], dict[str, Artefact]] = {}
    for name, artefact in artefacts.items():
        if artefact["kind"] == "comparison":
            groups.setdefault(key(artefact), {})[name] = artefact
    for (dataset, figures, protocol, rule, epochs, missing), members in sorted(groups.items()):
        check_same(members)
        title = f"## {dataset}: {figures}"
        under = f"Protocol {protocol}, {epochs} epochs, chosen: {rule.replace('_', ' ')}."
        if missing:
            under += f" Modalities are missing: {missing}; fused accuracy by nominal rate."
        lines = _sweep(members) if missing else _rows(members)
        text += [title, under, report.markdown_table(*lines)]
        text += ["\n".join(f"* [`{n}`](../{FOLDER}/{n}.json): {table.origin(a)}"
                           for n, a in members.items())]  # fmt: skip
    return "\n\n".join(text) + "\n"


def key(artefact: Artefact) -> tuple[str, ...]:
    """The key of a table: data set, modalities, protocol, selection, epochs, what is missing."""
    about, missing, rows = artefact["about"], "", artefact["rows"]
    if "missing" in artefact:
        of_rates = [rate["accuracy"] for row in rows for rate in row["rates"].values()]
        rows = [{"test": accuracy} for accuracy in of_rates]
        once = f"trained at {artefact['missing']['train']:g}"
        where = once if artefact["trained_once"] else "in all splits"
        missing = f"rule {artefact['missing']['rule']}, {where}"
    figures = ", ".join(f for f in table.figures_of(rows) if f != "fused")
    rule = about["selection"]["rule"]
    return about["dataset"], figures, about["protocol"], rule, str(about["epochs"]), missing


def check_same(members: Mapping[str, Artefact]) -> None:
    """Raises ``UserError`` unless artefacts of one table have the same data."""
    first: dict[str, tuple[str, Any]] = {}
    for name, artefact in members.items():
        for what, value in {**artefact["data"], "examples": artefact["about"]["examples"]}.items():
            other, known = first.setdefault(what, (name, value))
            if value != known:
                raise UserError(
                    f"{FOLDER}/{name}.json and {FOLDER}/{other}.json cannot be in one table, "
                    f"since their data differ ({what}: {value} and {known}): make the older again"
                )


def _rows(members: Mapping[str, Artefact]) -> tuple[list[str], list[list[str]]]:
    found: dict[str, Entry] = {}
    for name, artefact in members.items():
        tested = artefact.get("statistics", {}).get("rows", {})
        for row in artefact["rows"]:
            seeds = row.get("seeds", artefact["seeds"])
            same = [row[k] for k in ("method", "switches", "fields", "fidelity", "test")]
            entry: Entry = (row | {"seeds": seeds}, [], tested.get(row["label"], {}))
            found.setdefault(json.dumps([same, seeds], sort_keys=True), entry)[1].append(name)
    rows = table.ranked([row for row, *_ in found.values()])
    figures = table.figures_of(rows)
    of_row = {id(row): (names, tested) for row, names, tested in found.values()}
    body = []
    for row in rows:
        names, tested = of_row[id(row)]
        interval = tested.get("interval")
        body.append([
            table.label(row),
            *(table.mean_std(row["test"][f]) if f in row["test"] else layout.DASH for f in figures),
            "[{:.3f}, {:.3f}]".format(*interval) if interval else layout.DASH,
            ", ".join(map(str, row["seeds"])),
            ", ".join(names),
        ])  # fmt: skip
    return ["method", *figures, "95 %", "seeds", "from"], body


def _sweep(members: Mapping[str, Artefact]) -> tuple[list[str], list[list[str]]]:
    every = [row for artefact in members.values() for row in artefact["rows"]]
    rates = sorted({rate for row in every for rate in row["rates"]}, key=float)
    source = {id(row): (n, a) for n, a in members.items() for row in a["rows"]}
    body = []
    for row in sweep_table.best_first(every):
        name, artefact = source[id(row)]
        cells = [
            table.mean_std(row["rates"][r]["accuracy"]["fused"]) if r in row["rates"]
            else layout.DASH for r in rates
        ]  # fmt: skip
        seeds = ", ".join(map(str, artefact["seeds"]))
        body.append([table.label(row), *cells, seeds, name])
    return ["method", *rates, "seeds", "from"], body
