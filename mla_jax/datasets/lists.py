"""Reads list files (lines, csv, jsonl); each mistake is reported in one sentence."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mla_jax.errors import UserError, nearest

VIDEO = (".mp4", ".flv", ".avi", ".mkv", ".webm", ".mov")
AUDIO = (".wav", ".flac", ".ogg", ".mp3")
IMAGE = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def require_folder(path: str, flag: str, layout: str) -> pathlib.Path:
    """The folder given by a flag.

    Raises:
      UserError: it does not exist or is a file.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{flag}={path} {what}: name the folder that holds {layout}")
    return folder


def require_below(path: str, modality: str, example: str, raw: str) -> str:
    """The path of a media file from a list; ``raw`` is the value of ``--raw``.

    Raises:
      UserError: it is absolute, or leads out of the raw folder.
    """
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == os.pardir:
        raise UserError(
            f"'{modality}' of example '{example}' is '{path}', which is not below --raw={raw}: "
            "write paths relative to that folder, or name one that holds all files"
        )
    return path


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines that are not blank, without a byte-order mark.

    Raises:
      UserError: the file cannot be read, or is not text.
    """
    # Not splitlines, since tweets contain other line separators.
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def read_class_names(path: pathlib.Path) -> list[str]:
    """The class names of a file, one per line.

    Raises:
      UserError: there are none, one occurs twice, or as ``read_lines``.
    """
    names = read_lines(path)
    if not names:
        raise UserError(f"{path} has no class names: write one name per line")
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{path} names the class '{name}' twice: every class needs its own name"
            )
    return names


def read_text(path: pathlib.Path) -> str:
    """The whole file, without a byte-order mark and with its original line ends.

    Raises:
      UserError: the file cannot be read, or is not text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): is it the right file?") from error


def read_csv(path: pathlib.Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a csv file, as ``numbered_rows``, without those whose cells are all empty."""
    return [row for _, row in numbered_rows(path, columns) if any(row.values())]


def numbered_rows(
    path: pathlib.Path, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file and their line numbers; the header must have ``columns``.

    Blank lines are left out.

    Raises:
      UserError: the file is empty or not csv, a column is missing or occurs twice, or a row has too
        few or too many cells.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = _rows(reader, path)
    header = [name.strip() for name in next(filter(any, rows), [])]
    if not header:
        raise UserError(f"{path} is empty: write a header and one line per example")
    for name in filter(None, header):
        if header.count(name) > 1:
            raise UserError(f"{path} has the column '{name}' twice: leave out one of them")
    for column in columns:
        if column not in header:
            raise UserError(f"{path} has no column '{column}': {nearest(column, header)}")
    for row in rows:
        if not row:
            continue
        cells = [cell.strip() for cell in row]
        if any(cells) and len(cells) != len(header):
            raise UserError(
                f"line {reader.line_num} of {path} has {len(row)} cells and the header "
                f"{len(header)}: quote cells that hold a comma"
            )
        cells = cells if any(cells) else [""] * len(header)
        yield reader.line_num, dict(zip(header, cells, strict=True))


def _rows(reader: Any, path: pathlib.Path) -> Iterator[list[str]]:
    """The rows of a csv reader; ``UserError`` if a line is not csv."""
    try:
        yield from reader
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num} of {path} is not csv ({error}): is a quote never closed?"
        ) from error


def read_jsonl(path: pathlib.Path, fields: Sequence[str]) -> list[dict[str, str]]:
    """One JSON object per line, each with at least ``fields``, which must be text.

    Raises:
      UserError: a line is not an object, lacks a field, or has a field that is not text.
    """
    found = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"line {number} of {path} is not JSON ({error}): fix it") from error
        missing = [f for f in fields if not isinstance(record, dict) or f not in record]
        if missing:
            raise UserError(f"line {number} of {path} has no field '{missing[0]}': fix it")
        if others := [f for f in fields if not isinstance(record[f], str)]:
            value = json.dumps(record[others[0]])
            raise UserError(
                f"line {number} of {path} has {value[:60]} in its field '{others[0]}', which must "
                "be text: fix it"
            )
        found.append(record)
    return found


def find_lists(folders: Iterable[pathlib.Path], names: Mapping[str, str]) -> dict | None:
    """``{part: path}`` for ``{part: file name}`` if all the files are in the same folder."""
    for folder in folders:
        paths = {part: folder / name for part, name in names.items()}
        if all(path.is_file() for path in paths.values()):
            return paths
    return None


def list_folders(raw: pathlib.Path, lists: str) -> list[pathlib.Path]:
    """Where list files are searched: the folder of ``--lists``, else the raw folder."""
    if lists:
        return [require_folder(lists, "--lists", "the list files")]
    return [raw, raw / "lists"]


def media_by_stem(
    folder: pathlib.Path, extensions: Sequence[str], root: pathlib.Path
) -> dict[str, str]:
    """``{file name without its extension: path relative to root}`` of a tree, sorted by path."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            stem, extension = os.path.splitext(name)
            if extension.lower() in extensions:
                path = pathlib.Path(place, name).relative_to(root).as_posix()
                found.setdefault(stem, path)
    return dict(sorted(found.items(), key=lambda item: item[1]))
