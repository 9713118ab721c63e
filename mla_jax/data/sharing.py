"""A function with large arrays, which all worker processes read from one memory."""

import mmap
import os
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle

from mla_jax.state import Batch

SHARED_FROM = 1 << 20
"""Bytes of arrays from which they are shared; fewer are copied into every worker."""
ALIGNMENT = 64


class Shared:
    """``function``, to be pickled for several workers: its arrays are written down once.

    They are in an anonymous file in memory that workers map.  It has no name, so it is gone with
    the last process that has it open, however that ends; and, unlike ``/dev/shm``, which containers
    limit to 64 MB, it may be as large as the memory.  Pages that a worker writes to become its own.
    Where the system has no such files (all but Linux) or forbids them, every worker gets a copy.
    """

    def __init__(self, function: Callable[[int], Batch]):
        self._function, self._file = function, -1
        self._state: dict[str, Any] = {}
        self._lock = threading.Lock()  # grain starts every worker from a thread of its own

    def __call__(self, number: int) -> Batch:
        return self._function(number)

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            if not self._state:
                self._state = self._written()
            return self._state

    def _written(self) -> dict[str, Any]:
        buffers: list[Any] = []
        pickled = cloudpickle.dumps(self._function, 5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        spans, end = [], 0
        for array in arrays:
            first = -(-end // ALIGNMENT) * ALIGNMENT
            end = first + array.nbytes
            spans.append((first, end))
        if end < SHARED_FROM or not hasattr(os, "memfd_create"):
            return {"pickled": cloudpickle.dumps(self._function)}
        try:
            self._file = os.memfd_create("mla_jax")
            os.truncate(self._file, end)
            for array, (first, _) in zip(arrays, spans, strict=True):
                _write(self._file, array, first)
            path = f"/proc/{os.getpid()}/fd/{self._file}"
            os.close(os.open(path, os.O_RDONLY))
        except OSError:  # a sandbox that forbids one of these, or no memory for a second copy
            self._forget()
            return {"pickled": cloudpickle.dumps(self._function)}
        return {"pickled": pickled, "path": path, "spans": spans}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._file, self._state, self._lock = -1, {}, threading.Lock()
        if "path" not in state:
            self._function = cloudpickle.loads(state["pickled"])
            return
        file = os.open(state["path"], os.O_RDONLY)
        try:
            private = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
            memory = memoryview(mmap.mmap(file, 0, **private))
        finally:
            os.close(file)
        buffers = [memory[first:end] for first, end in state["spans"]]
        self._function = cloudpickle.loads(state["pickled"], buffers=buffers)

    def close(self) -> None:
        """Lets go of the arrays; workers that have them keep them until they end."""
        with self._lock:
            self._forget()
            self._state = {}

    def _forget(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _write(file: int, array: memoryview, offset: int) -> None:
    """All of it: one call writes 2 GiB at most."""
    while array:
        written = os.pwrite(file, array, offset)
        array, offset = array[written:], offset + written
