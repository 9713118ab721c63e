"""Writes tables and arrays of predictions, and gives their accuracy."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mla_jax.predict.read import Examples
from mla_jax.runs.predictions import Predictions


def accuracies(examples: Examples, found: Predictions) -> Iterator[str]:
    """One line for the fused predictions and one per modality, over the labelled examples."""
    label = np.array(examples.labels, dtype=str)
    labelled = label != ""
    if not labelled.any():
        return
    noun = "examples" if labelled.all() else "labelled examples"
    for name, classes in {
        "fused": found.classes,
        **{m: by.classes for m, by in found.modalities.items()},
    }.items():
        there = labelled & (classes >= 0)
        if there.any():
            right = np.array(found.class_names)[classes[there]] == label[there]
            yield f"  {name:12}{right.mean():10.4f}  of {there.sum()} {noun}"


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
