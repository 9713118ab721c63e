"""NaN and infinity as null in JSON files, and back."""

import math
from collections.abc import Mapping
from typing import Any


def with_nulls(tree: Any) -> Any:
    """``tree``, of mappings and sequences, with None for every NaN and infinity.

    The accuracy of a modality that no example has is NaN, which ``json`` would write as a token
    that other JSON readers refuse.
    """
    if isinstance(tree, Mapping):
        return {key: with_nulls(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [with_nulls(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def number(value: float | None) -> float:
    """A figure from such a file as a number: NaN for null.  Earlier versions wrote NaN."""
    return math.nan if value is None else value
