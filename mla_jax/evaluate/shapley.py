"""How much each modality contributes to a measure: Shapley values over all sets of modalities."""

import itertools
import math
from collections.abc import Mapping, Sequence


def shapley_values(
    modalities: Sequence[str], values: Mapping[str, float], empty: float
) -> dict[str, float]:
    """The exact Shapley value of each modality (Shapley, 1953): 2^M figures, no sampling.

    A modality's value is what it adds to the figure when it joins, averaged over all orders in
    which the modalities can join.  They sum to the figure of all modalities minus ``empty``.

    Args:
      modalities: the M names.
      values: ``{"a": figure, "b": ..., "a+b": ...}`` for every set but the empty one, the names in
        the order of ``modalities``.
      empty: the figure without any modality.

    >>> shapley_values("ab", {"a": 0.6, "b": 0.4, "a+b": 0.8}, empty=0.0)
    {'a': 0.5, 'b': 0.3}
    """
    M = len(modalities)

    def value(chosen: Sequence[str]) -> float:
        ordered = [m for m in modalities if m in chosen]
        return values["+".join(ordered)] if ordered else empty

    found = {}
    for modality in modalities:
        others = [m for m in modalities if m != modality]
        terms = [
            math.factorial(size) * math.factorial(M - 1 - size) / math.factorial(M)
            * (value([*joined, modality]) - value(joined))
            for size in range(M)
            for joined in itertools.combinations(others, size)
        ]  # fmt: skip
        found[modality] = round(math.fsum(terms), 12)
    return found
