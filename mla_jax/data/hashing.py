"""Numbers that depend on the seed, the epoch and the example, and on nothing else."""

from typing import Any

import numpy as np

START = 0x9E3779B97F4A7C15
BITS = (1 << 64) - 1


def draws(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """``uint32[B]``: what decides the augmentation of examples ``index`` in an epoch of a run.

    A hash (the finaliser of SplitMix64, Steele et al. 2014), so that it depends on nothing else.
    """
    mixed = START
    for part in (int(seed), int(epoch)):  # Python's integers: an array of equal ones takes longer
        mixed = _finalized(mixed ^ (part & BITS), int)
    found = _finalized(index.astype(np.uint64) ^ np.uint64(mixed), np.uint64)
    return (found >> np.uint64(32)).astype(np.uint32)


def _finalized(mixed: Any, of: type) -> Any:
    """SplitMix64 of integers of a type, modulo 2^64; ``int`` is cut to that, ``uint64`` is it."""
    mixed = mixed * of(START) & of(BITS)
    mixed = (mixed ^ (mixed >> of(30))) * of(0xBF58476D1CE4E5B9) & of(BITS)
    mixed = (mixed ^ (mixed >> of(27))) * of(0x94D049BB133111EB) & of(BITS)
    return mixed ^ (mixed >> of(31))
