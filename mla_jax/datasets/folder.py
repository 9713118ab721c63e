"""folder: a user's own data, described by one csv file, without code.

    id,label,split,image,audio,caption:tokens
    a1,cat,train,pictures/a1.jpg,sounds/a1.wav,"a cat on a wall"
    a2,dog,test,pictures/a2.jpg,,"a dog"

``split`` is train, validation or test.  Every other column is a modality of that name: a path
below the raw folder, or empty if the example lacks it.  The first path's extension gives the
kind (a video is a clip); ``name:kind`` sets it, so ``sound:spectrogram`` takes the sound
of a video and ``caption:tokens`` takes the words themselves.
"""

import argparse
import pathlib
from typing import Any

import numpy as np

from mla_jax.data import audio
from mla_jax.data.streams import IMAGENET_MEAN, IMAGENET_STD, KINDS, Stream
from mla_jax.datasets import lists
from mla_jax.datasets.description import Description, Example, Modality, Problem, Raw, Source
from mla_jax.datasets.records import RESERVED
from mla_jax.datasets.splits import PARTS, listed, random_parts
from mla_jax.errors import UserError, check_choice

FILE = "examples.csv"
SIDE, CROP, TEXT, FRAMES = 256, 224, 256, 3
EXTENSIONS = {
    **dict.fromkeys(lists.IMAGE, "image"),
    **dict.fromkeys(lists.VIDEO, "clip"),
    **dict.fromkeys(lists.AUDIO, "spectrogram"),
    ".npy": "vector",
    ".txt": "tokens",
}


def enumerate_csv(options: argparse.Namespace) -> Raw:
    """The rows of ``--csv`` (default: ``examples.csv`` of the raw folder).

    Raises:
      UserError: a wrong header, an id that occurs twice, or an unknown split.
    """
    layout = f"the media files, and {FILE} unless --csv names it"
    root = lists.require_folder(options.raw, "--raw", layout)
    path = pathlib.Path(options.csv) if options.csv else root / FILE
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: write one line per example, with the columns "
            "id,label,split and one per modality (docs/datasets.md)"
        )
    numbered = [*lists.numbered_rows(path, ("id", "label", "split"))]
    rows = [row for _, row in numbered if any(row.values())]
    names = modality_columns(path, rows)
    modalities = {name: _modality(path, root, rows, c, options) for c, name in names.items()}
    given = lists.read_class_names(pathlib.Path(options.classes)) if options.classes else ()
    classes = given or sorted({row["label"] for row in rows if row["label"]})
    examples, problems, seen = [], [], set()
    parts: dict[str, list[str]] = {}
    for number, row in numbered:
        if not any(row.values()):
            continue
        if not row["id"] or row["id"] in seen:
            wrong = f"repeats '{row['id']}'" if row["id"] else "has no id"
            raise UserError(f"line {number} of {path} {wrong}: give each line its own id")
        seen.add(row["id"])
        check_choice(f"split in line {number} of {path}", row["split"], PARTS)
        reason = ""
        if row["label"] not in classes:
            reason = f"unknown label '{row['label']}'" if row["label"] else "no label"
        elif not any(row[column] for column in names):
            reason = "no modality, all its cells are empty"
        if reason:
            problems.append(Problem(row["id"], "", path.name, reason))
            continue
        sources = {
            name: _source(row[column], modalities[name].stream.kind)
            for column, name in names.items()
        }
        examples.append(Example(row["id"], row["label"], sources))
        parts.setdefault(row["split"], []).append(row["id"])
    empty = len(numbered) - len(rows)
    left_out = {"empty row": empty} if empty else {}
    return Raw(examples, classes, {"csv": parts}, problems, left_out, modalities)


def modality_columns(path: pathlib.Path, rows: list[dict[str, str]]) -> dict[str, str]:
    """``{column: modality}`` of a table, whose header may have ``name:kind``.

    Raises:
      UserError: there are none, or two columns have the same modality.
    """
    columns = [c for c in (rows[0] if rows else ()) if c not in ("id", "label", "split")]
    if not columns:
        raise UserError(f"{path} has no column of a modality, or no rows: add image, audio, ...")
    found: dict[str, str] = {}
    for column in columns:
        name = column.partition(":")[0]
        if name in found.values():
            raise UserError(f"{path} has two columns of the modality '{name}': leave out one")
        found[column] = name
    return found


def _source(cell: str, kind: str) -> Source | None:
    if not cell:
        return None
    words = kind == "tokens" and not cell.endswith(".txt")
    return Source(text=cell) if words else Source(cell)


def _modality(
    path: pathlib.Path,
    root: pathlib.Path,
    rows: list[dict[str, str]],
    column: str,
    options: argparse.Namespace,
) -> Modality:
    name, _, kind = column.partition(":")
    cells = [row[column] for row in rows if row[column]]
    if not name or name in RESERVED or not cells:
        raise UserError(
            f"column '{column}' of {path} cannot be a modality: it is empty, or has one of "
            "the reserved names " + ", ".join(RESERVED)
        )
    if not kind:
        extension = pathlib.PurePath(cells[0]).suffix.lower()
        if extension not in EXTENSIONS:
            raise UserError(
                f"column '{column}' of {path} has '{cells[0][:60]}', of unknown kind: name it "
                f"{column}:KIND with one of {', '.join(KINDS)}"
            )
        kind = EXTENSIONS[extension]
    check_choice(f"kind of column '{column}' of {path}", kind, set(KINDS) - {"flow"})
    pictures: dict[str, Any] = {"crop": CROP, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if kind == "image":
        return Modality(Stream("image", (SIDE, SIDE, 3), **pictures), "middle")
    if kind == "clip":
        return Modality(Stream("clip", (options.frames or FRAMES, SIDE, SIDE, 3), **pictures))
    if kind == "spectrogram":
        return Modality(Stream("spectrogram", (0, 0, 1), "float16"))
    if kind == "tokens":
        return Modality(Stream("tokens", (TEXT,), "int32"))
    paths = [
        lists.require_below(row[column], name, row["id"], options.raw)
        for row in rows
        if row[column]
    ]
    return Modality(Stream("vector", _shape_of_first(root, paths), "float32"))


def _shape_of_first(root: pathlib.Path, paths: list[str]) -> tuple[int, ...]:
    for path in paths:
        try:
            return np.lib.format.open_memmap(root / path, mode="r").shape
        except (OSError, ValueError):  # reported when it is prepared
            continue
    raise UserError(f"{root / paths[0]} and all after it are not .npy files: check the paths")


DESCRIPTION = Description(
    name="folder",
    modalities={},
    enumerate=enumerate_csv,
    layout=f"the media files and {FILE}",
    splits={
        "csv": listed("csv", FILE),
        "random_80_10_10": random_parts(train=0.8, validation=0.1, test=0.1),
    },
    default_split={"strict": "csv", "paper": "csv"},
    variants=("default",),
    variant_is_prepared=True,
    recipes=tuple(audio.RECIPES),
    flags=("csv", "classes", "frames"),
)
