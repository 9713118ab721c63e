"""Batches in a reproducible order, whose whole state is one integer: the number of the next one.

The order is a function of the seed and the epoch alone, so a run resumes by slicing, and one
process, two or four see the same global batches.
"""

import functools
import sys
from collections.abc import Iterator

import grain
import numpy as np

from mla_jax.datasets import ArraySplit
from mla_jax.errors import UserError
from mla_jax.state import Batch


def batches_per_epoch(split: ArraySplit, batch_size: int) -> int:
    """Full batches in a split; the examples left over change from epoch to epoch.

    Raises:
      UserError: there is not even one.
    """
    if split.examples < batch_size:
        raise UserError(
            f"the training split has {split.examples} examples, fewer than batch_size={batch_size}"
        )
    return split.examples // batch_size


def training_batches(
    split: ArraySplit,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's share ``[batch_size / process_count, ...]`` of batch ``start`` and all after.

    Raises:
      UserError: the batch does not divide among the processes, or the split is too small.
    """
    if batch_size % process_count:
        raise UserError(f"batch_size={batch_size} does not divide among {process_count} processes")
    per_epoch = batches_per_epoch(split, batch_size)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(split.examples)

    def load(number: int) -> Batch:
        epoch, first = number // per_epoch, number % per_epoch * batch_size
        return split.fetch(order(epoch)[first : first + batch_size][process_index::process_count])

    numbers = grain.MapDataset.range(start, sys.maxsize)
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return iter(numbers.map(load).to_iter_dataset(reading))


def evaluation_batches(
    split: ArraySplit,
    batch_size: int,
    devices: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order: batches ``[devices, batch_size, ...]`` for this process.

    The split is cut into consecutive blocks of ``batch_size``, one a device, whatever the number
    of devices: a rule that looks at its whole batch sees the same neighbours anywhere.  The last
    blocks are padded with example 0 and ``valid=False``; all processes get equally many batches.
    """
    per_step = devices * process_count
    blocks = -(-split.examples // batch_size)
    for step in range(-(-blocks // per_step)):
        first = step * per_step + process_index * devices
        index = (first + np.arange(devices))[:, None] * batch_size + np.arange(batch_size)
        valid = index < split.examples
        batch = split.fetch(np.where(valid, index, 0).ravel())
        batch["valid"] = valid.ravel()

        def per_device(array: np.ndarray) -> np.ndarray:
            return array.reshape(devices, batch_size, *array.shape[1:])

        yield {
            **{key: per_device(value) for key, value in batch.items() if key != "inputs"},
            "inputs": {m: per_device(array) for m, array in batch["inputs"].items()},
        }
