"""Worker processes that load batches: how many, and how they start and end."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from typing import Any

from mla_jax.data.dataset import ArraySplit, Split
from mla_jax.data.missing import MaskedSplit
from mla_jax.data.sharing import Shared
from mla_jax.state import Batch

AUTO = "auto"
"""``config.loader.workers``: as many as ``automatic`` says."""
FEW_CORES = 4
"""On fewer cores than so many, a worker takes from the trainer what it gives."""
MOST_WORKERS = 16
"""``automatic`` starts no more: each takes memory."""

QUICK = 1 << 20
"""Bytes of a batch that are copied from memory in about 0.1 ms."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def automatic(split: Split, cores: int) -> int:
    """One worker per core of this process but one, and at most ``MOST_WORKERS``.

    None for a split in memory, on fewer than ``FEW_CORES`` cores, and in a program that is no
    command of this package: a worker imports its parent's main file, and a script may not be
    written for that (``if __name__ == "__main__":``).
    """
    if in_memory(split) or cores < FEW_CORES or not is_our_command():
        return 0
    return min(cores - 1, MOST_WORKERS)


def in_memory(split: Split) -> bool:
    """Whether the examples of a split, masked or not, are held in memory."""
    return isinstance(_unmasked(split), ArraySplit)


def is_quick(split: Split, examples: int) -> bool:
    """Whether so many examples are loaded sooner than a thread hands them over."""
    held = _unmasked(split)
    if not isinstance(held, ArraySplit):  # on disk, or changed example by example when loaded
        return False
    sizes = [array.nbytes / max(len(array), 1) for array in held.inputs.values()]
    return sum(sizes) * examples <= QUICK


def _unmasked(split: Any) -> Any:
    """The split below masks.  Of masks only: what else wraps a split may take time to load."""
    while isinstance(split, MaskedSplit):
        split = split.unmasked
    return split


def is_our_command() -> bool:
    """Whether the program is ``python -m mla_jax.COMMAND``."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] == "mla_jax"


def leave_signals_to_the_trainer(worker: int, workers: int) -> None:
    """Lets a worker outlive the signals sent to all processes of a run, and not its trainer.

    A terminal sends Ctrl-C to the process group, a cluster SIGTERM: the trainer needs its workers
    for the batch that it ends with.  It then ends them itself (``close()``).
    """
    del worker, workers
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None  # this is a worker
    trainer.join()
    os._exit(1)  # nobody is left to end it, or to take its batches


def _start_resource_tracker() -> None:
    """Starts Python's process that removes the shared memory left behind, so that it does not say
    so: a worker is always ended while it has a batch there."""
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes and threads that begin in here never see the stop signals; this thread waits."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    _start_resource_tracker()  # which would unblock them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def of_workers(batches: Any, shared: Shared) -> Generator[Batch, None, None]:
    """The same batches; the workers start with the first one, deaf to signals from then on.

    ``shared`` is what the workers read from, and is closed with them.
    """
    try:
        with _signals_blocked():  # a worker takes seconds to come to ``leave_signals_...``
            first = next(batches)
        yield first
        yield from batches
    finally:
        batches.close()
        shared.close()
