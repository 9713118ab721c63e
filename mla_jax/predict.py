"""Predicts with a trained run on new examples.

    python -m mla_jax.predict --run=runs/digits --input=new.npz --output=predictions.csv
    python -m mla_jax.predict --run=runs/cats --input=new.csv --output=predictions.jsonl

``--input`` is one of

* ``FILE.npz``: one array per modality, any of the run's; perhaps ``id``, ``label`` and ``present``
  (booleans, a column per modality of the file, in the order of the run's modalities);
* ``FILE.csv``: a line per example with paths of raw media, as for the data set ``folder``
  (docs/datasets.md); the columns ``label`` and ``split`` may be missing;
* a folder that ``python -m mla_jax.prepare`` wrote.

``--output`` ends in ``.csv`` (class and probability, fused and by modality, and the weights),
``.jsonl`` (the same and all probabilities) or ``.npz`` (all arrays).  Where the input has labels,
the accuracy is printed.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax.config.command_line import status_of
from mla_jax.data.dataset import DataSpec, Split
from mla_jax.datasets import DESCRIPTIONS, arrays, folder, lists, records
from mla_jax.datasets.description import Description, Modality, Raw
from mla_jax.errors import UserError, check_choice
from mla_jax.prepare.plan import make_plan
from mla_jax.prepare.run import prepare
from mla_jax.runs.predictions import Predictions, split_of_arrays
from mla_jax.runs.run import EPOCHS, Run, open_run

EXTRAS = ("id", "label", "present")


class Examples(NamedTuple):
    """New examples: a split, their names, and their classes where they are known."""

    split: Split
    ids: Sequence[str]
    labels: Sequence[str]
    """Class names; empty if there are none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts as the command line says; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m mla_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the --workdir of a training")
    parser.add_argument("--input", required=True, metavar="PATH", help=".npz, .csv or folder")
    parser.add_argument("--output", required=True, metavar="FILE", help=".csv, .jsonl or .npz")
    parser.add_argument(
        "--epoch", default="chosen", choices=EPOCHS, help="which checkpoint (default: chosen)"
    )
    parser.add_argument(
        "--raw", default="", metavar="DIR", help="where the paths of a .csv start (default: there)"
    )
    parser.add_argument(
        "--vocab", default="", metavar="FILE", help="the vocabulary, for a .csv with text"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="processes that open raw media (default: one per core)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    return status_of("mla_jax.predict", lambda: _predict(chosen))


def _predict(chosen: argparse.Namespace) -> None:
    output = pathlib.Path(chosen.output)
    check_choice("ending of --output", output.suffix, WRITERS)
    if not output.parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {output.parent}: make it first")
    run = open_run(chosen.run)
    with tempfile.TemporaryDirectory() as scratch:
        examples = read_examples(run, chosen, pathlib.Path(scratch))
        found = run.predict(examples.split, epoch=chosen.epoch)
    content = WRITERS[output.suffix](examples, found, run.modalities)
    temporary = output.with_name(output.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(output)
    print(f"{len(found.classes)} predictions: {output}")
    for line in accuracies(examples, found):
        print(line)


def accuracies(examples: Examples, found: Predictions) -> Iterator[str]:
    """One line each for the fused predictions and every modality, where labels are known."""
    if not len(examples.labels):
        return
    label = np.array(examples.labels)
    for name, classes in {
        "fused": found.classes,
        **{m: by.classes for m, by in found.modalities.items()},
    }.items():
        there = classes >= 0
        right = np.array(found.class_names)[classes[there]] == label[there]
        yield f"  {name:12}{right.mean():10.4f}  of {there.sum()} examples"


# ---- Reading ---------------------------------------------------------------------------------


def read_examples(run: Run, chosen: argparse.Namespace, scratch: pathlib.Path) -> Examples:
    """The examples of ``--input``; ``scratch`` takes the records made of raw media.

    Raises:
      UserError: the input is missing, damaged, or not what this run takes.
    """
    path = pathlib.Path(chosen.input)
    if path.is_dir():
        return _prepared(run, _index_folder(path))
    if not path.is_file():
        raise UserError(f"--input={path} does not exist: name an .npz or .csv file, or a folder")
    if path.suffix == ".npz":
        return _arrays(run, path)
    if path.suffix == ".csv":
        return _raw_media(run, path, chosen, scratch)
    raise UserError(f"--input={path} must end in .npz or .csv, or be a folder of prepared records")


def _arrays(run: Run, path: pathlib.Path) -> Examples:
    content = arrays.read_arrays(path)
    inputs = {name: array for name, array in content.items() if name not in EXTRAS}
    inputs = {m: inputs.pop(m) for m in run.modalities if m in inputs} | inputs
    split = split_of_arrays(run.data, inputs, content.get("present"))
    ids = content.get("id", np.arange(split.examples))
    labels = content.get("label", np.zeros(0, int))
    for name, array in (("id", ids), ("label", labels)):
        if name in content and array.shape != (split.examples,):
            raise UserError(f"'{name}' of {path} has shape {array.shape}, not {(split.examples,)}")
    if labels.dtype.kind in "iu":
        if len(labels) and not 0 <= labels.min() <= labels.max() < run.data.classes:
            raise UserError(f"'label' of {path} must be numbers from 0 to {run.data.classes - 1}")
        labels = [run.class_names[i] for i in labels]
    return Examples(split, [str(i) for i in ids], [str(label) for label in labels])


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


def _prepared(run: Run, place: pathlib.Path) -> Examples:
    index = records.read_index(place)
    known = list(index["streams"])
    shown = [m for m in run.modalities if m in known]
    if not shown:
        raise UserError(f"{place} has {', '.join(known)}, and this run takes {_wanted(run)}")
    for m in shown:
        stored = index["streams"][m]
        stream = run.data.streams.get(m)
        here = (stored["kind"], tuple(stored["shape"]), stored["dtype"])
        if stream is None or here != (stream.kind, stream.shape, stream.dtype):
            raise UserError(
                f"'{m}' of {place} is {here[0]} {list(here[1])}, and this run takes "
                f"{_wanted(run)}: prepare it as the training data was"
            )
    missing = ~np.array([m in shown for m in run.modalities])
    columns = [known.index(m) if m in known else 0 for m in run.modalities]
    present = np.array(index["present"], bool)[:, columns] & ~missing
    aspect = np.array(index["aspect"], np.float32)[:, columns]
    rows = np.flatnonzero(present.any(1))
    if len(rows) < len(present):
        print(f"left out: {len(present) - len(rows)} examples without {' or '.join(shown)}")
    if not len(rows):
        raise UserError(f"no example of {place} has {' or '.join(shown)}: there is nothing to do")
    shards = len(index["shard_bytes"])
    paths = [str(place / records.shard_name(index["name"], i, shards)) for i in range(shards)]
    streams = {m: run.data.streams[m] for m in shown}
    label = np.array(index["label"], np.int32)
    of_rows = (label[rows], present[rows], aspect[rows])
    split = _Completed(records.RecordSplit(paths, rows, streams, *of_rows), run.data)
    names = np.array(index["classes"])
    same = set(index["classes"]) <= set(run.class_names)
    labels = names[label[rows]].tolist() if same else []
    return Examples(split, [index["ids"][row] for row in rows], labels)


class _Completed:
    """A split with zeros for the modalities of the run that its records do not have."""

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


def _wanted(run: Run) -> str:
    return ", ".join(
        f"{m} ({s.kind} {list(s.shape)})" if (s := run.data.streams.get(m)) else f"{m} (arrays)"
        for m in run.modalities
    )


def _raw_media(
    run: Run, path: pathlib.Path, chosen: argparse.Namespace, scratch: pathlib.Path
) -> Examples:
    """Prepares the media of a csv file into ``scratch``, as the run's data was."""
    if not run.data.streams:
        raise UserError(f"{run.path} takes arrays, not media files: give --input=FILE.npz")
    rows = lists.read_csv(path, ("id",))
    if not rows:
        raise UserError(f"{path} has no lines: write one per example")
    columns = [c for c in rows[0] if c not in ("id", "label", "split")]
    for column in columns:
        check_choice(f"column of {path}", column.partition(":")[0], run.modalities)
    labelled = all(row.get("label") in run.class_names for row in rows)
    modality_of = {c: c.partition(":")[0] for c in columns}
    header = {c: f"{m}:{run.data.streams[m].kind}" for c, m in modality_of.items()}
    text = io.StringIO()
    writer = csv.DictWriter(text, ["id", "label", "split", *header.values()])
    writer.writeheader()
    for row in rows:
        label = row["label"] if labelled else run.class_names[0]
        cells = {header[c]: row[c] for c in columns}
        writer.writerow({"id": row["id"], "label": label, "split": "test", **cells})
    completed, classes = scratch / "examples.csv", scratch / "classes.txt"
    completed.write_text(text.getvalue())
    classes.write_text("\n".join(run.class_names) + "\n")
    options = argparse.Namespace(
        raw=chosen.raw or str(path.parent), csv=str(completed), classes=str(classes), frames=0,
        recipe=run.config.dataset.recipe, variant="", vocab=chosen.vocab, image_side=0,
        data_dir=str(scratch), drop_incomplete=False, examples_per_shard=256,
    )  # fmt: skip
    plan = make_plan(_as_trained(run), options)
    report = prepare(plan, chosen.workers, 1.0)
    for problem in report["unreadable"]:
        print(f"left out: {problem['path'] or problem['id']} ({problem['reason']})")
    examples = _prepared(run, plan.folder)
    return examples if labelled else examples._replace(labels=[])


def _as_trained(run: Run) -> Description:
    """The data set ``folder``, which stores each modality as the run's training data was stored."""
    origin = DESCRIPTIONS.get(run.config.dataset.name, folder.DESCRIPTION)

    def enumerate_csv(options: argparse.Namespace) -> Raw:
        raw = folder.enumerate_csv(options)
        stored: dict[str, Modality] = {}
        for m, how in raw.modalities.items():
            frames = origin.modalities[m].frames if m in origin.modalities else how.frames
            stored[m] = Modality(run.data.streams[m], frames)
        return raw._replace(modalities=stored)

    recipes = tuple(dict.fromkeys([*origin.recipes, *folder.DESCRIPTION.recipes]))
    return folder.DESCRIPTION._replace(enumerate=enumerate_csv, recipes=recipes)


# ---- Writing ---------------------------------------------------------------------------------


def table(examples: Examples, found: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
    """One dictionary per example: classes, probabilities and weights."""
    lines = []
    for i, name in enumerate(examples.ids):
        line: dict[str, Any] = {"id": name} | _chosen("", found, i, found.class_names)
        for m, by in found.modalities.items():
            if by.classes[i] >= 0:
                line |= _chosen(f"{m}_", by, i, found.class_names)
        if found.weights is not None:
            for j, weight in enumerate(found.weights[i]):
                line[f"{names[j] if j < len(names) else 'joint'}_weight"] = float(weight)
        lines.append(line)
    return lines


def _chosen(prefix: str, by: Any, i: int, class_names: Sequence[str]) -> dict[str, Any]:
    k = int(by.classes[i])
    return {f"{prefix}class": class_names[k], f"{prefix}probability": float(by.probabilities[i, k])}


def _csv(examples: Examples, found: Predictions, names: Sequence[str]) -> bytes:
    lines = table(examples, found, names)
    text = io.StringIO()
    columns = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def _jsonl(examples: Examples, found: Predictions, names: Sequence[str]) -> bytes:
    lines = table(examples, found, names)
    for i, line in enumerate(lines):
        line["probabilities"] = _by_class(found.probabilities[i], found.class_names)
        line["modalities"] = {
            m: _by_class(by.probabilities[i], found.class_names)
            for m, by in found.modalities.items()
            if by.classes[i] >= 0
        }
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _by_class(probabilities: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    return dict(zip(class_names, map(float, probabilities), strict=True))


def _npz(examples: Examples, found: Predictions, names: Sequence[str]) -> bytes:
    content: dict[str, Any] = {
        "id": np.array(examples.ids),
        "class_names": np.array(found.class_names),
        "modalities": np.array(names),
        **{key: getattr(found, key) for key in ("logits", "probabilities", "classes")},
    }
    if found.weights is not None:
        content["weights"] = found.weights
    for m, by in found.modalities.items():
        content |= {f"{m}/{key}": value for key, value in by._asdict().items()}
    file = io.BytesIO()
    np.savez_compressed(file, **content)
    return file.getvalue()


WRITERS: Mapping[str, Callable[..., bytes]] = {".csv": _csv, ".jsonl": _jsonl, ".npz": _npz}

if __name__ == "__main__":
    sys.exit(main())
