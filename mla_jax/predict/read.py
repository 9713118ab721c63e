"""Reads the input: arrays, records, or the media that a csv file lists."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax.data.dataset import DataSpec, Split
from mla_jax.datasets import arrays, records
from mla_jax.errors import UserError
from mla_jax.predict import raw_media
from mla_jax.predict.preparation import check_preparation
from mla_jax.runs.run import Run

EXTRAS = ("id", "label", "present")
SHOWN = 5
"""How many names are listed in a line about several."""


class Examples(NamedTuple):
    """New examples: a split, their names, and their classes if known."""

    split: Split
    ids: Sequence[str]
    labels: Sequence[str]
    """Class names, "" for an example without one; empty if no example has one."""


def read_examples(run: Run, chosen: argparse.Namespace, scratch: pathlib.Path) -> Examples:
    """The examples of ``--input``; records made from raw media are written to ``scratch``.

    Raises:
      UserError: the input is missing, damaged, or not what this run takes.
    """
    path = pathlib.Path(chosen.input)
    if path.is_dir():
        place = _index_folder(path)
        return _records(run, place, str(place))
    if not path.is_file():
        raise UserError(f"--input={path} does not exist: name an .npz or .csv file, or a folder")
    if path.suffix == ".npz":
        return _arrays(run, path)
    if path.suffix == ".csv":
        return _media(run, path, chosen, scratch)
    raise UserError(f"--input={path} must end in .npz or .csv, or be a folder of prepared records")


def say_left_out(ids: Sequence[str], total: int, reason: str) -> None:
    """Prints how many examples were left out, and the first of their ids."""
    if len(ids):
        names = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
        print(f"left out: {len(ids)} of {total} examples, {reason}: {names}")


# ---- Arrays ----------------------------------------------------------------------------------


def _arrays(run: Run, path: pathlib.Path) -> Examples:
    content = arrays.read_arrays(path)
    inputs = {name: array for name, array in content.items() if name not in EXTRAS}
    inputs = {m: inputs.pop(m) for m in run.modalities if m in inputs} | inputs
    split = run.split_of_arrays(inputs, content.get("present"))
    for name in ("id", "label"):
        if name in content and content[name].shape != (split.examples,):
            shape = content[name].shape
            raise UserError(f"'{name}' of {path} has shape {shape}, not {(split.examples,)}")
    ids = [str(i) for i in content.get("id", np.arange(split.examples))]
    labels = _class_names(content["label"], run.class_names, path) if "label" in content else []
    return Examples(split, ids, labels)


def _class_names(label: np.ndarray, names: Sequence[str], path: pathlib.Path) -> list[str]:
    """The class names, from an array of class numbers or names.

    Raises:
      UserError: the array has another type, or a label is not a class.
    """
    wanted = f"numbers from 0 to {len(names) - 1}, or class names"
    if label.dtype.kind not in "iuU":
        raise UserError(
            f"'label' of {path} is {label.dtype}, as '{label[0]}' in row 0: labels must be {wanted}"
        )
    numbers = label.dtype.kind in "iu"
    for row, value in enumerate(label.tolist()):
        if not (0 <= value < len(names) if numbers else value in names):
            raise UserError(
                f"'label' of {path} is '{value}' in row {row}: labels must be {wanted} such as "
                f"'{names[0]}'"
            )
    return [names[value] if numbers else value for value in label.tolist()]


# ---- Records ---------------------------------------------------------------------------------


def _index_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder of records in or below ``path``."""
    if (path / records.INDEX).is_file():
        return path
    found = sorted(path.rglob(f"{records.VERSION}/{records.INDEX}"))
    if len(found) != 1:
        listed = ", ".join(str(f.parent) for f in found) or "none"
        raise UserError(
            f"--input={path} must be a folder that mla_jax.prepare wrote; found below it: {listed}"
        )
    return found[0].parent


