"""Numbers that depend on the seed, the epoch and the example, and on nothing else."""

import numpy as np


def draws(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """``uint32[B]``: what decides the augmentation of examples ``index`` in an epoch of a run.

    A hash (the finaliser of SplitMix64, Steele et al. 2014), so that it depends on nothing else.
    """
    mixed = np.full(np.shape(index), 0x9E3779B97F4A7C15, np.uint64)
    for part in (np.full_like(mixed, seed), np.full_like(mixed, epoch), index.astype(np.uint64)):
        mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(32)).astype(np.uint32)
