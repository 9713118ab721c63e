"""What the page of a comparison shows of each run, read from the run's folder.

Files of a run may be missing or damaged: the page then lacks what the file
would have shown, and the rest is unchanged.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mla_jax import methods
from mla_jax.config import fields
from mla_jax.errors import UserError
from mla_jax.runs import metrics

MOST_CLASSES = 50
"""With more classes than this, only the most frequent mistakes of a confusion matrix are shown."""
MOST_MISTAKES = 30


class RunFolder(NamedTuple):
    """A run of a row."""

    seed: int
    part: str
    """What distinguishes the runs of one seed: a modality, a rate, or nothing."""
    path: pathlib.Path


class Detail(NamedTuple):
    """How much of a run the page shows."""

    points: int
    """The most points along a curve."""
    figures: int
    """How many confusion matrices; the first is that of ``fused``."""


def run_folders(workdir: pathlib.Path, comparison: Mapping[str, Any]) -> dict[str, list[RunFolder]]:
    """``{row label: the folders of its runs}``."""
    return {row["label"]: _folders(workdir, row, comparison) for row in comparison["rows"]}


def _folders(
    workdir: pathlib.Path, row: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[RunFolder]:
    paths = [workdir / run for run in row["runs"]]
    if "missing" in comparison:
        parts = [f"rate {rate}" for rate in row["rates"]]
        if comparison["trained_once"]:
            parts = [f"trained at rate {comparison['missing']['train']:g}"]
        told = [(part, seed) for part in parts for seed in comparison["seeds"]]
        return [RunFolder(s, part, p) for (part, s), p in zip(told, paths, strict=True)]
    alone = methods.trains_one_modality(row["method"])
    found = []
    for path in paths:
        config = _read_json(path / "config.json").get("config")
        config = config if isinstance(config, dict) else {}
        digits = path.name.removeprefix("seed")
        seed = config.get("seed", int(digits) if digits.isdecimal() else 0)
        part = "+".join(config.get("modalities", (path.parent.name,))) if alone else ""
        found.append(RunFolder(seed, part, path))
    parts = list(dict.fromkeys(run.part for run in found))
    return sorted(found, key=lambda run: parts.index(run.part))


class Run(NamedTuple):
    """What the files of a run contain; empty where they are missing or damaged."""

    folder: RunFolder
    lines: Sequence[Mapping[str, Any]]
    """The lines of metrics.jsonl, one per epoch."""
    confusion: dict[str, np.ndarray]
    """``{"fused" or modality: int[C, C]}``, label by row."""
    class_names: list[str]
    config: dict[str, Any]
    """The configuration: flat, without the seed."""
    chosen: int
    """The epoch of the result; 0 if unknown."""


def read_run(folder: RunFolder, alone: bool) -> Run:
    """Reads the files of a run; ``alone``: its one modality's figure is also the fused figure."""
    try:
        lines = metrics.read_lines(folder.path / "metrics.jsonl")
    except UserError:
        lines = []
    lines = [line for line in lines if "event" not in line and isinstance(line.get("epoch"), int)]
    confusion = {}
    for name, counts in _read_json(folder.path / "confusion.json").items():
        counts = _square(counts)
        if counts is not None and not (alone and name == "fused"):
            confusion[name] = counts
    names = _read_json(folder.path / "data.json").get("class_names")
    config = _read_json(folder.path / "config.json").get("config")
    config = fields.flatten(config) if isinstance(config, dict) else {}
    selection = _read_json(folder.path / "result.json").get("selection")
    chosen = selection.get("epoch") if isinstance(selection, dict) else None
    return Run(
        folder,
        [_without_fused(line) for line in lines] if alone else lines,
        confusion,
        list(map(str, names)) if isinstance(names, list) else [],
        {f: v for f, v in config.items() if f != "seed" and not f.startswith(fields.NOT_COMPARED)},
        chosen if isinstance(chosen, int) else 0,
    )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _square(counts: Any) -> np.ndarray | None:
    try:
        found = np.asarray(counts, int)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found.ndim == 2 and len(set(found.shape)) == 1 else None