def _records(run: Run, place: pathlib.Path, name: str) -> Examples:
    """The examples of a folder of records, which messages call ``name``."""
    index = records.read_index(place)
    known = list(index["streams"])
    shown = [m for m in run.modalities if m in known]
    _check_streams(run, index, shown, name)
    check_preparation(run, index, shown, name)
    missing = ~np.array([m in shown for m in run.modalities])
    columns = [known.index(m) if m in known else 0 for m in run.modalities]
    present = np.array(index["present"], bool)[:, columns] & ~missing
    aspect = np.array(index["aspect"], np.float32)[:, columns]
    there = present.any(1)
    rows = np.flatnonzero(there)
    if not len(rows):
        raise UserError(
            f"no example of {name} has {' or '.join(shown)}: give examples that have one of them"
        )
    absent = [index["ids"][row] for row in np.flatnonzero(~there)]
    say_left_out(absent, len(present), f"without {' or '.join(shown)}")
    shards = len(index["shard_bytes"])
    paths = [str(place / records.shard_name(index["name"], i, shards)) for i in range(shards)]
    streams = {m: run.data.streams[m] for m in shown}
    label = np.array(index["label"], np.int32)
    of_rows = (label[rows], present[rows], aspect[rows])
    found = records.RecordSplit(paths, rows, streams, *of_rows, records.stored_images(index))
    split = _Completed(found, run.data)
    labels = [index["classes"][k] for k in label[rows]]
    ids = [index["ids"][row] for row in rows]
    return Examples(split, ids, _known_labels(run, labels, name))


def _check_streams(run: Run, index: Mapping[str, Any], shown: Sequence[str], name: str) -> None:
    """Raises ``UserError`` unless the run can take what the records hold."""
    if not shown:
        raise UserError(
            f"{name} has {', '.join(index['streams'])}, and this run takes {_wanted(run)}"
        )
    for m in shown:
        stored = index["streams"][m]
        stream = run.data.streams.get(m)
        here = (stored["kind"], tuple(stored["shape"]), stored["dtype"])
        if stream is None or here != (stream.kind, stream.shape, stream.dtype):
            raise UserError(
                f"'{m}' of {name} is {here[0]} {list(here[1])}, and this run takes "
                f"{_wanted(run)}: prepare it as the training data was"
            )


def _known_labels(run: Run, labels: list[str], name: str) -> list[str]:
    """The labels; if the run does not have all these classes, none, and a line says so."""
    unknown = sorted({*labels} - {*run.class_names})
    if not unknown:
        return labels
    listed = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
    print(f"no accuracy: {name} has labels that are not classes of {run.path}: {listed}")
    return []


def _wanted(run: Run) -> str:
    return ", ".join(
        f"{m} ({s.kind} {list(s.shape)})" if (s := run.data.streams.get(m)) else f"{m} (arrays)"
        for m in run.modalities
    )


class _Completed:
    """A split with zeros for the run's modalities that its records lack."""

    def __init__(self, split: records.RecordSplit, spec: DataSpec):
        self._split, self._spec = split, spec
        self.label, self.present = split.label, split.present
        self.examples, self.shapes = split.examples, spec.shapes

    def fetch(self, index: np.ndarray) -> dict[str, Any]:
        batch = self._split.fetch(index)
        shapes, dtypes = self._spec.shapes, self._spec.dtypes
        inputs = {
            m: batch["inputs"].get(m, np.zeros((len(index), *shapes[m]), dtypes[m])) for m in shapes
        }
        return {**batch, "inputs": inputs}


# ---- Raw media -------------------------------------------------------------------------------


def _media(
    run: Run, path: pathlib.Path, chosen: argparse.Namespace, scratch: pathlib.Path
) -> Examples:
    """The examples of a csv file, whose media are prepared in ``scratch``."""
    table = raw_media.read_table(run, path)
    folder, problems = raw_media.prepare_table(run, table, chosen, scratch)
    for problem in problems[:SHOWN]:
        print(f"unusable: {problem['path']} of {problem['id']} ({problem['reason']})")
    if len(problems) > SHOWN:
        print(f"unusable: {len(problems) - SHOWN} more files")
    examples = _records(run, folder, str(path))
    kept = set(examples.ids)
    absent = [id for id in table.labels if id not in kept]
    wanted = " or ".join(dict.fromkeys(table.columns.values()))
    say_left_out(absent, len(table.labels), f"without a usable {wanted}")
    labels = [table.labels[id] for id in examples.ids]
    return examples._replace(labels=labels if any(labels) else [])
