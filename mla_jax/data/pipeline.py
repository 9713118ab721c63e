"""Batches in a reproducible order, whose whole state is one integer: the number of the next one.

The order is a function of the seed and the epoch alone, so a run resumes by slicing, and one
process, two or four see the same global batches.
"""

import contextlib
import sys
from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol

import grain
import numpy as np
from absl import flags

from mla_jax.data import cores, workers
from mla_jax.data.dataset import Split
from mla_jax.data.hashing import draws
from mla_jax.data.sharing import Shared
from mla_jax.errors import UserError
from mla_jax.state import Batch

SHARED_MEMORY_FROM = 1 << 16
"""Bytes from which a worker's array travels in shared memory; each costs a file."""
EVALUATED_BY_WORKERS = 1 << 14
"""Examples per process from which workers evaluate: they take seconds to start, every time."""


def batches_per_epoch(examples: int, batch_size: int, drop_last: bool = True) -> int:
    """Batches in a training split, without the last one if it is partial and ``drop_last``.

    Which examples are then left out changes from epoch to epoch.

    Raises:
      UserError: there is not even one.
    """
    if not drop_last:
        return -(-examples // batch_size)
    if examples < batch_size:
        power = 1 << (examples.bit_length() - 1)  # of 2: it divides among devices
        raise UserError(
            f"the training split has {examples} examples, fewer than "
            f"batch_size={batch_size}: set --config.batch_size={power} or less"
        )
    return examples // batch_size


class Loader(NamedTuple):
    """Who loads the batches: ``config.loader``."""

    workers: int | str = 0
    """Processes that load batches; 0: this one does; ``auto``: see ``workers.automatic``."""
    threads: int = 1
    """Threads that load a batch each, here or in every worker."""
    prefetch: int = 4
    """Batches ready and waiting, here or in every worker."""

    def resolved(self, split: Split) -> "Loader":
        """The same with the number of workers that ``auto`` stands for with this split."""
        if self.workers == workers.AUTO:
            return self._replace(workers=workers.automatic(split, cores.usable_cores()))
        return self


HERE = Loader()
"""One thread of this process."""


class TrainingBatch:
    """``(number) -> batch``: one process's share of global batch ``number``, from any thread.

    All batches have one size.  A partial one is filled with its epoch's first example, which is
    then neither valid nor present.

    A class because worker processes must be able to unpickle it.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        process_index: int,
        process_count: int,
        drop_last: bool = True,
    ):
        self._split, self._seed = split, seed
        self._batch_size = batch_size
        self._share = batch_size // process_count
        self._first = process_index * self._share
        self._per_epoch = batches_per_epoch(split.examples, batch_size, drop_last)
        self._newest: tuple[int, np.ndarray] | None = None

    def _order(self, epoch: int) -> np.ndarray:
        newest = self._newest  # read once: another thread may replace it
        if newest is None or newest[0] != epoch:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._split.examples)
            self._newest = newest = (epoch, order)
        return newest[1]

    def __call__(self, number: int) -> Batch:
        epoch, place = divmod(int(number), self._per_epoch)
        first = place * self._batch_size + self._first
        order = self._order(epoch)
        index = order[first : first + self._share]
        valid = np.arange(self._share) < len(index)
        index = np.concatenate([index, np.full(self._share - len(index), order[0])])
        in_epoch = getattr(self._split, "fetch_in_epoch", None)
        batch = in_epoch(index, epoch) if in_epoch else self._split.fetch(index)
        masks = {k: batch[k] & valid[:, None] for k in ("present", "available") if k in batch}
        return {**batch, **masks, "valid": valid, "draw": draws(self._seed, epoch, index)}


class Batches(Iterator[Batch], Protocol):
    """Batches, and ``close()``, which ends the workers that load them."""

    def close(self) -> None: ...


class Load(Protocol):
    """What loads a batch."""

    def __call__(self, number: int) -> Batch: ...


def training_batches(
    split: Split,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    loader: Loader = HERE,
    drop_last: bool = True,
) -> Batches:
    """This process's share ``[batch_size / process_count, ...]`` of batch ``start`` and all after.

    The share is a contiguous block: joined in the order of the processes, the shares are the batch
    that one process would load.  Beside what the split gives, a batch carries ``draw`` (``draws``).

    Whatever ``loader`` says, the batches are the same.  ``close()`` ends its workers.

    Raises:
      UserError: the batch does not divide among the processes, or the split is too small.
    """
    if batch_size % process_count:
        raise UserError(f"batch_size={batch_size} does not divide among {process_count} processes")
    load = TrainingBatch(split, batch_size, seed, process_index, process_count, drop_last)
    quick = workers.is_quick(split, batch_size // process_count)
    return _loaded(load, range(start, sys.maxsize), loader.resolved(split), quick)


def _loaded(load: Load, numbers: range, loader: Loader, quick: bool) -> Batches:
    """``load`` of each number, in order, ahead of whoever takes the batches.

    Where that is ``quick`` and nothing else is asked for, the batch is loaded when it is taken.
    """
    if quick and not loader.workers and loader.threads == 1:
        return (load(number) for number in numbers)
    reading = grain.ReadOptions(loader.threads, prefetch_buffer_size=loader.prefetch)
    source = grain.MapDataset.range(numbers.start, numbers.stop)
    count = int(loader.workers)
    if not count:
        return iter(source.map(load).to_iter_dataset(reading))
    if not flags.FLAGS.is_parsed():  # grain reads its own, also in a script that has none
        flags.FLAGS.mark_as_parsed()
    shared = Shared(load)
    batches = source.map(shared).to_iter_dataset(reading)
    options = grain.experimental.DatasetOptions(min_shm_size=SHARED_MEMORY_FROM)
    batches = grain.experimental.WithOptionsIterDataset(batches, options)
    options = grain.MultiprocessingOptions(count, loader.prefetch)
    batches = batches.mp_prefetch(options, workers.leave_signals_to_the_trainer)
    return workers.of_workers(iter(batches), shared)


class EvaluationBatch(NamedTuple):
    """``(number) -> batch``: one process's part of an evaluation, from any thread or worker."""

    split: Split
    batch_size: int
    devices: int
    process_index: int
    process_count: int

    def __call__(self, number: int) -> Batch:
        first = (int(number) * self.process_count + self.process_index) * self.devices
        index = first + np.arange(self.devices)
        index = index[:, None] * self.batch_size + np.arange(self.batch_size)
        valid = index < self.split.examples
        padding = np.zeros(0 if valid.all() else 1, index.dtype)  # the valid ones come first
        batch = self.split.fetch(np.concatenate([index[valid], padding]))
        size = self.devices, self.batch_size
        inputs = {m: _blocks(array, *size) for m, array in batch["inputs"].items()}
        others = {k: _blocks(array, *size) for k, array in batch.items()
                  if k not in ("inputs", "valid")}  # fmt: skip
        return {**others, "inputs": inputs, "valid": valid}


def evaluation_batches(
    split: Split,
    batch_size: int,
    devices: int,
    process_index: int = 0,
    process_count: int = 1,
    loader: Loader = HERE,
) -> Generator[Batch, None, None]:
    """Every example once, in order: batches ``[devices, batch_size, ...]`` for this process.

    The split is cut into consecutive blocks of ``batch_size``, one per device, whatever the number
    of devices: a rule that looks at its whole batch sees the same neighbours anywhere.  The last
    blocks are padded with example 0, loaded once, and ``valid=False``; all processes get equally
    many batches.

    Whatever ``loader`` says, the batches are the same.  Its threads load ahead.  Its workers start
    for ``EVALUATED_BY_WORKERS`` examples or more, but never for data in memory, of which a batch is
    a copy, and never in a script of a user, which may evaluate a run that a command has trained:
    workers import the main file again.  ``close()`` ends them.
    """
    load = EvaluationBatch(split, batch_size, devices, process_index, process_count)
    blocks = -(-split.examples // batch_size)
    numbers = range(-(-blocks // (devices * process_count)))
    loader = loader.resolved(split)
    few = split.examples < EVALUATED_BY_WORKERS * process_count
    if few or workers.in_memory(split) or not workers.is_our_command():
        loader = loader._replace(workers=0)
    quick = workers.is_quick(split, batch_size * devices)
    with contextlib.closing(_loaded(load, numbers, loader, quick)) as batches:
        yield from batches


def _blocks(array: np.ndarray, devices: int, batch_size: int) -> np.ndarray:
    """``[devices, batch_size, ...]`` of at most so many rows, filled up with the last one."""
    if padding := devices * batch_size - len(array):
        array = np.concatenate([array, np.repeat(array[-1:], padding, 0)])
    return array.reshape(devices, batch_size, *array.shape[1:])
