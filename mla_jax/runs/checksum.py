"""The checksum of a training state, by which a damaged checkpoint is noticed."""

import collections
import functools
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

AHEAD = 8
"""Arrays that are copied from the device while one is used."""


def on_host(state: Any) -> Iterator[np.ndarray]:
    """The arrays of a tree of replicated arrays, in tree order, in the memory of the host.

    They stay as they are when the state is donated.  On a CPU they are views, and the donation then
    copies; on an accelerator they are the copies that jax keeps, so that a checkpoint written
    from the same state by one process transfers it no second time.
    """
    coming: collections.deque[jax.Array] = collections.deque()
    for leaf in (*jax.tree.leaves(state), *[None] * AHEAD):
        if leaf is not None:
            # Not addressable_data(0): orbax asks the shards, and each object keeps its own copy.
            coming.append(leaf.addressable_shards[0].data)
            coming[-1].copy_to_host_async()  # else each array waits for the one before it
        if coming and (leaf is None or len(coming) > AHEAD):
            yield np.asarray(coming.popleft())


def crc(arrays: Iterable[np.ndarray]) -> int:
    """The CRC-32 over the bytes of the arrays, one after the other."""
    return functools.reduce(lambda sum, x: zlib.crc32(np.ascontiguousarray(x).data, sum), arrays, 0)


def checksum(state: Any) -> int:
    """The CRC-32 over the bytes of every array of a state, in tree order."""
    return crc(on_host(state))
