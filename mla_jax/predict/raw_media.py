"""Turns a csv file that lists raw media into records like those that the run was trained on."""

import argparse
import csv
import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from mla_jax.datasets import DESCRIPTIONS, folder, lists
from mla_jax.datasets.description import Description, Modality, Raw
from mla_jax.errors import UserError, check_choice
from mla_jax.predict.preparation import check_preparation
from mla_jax.prepare.plan import Plan, frame_rules, make_plan
from mla_jax.prepare.run import prepare
from mla_jax.runs.run import Run


class Table(NamedTuple):
    """A csv file with a valid header, ids and labels."""

    path: pathlib.Path
    rows: list[dict[str, str]]
    columns: Mapping[str, str]
    """``{column: modality}``."""
    labels: Mapping[str, str]
    """``{id: class name}``, "" where the cell is empty or the column is missing."""


def read_table(run: Run, path: pathlib.Path) -> Table:
    """The lines of ``--input=FILE.csv``.

    Raises:
      UserError: the run takes arrays; a column belongs to no modality, or two to one; a column
        is empty; or an id or a label is not valid.
    """
    if not run.data.streams:
        raise UserError(f"{run.path} takes arrays, not media files: give --input=FILE.npz")
    numbered = [(n, row) for n, row in lists.numbered_rows(path, ("id",)) if any(row.values())]
    rows = [row for _, row in numbered]
    if not rows:
        raise UserError(f"{path} has no lines: write one per example")
    columns = _columns(run, path, rows)
    labels: dict[str, str] = {}
    for number, row in numbered:
        if not row["id"] or row["id"] in labels:
            wrong = f"repeats the id '{row['id']}'" if row["id"] else "has no id"
            raise UserError(f"line {number} of {path} {wrong}: give each line its own id")
        label = labels[row["id"]] = row.get("label", "")
        if label:
            check_choice(f"label in line {number} of {path}", label, run.class_names)
    return Table(path, rows, columns, labels)


def _columns(run: Run, path: pathlib.Path, rows: list[dict[str, str]]) -> dict[str, str]:
    if set(rows[0]) <= {"id", "label", "split"}:
        known = ", ".join(run.modalities)
        raise UserError(f"{path} has no column of a modality: add one of {known}")
    columns = folder.modality_columns(path, rows)
    for column, m in columns.items():
        check_choice(f"column of {path}", m, run.modalities)
        kind, wanted = column.partition(":")[2], run.data.streams[m].kind
        if kind not in ("", wanted):
            raise UserError(
                f"column '{column}' of {path} must be '{m}' or '{m}:{wanted}': the run was trained "
                "on that"
            )
        if not any(row[column] for row in rows):
            raise UserError(f"column '{column}' of {path} is empty: fill it, or leave it out")
    return columns


def prepare_table(
    run: Run, table: Table, chosen: argparse.Namespace, scratch: pathlib.Path
) -> tuple[pathlib.Path, list[dict[str, Any]]]:
    """Prepares the media of a table into ``scratch``, in the same way as the run's data.

    Returns:
      The folder of the records, and the files that could not be used.

    Raises:
      UserError: another vocabulary than the run's, or no file can be used.
    """
    completed, classes = scratch / "examples.csv", scratch / "classes.txt"
    completed.write_text(_completed(run, table), encoding="utf-8")
    classes.write_text("\n".join(run.class_names) + "\n", encoding="utf-8")
    recipes = [how["recipe"] for how in run.data.preparation.values() if "recipe" in how]
    raw = any(how.get("images") == "raw" for how in run.data.preparation.values())
    images = "raw" if raw else "jpeg"
    options = argparse.Namespace(
        raw=chosen.raw or str(table.path.parent), csv=str(completed), classes=str(classes),
        recipe=(recipes or [run.config.dataset.recipe])[0], variant="", vocab=chosen.vocab,
        frames=0, image_side=0, data_dir=str(scratch), drop_incomplete=False,
        examples_per_shard=256, images=images,
    )  # fmt: skip
    plan = make_plan(_as_trained(run), options)
    check_preparation(run, _index_of(plan), list(plan.modalities), str(table.path))
    report = prepare(plan, chosen.workers, 1.0)
    return plan.folder, report["unreadable"]


def _completed(run: Run, table: Table) -> str:
    """The table as csv text, with a split, a placeholder label, and the run's kinds of media."""
    header = {c: f"{m}:{run.data.streams[m].kind}" for c, m in table.columns.items()}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["id", "label", "split", *header.values()])
    writer.writeheader()
    for row in table.rows:
        cells = {header[c]: row[c] for c in table.columns}
        writer.writerow({"id": row["id"], "label": run.class_names[0], "split": "test", **cells})
    return text.getvalue()


def _index_of(plan: Plan) -> dict[str, Any]:
    """The part of the future ``index.json`` that says how the records are prepared."""
    return {
        "settings": plan.settings,
        "streams": {m: how.stream._asdict() for m, how in plan.modalities.items()},
        "frames": frame_rules(plan.raw, plan.modalities),
    }


def _as_trained(run: Run) -> Description:
    """The data set ``folder``, which stores each modality as the run's training data was stored."""
    origin = DESCRIPTIONS.get(run.config.dataset.name, folder.DESCRIPTION)

    def enumerate_csv(options: argparse.Namespace) -> Raw:
        raw = folder.enumerate_csv(options)
        stored: dict[str, Modality] = {}
        for m, how in raw.modalities.items():
            frames = origin.modalities[m].frames if m in origin.modalities else how.frames
            recorded = run.data.preparation.get(m, {}).get("frames")
            # Alphabetically, window_test comes before window_train.
            stored[m] = Modality(run.data.streams[m], recorded[0] if recorded else frames)
        return raw._replace(modalities=stored)

    recipes = tuple(dict.fromkeys([*origin.recipes, *folder.DESCRIPTION.recipes]))
    return folder.DESCRIPTION._replace(enumerate=enumerate_csv, recipes=recipes)