def _without_fused(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {key: _without_fused(value) for key, value in tree.items() if key != "fused"}


def shown(run: Run, workdir: pathlib.Path, detail: Detail, classes: list[list[str]]) -> dict:
    """A run as the page's script reads it: numbers of four digits, matrices without their zeros.

    Args:
      workdir: the page's; folders are relative to it.
      classes: the lists of class names so far; a run refers to one by its number.
    """
    seed, part, path = run.folder
    figures = list(run.confusion)[: detail.figures]
    size = len(run.confusion[figures[0]]) if figures else 0
    names = run.class_names if len(run.class_names) == size else list(map(str, range(size)))
    if names not in classes:
        classes.append(names)
    folder = path.relative_to(workdir) if path.is_relative_to(workdir) else path
    return {
        "seed": seed,
        "part": part,
        "folder": folder.as_posix(),
        "chosen": run.chosen,
        "every": _stride(run.lines, detail.points),
        **_curves(run.lines, detail.points),
        "confusion": {name: _sparse(run.confusion[name]) for name in figures},
        "classes": classes.index(names),
    }


def _stride(lines: Sequence[Any], points: int) -> int:
    return -(-len(lines) // points) or 1


def _thin(lines: Sequence[Any], points: int) -> Sequence[Any]:
    """At most ``points`` of the lines, evenly spaced, including the last."""
    return lines[::-1][:: _stride(lines, points)][::-1]


def _curves(lines: Sequence[Mapping[str, Any]], points: int) -> dict[str, Any]:
    """The losses (None if there are none) and the accuracies of each split that has some."""
    lost = [line for line in lines if isinstance(line.get("train"), dict)]
    names = dict.fromkeys(n for line in lost for n in line["train"] if n.endswith("/loss"))
    phases = {name.removesuffix("/loss"): ("train", name) for name in names}
    found: dict[str, Any] = {
        "loss": _series(_thin(lost, points), phases) if phases else None,
        "accuracy": {},
    }
    for split in ("validation", "test"):
        scored = [line for line in lines if isinstance(line.get(split), dict)]
        named = (line[split].get("macro_f1") for line in scored)
        names = dict.fromkeys(n for figures in named if isinstance(figures, dict) for n in figures)
        if names:
            places = {name: (split, name) for name in names}
            found["accuracy"][split] = _series(_thin(scored, points), places)
    return found


def _series(
    lines: Sequence[Mapping[str, Any]], places: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """``{"x": epochs, "y": {name: numbers or None}}``; ``places``: ``{name: (split, key)}``."""

    def number(line: Mapping[str, Any], split: str, key: str) -> float | None:
        group = line.get(split)
        value = group.get(key) if isinstance(group, dict) else None
        told = isinstance(value, int | float) and np.isfinite(value)
        return float(f"{value:.4g}") if told else None

    y = {name: [number(line, *place) for line in lines] for name, place in places.items()}
    return {"x": [line["epoch"] for line in lines], "y": y}


def _sparse(counts: np.ndarray) -> dict[str, Any]:
    """``[label, predicted, examples, ...]`` of the non-zero counts, or of the frequent mistakes."""
    if len(counts) <= MOST_CLASSES:
        return {"cells": _flat(counts, *np.nonzero(counts))}
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_MISTAKES]
    labels, predicted = np.unravel_index(order[wrong.flat[order] > 0], wrong.shape)
    return {"mistakes": _flat(wrong, labels, predicted), "totals": counts[labels].sum(1).tolist()}


def _flat(counts: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> list[int]:
    return np.stack([labels, predicted, counts[labels, predicted]], 1).ravel().tolist()


def differences(configs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, str]]:
    """The fields in which rows differ: ``{field: {label: value as text}}``.

    A row without the field has no text.  If the runs of a row differ, all their values are given.

    Args:
      configs: ``{row: the flat configurations of its runs}``; rows without any are left out.
    """
    texts: dict[str, dict[str, str]] = {}
    told = {label: [c for c in found if c] for label, found in configs.items()}
    told = {label: found for label, found in told.items() if found}
    for field in dict.fromkeys(f for found in told.values() for config in found for f in config):
        by_row = {}
        for label, found in told.items():
            values = dict.fromkeys(_text(config[field]) for config in found if field in config)
            if values:
                by_row[label] = " | ".join(values)
        if len(by_row) < len(told) or len(set(by_row.values())) > 1:
            texts[field] = by_row
    places = {"method.name": -2, "method.fidelity": -1}
    return dict(sorted(texts.items(), key=lambda item: (places.get(item[0], 0), item[0])))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "[]"
    return json.dumps(value)
