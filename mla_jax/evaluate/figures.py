"""Accuracy and F1 of confusion counts, as fractions in [0, 1]."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def summarize(confusion: np.ndarray, modalities: Sequence[str]) -> dict[str, Any]:
    """``{"fused": accuracy, <modality>: accuracy, "examples", "macro_f1", "weighted_f1",
    "confusion"}``.

    ``confusion: int[1 + M, C, C]``.  Accuracies and F1 are fractions in [0, 1]; the accuracy of a
    modality that no example has is NaN.  Macro-F1 averages over the classes that occur as label
    or as prediction, weighted F1 over all examples, each with the F1 of its class, like
    scikit-learn.
    """
    names = ("fused", *modalities)
    return {
        **{name: accuracy(counts) for name, counts in zip(names, confusion, strict=True)},
        "examples": int(confusion[0].sum()),
        "macro_f1": {n: macro_f1(counts) for n, counts in zip(names, confusion, strict=True)},
        "weighted_f1": {n: weighted_f1(counts) for n, counts in zip(names, confusion, strict=True)},
        "confusion": {n: counts.tolist() for n, counts in zip(names, confusion, strict=True)},
    }


def pooled(confusion: np.ndarray) -> dict[str, Any]:
    """``{"accuracy", "macro_f1", "weighted_f1", "examples"}`` of ``confusion: int[C, C]``."""
    return {
        "accuracy": accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        "weighted_f1": weighted_f1(confusion),
        "examples": int(confusion.sum()),
    }


def accuracy(confusion: np.ndarray) -> float:
    """Share of correct predictions in ``confusion: int[C, C]``; NaN without examples."""
    total = int(confusion.sum())
    return int(np.trace(confusion)) / total if total else float("nan")


def macro_f1(confusion: np.ndarray) -> float:
    """Unweighted mean of the F1 of each class that occurs; NaN without examples."""
    f1, occurs = _f1(confusion)
    return float(np.mean(f1[occurs])) if occurs.any() else float("nan")


def weighted_f1(confusion: np.ndarray) -> float:
    """Mean of the F1 of each class, weighted by its examples; NaN without examples."""
    examples = confusion.sum(1)
    if not examples.any():
        return float("nan")
    return float(np.average(_f1(confusion)[0], weights=examples))


def _f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The F1 of each class of ``confusion: int[C, C]``, and whether it occurs at all."""
    occurrences = confusion.sum(0) + confusion.sum(1)
    return 2 * np.diagonal(confusion) / np.maximum(occurrences, 1), occurrences > 0
