"""Checks and remarks about the examples of a data set, before anything is compiled."""

from typing import Any

import numpy as np

from mla_jax.data.dataset import ArraySplit, Dataset
from mla_jax.errors import UserError

SHOWN = 5
"""How many classes a remark names."""


def check_examples(dataset: Dataset) -> None:
    """Raises ``UserError`` unless every example has a modality, and every number is finite.

    Data on disk is not read for this: evaluation checks the numbers of its batches, and
    training checks its loss.
    """
    for part, split in dataset.splits.items():
        where = f"the {part} split of {dataset.name}"
        without = np.flatnonzero(~split.present.any(1))
        if len(without) == split.examples:
            raise UserError(
                f"no example of {where} has any modality ('present' is False everywhere): correct "
                "'present', or leave it out if nothing is missing"
            )
        if len(without):
            raise UserError(
                f"{len(without)} of the {split.examples} examples of {where} have no modality, the "
                f"first is example {without[0]}: leave them out"
            )
        if isinstance(split, ArraySplit):
            for column, (modality, array) in enumerate(split.inputs.items()):
                rows = np.flatnonzero(split.present[:, column] & ~finite_rows(array))
                if len(rows):
                    raise UserError(
                        f"'{modality}' of {where} holds NaN, infinity or numbers too large for "
                        f"{array.dtype} in {len(rows)} of {split.examples} examples, the first is "
                        f"example {rows[0]}: fix them, or mark them missing in 'present'"
                    )
    trained: Any = dataset.splits["train"].present.any(0)
    for modality, some in zip(dataset.modalities, trained, strict=True):
        if not some:
            raise UserError(
                f"no example of the train split of {dataset.name} has '{modality}': leave it out "
                "of config.modalities"
            )


def remarks(dataset: Dataset) -> list[str]:
    """A sentence for every split with classes that no training example has.

    Such examples count as wrong predictions, but are not an error in the data.
    """
    known = np.unique(dataset.splits["train"].label)
    found = []
    for part, split in dataset.splits.items():
        unknown = np.setdiff1d(split.label, known)
        if not len(unknown):
            continue
        names = [dataset.class_names[i] for i in unknown[:SHOWN]]
        names += ["..."] if len(unknown) > SHOWN else []
        found.append(
            f"{np.isin(split.label, unknown).sum()} of the {split.examples} {part} examples are of "
            f"{len(unknown)} class{'es' * (len(unknown) > 1)} that no training example has: "
            + ", ".join(names)
        )
    return found


def finite_rows(array: np.ndarray) -> np.ndarray:
    """``bool[N]``: whether all numbers of row i of ``array: [N, ...]`` are finite."""
    if not np.issubdtype(array.dtype, np.floating):
        return np.ones(len(array), bool)
    return np.isfinite(array.reshape(len(array), -1)).all(1)
