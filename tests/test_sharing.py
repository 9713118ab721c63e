"""What workers read from one memory is what they would have got as a copy."""

import concurrent.futures
import itertools
import multiprocessing
import os
import pickle
import threading
import time

import cloudpickle
import numpy as np
import pytest

from mla_jax.data import sharing
from mla_jax.data.missing import MaskedSplit
from mla_jax.data.pipeline import Loader, TrainingBatch, training_batches
from mla_jax.data.sharing import Shared
from mla_jax.datasets import ArraySplit

N, BATCH = 64, 8
THREADS = 4
needs_memory_files = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="no memfd_create here"
)


def make_split():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(N, 5000)).astype(np.float32)  # 1.3 MB
    narrow = rng.integers(0, 9, (3, N)).astype(np.uint8).T  # not in the order of C
    present = rng.random((N, 3)) < 0.8
    return ArraySplit(
        {"a": wide, "b": narrow, "c": wide[:, ::2]}, np.arange(N, dtype="i4"), present
    )


def make_load():
    split = make_split()
    return TrainingBatch(MaskedSplit(split, split.present), BATCH, 0, 0, 1)


def assert_same(batch, other):
    for key in ("present", "label", "index", "valid", "draw"):
        np.testing.assert_array_equal(other[key], batch[key])
    for name, array in batch["inputs"].items():
        assert other["inputs"][name].dtype == array.dtype
        np.testing.assert_array_equal(other["inputs"][name], array)


@needs_memory_files
def test_threads_that_start_workers_write_the_arrays_once(monkeypatch):
    """All threads are in ``__getstate__`` before the first of them has written."""
    shared, made, make = Shared(make_load()), [], os.memfd_create
    waiting = threading.Barrier(THREADS)

    def memfd_create(name):
        made.append(make(name))
        time.sleep(0.05)  # the others would come in now
        return made[-1]

    def pickled(_):
        waiting.wait()
        return cloudpickle.dumps(shared)

    monkeypatch.setattr(os, "memfd_create", memfd_create)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        assert len(set(threads.map(pickled, range(THREADS)))) == 1
    shared.close()
    assert len(made) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


@needs_memory_files
def test_where_files_in_memory_are_forbidden_each_worker_gets_a_copy(monkeypatch):
    def forbidden(name):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    load = make_load()
    assert_same(load(2), cloudpickle.loads(cloudpickle.dumps(Shared(load)))(2))


@needs_memory_files
def test_the_arrays_are_written_once_and_each_copy_is_its_own():
    load = make_load()
    shared = Shared(load)
    pickled = [cloudpickle.dumps(shared) for _ in range(2)]
    assert pickled[0] == pickled[1]
    in_one = sum(a.nbytes for a in make_split().inputs.values() if a.flags.forc)
    assert len(pickled[0]) < len(pickle.dumps(load)) - in_one
    one, other = map(cloudpickle.loads, pickled)
    shared.close()
    shared.close()  # the copies keep what they have mapped
    for number in (0, 5, 9):
        assert_same(load(number), one(number))
    mine = one._function._split.unmasked.inputs["a"]
    mine[:] = 0  # a split may write into its arrays
    assert_same(load(3), other(3))
    assert not one._function._split.unmasked.inputs["a"].any()


@pytest.mark.parametrize("why", ["small", "no such files"])
def test_what_is_not_shared_is_copied(monkeypatch, why):
    if why == "small":
        monkeypatch.setattr(sharing, "SHARED_FROM", 1 << 30)
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    load = make_load()
    shared = Shared(load)
    copy = cloudpickle.loads(cloudpickle.dumps(shared))
    shared.close()
    assert_same(load(2), copy(2))


@needs_memory_files
def test_a_large_array_is_written_in_parts(monkeypatch):
    monkeypatch.setattr(
        os, "pwrite", lambda f, a, offset, all_=os.pwrite: all_(f, a[:300_001], offset)
    )
    load = make_load()
    copy = cloudpickle.loads(cloudpickle.dumps(Shared(load)))
    assert_same(load(1), copy(1))


@needs_memory_files
def test_workers_load_the_same_from_shared_arrays(monkeypatch):
    split, files = make_split(), []
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name: files.append(create(name)) or files[-1])
    expected = list(itertools.islice(training_batches(split, BATCH, 0), 5))
    batches = training_batches(split, BATCH, 0, loader=Loader(2, 1, 1))
    for batch, other in zip(expected, batches, strict=False):
        assert_same(batch, other)
    assert len(files) == 1, "for both workers"
    batches.close()
    assert not multiprocessing.active_children()
    for file in files:
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(file)
