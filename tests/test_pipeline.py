"""The order of examples is a function of seed and epoch alone; nothing is lost or doubled."""

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import types

import numpy as np
import pytest

from mla_jax.data import cores, pipeline, workers
from mla_jax.data.corruptions import CorruptedSplit
from mla_jax.data.missing import MaskedSplit
from mla_jax.data.pipeline import (
    HERE,
    Loader,
    TrainingBatch,
    batches_per_epoch,
    draws,
    evaluation_batches,
    training_batches,
)
from mla_jax.datasets import ArraySplit
from mla_jax.errors import UserError

N, BATCH = 50, 8
PER_EPOCH = N // BATCH


def make_split(examples):
    number = np.arange(examples)
    inputs = {"a": number.astype(np.float32)[:, None], "b": -number.astype(np.float32)[:, None]}
    present = np.stack([number % 2 == 0, number % 3 == 0], axis=1)
    return ArraySplit(inputs, (number % 5).astype(np.int32), present)


def take(count, seed=0, split=None, **options):
    batches = training_batches(split or make_split(N), BATCH, seed, **options)
    return list(itertools.islice(batches, count))


def indices(batches):
    return np.array([batch["index"] for batch in batches])


def check_rows(batch, shape):
    """Every entry of a batch belongs to the example its index names."""
    index = batch["index"]
    assert index.shape == shape
    assert index.dtype == batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], index % 5)
    np.testing.assert_array_equal(batch["inputs"]["a"][..., 0], index)
    np.testing.assert_array_equal(batch["inputs"]["b"][..., 0], -index)
    np.testing.assert_array_equal(batch["present"][..., 0], index % 2 == 0)
    np.testing.assert_array_equal(batch["present"][..., 1], index % 3 == 0)


def test_a_training_batch_holds_what_its_index_says():
    for batch in take(3):
        check_rows(batch, (BATCH,))
        assert batch["valid"].all()


@pytest.mark.parametrize("start", [1, PER_EPOCH - 1, PER_EPOCH, PER_EPOCH + 2, 5 * PER_EPOCH + 3])
def test_resuming_by_number_equals_skipping(start):
    straight = indices(take(6 * PER_EPOCH + 4))
    resumed = indices(take(6 * PER_EPOCH + 4 - start, start=start))
    np.testing.assert_array_equal(resumed, straight[start:])


@pytest.mark.parametrize("start", [0, 3, PER_EPOCH + 1])
@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_the_processes_join_to_the_global_batch(processes, start):
    alone = indices(take(3 * PER_EPOCH, start=start))
    for process in range(processes):
        share = take(3 * PER_EPOCH, start=start, process_index=process, process_count=processes)
        check_rows(share[0], (BATCH // processes,))
        block = slice(process * len(share[0]["index"]), (process + 1) * len(share[0]["index"]))
        np.testing.assert_array_equal(indices(share), alone[:, block])


@pytest.mark.parametrize("processes", [2, 4])
def test_draws_are_those_of_the_example_on_any_number_of_processes(processes):
    alone = take(2 * PER_EPOCH)
    shares = [
        take(2 * PER_EPOCH, process_index=p, process_count=processes) for p in range(processes)
    ]
    for whole, *parts in zip(alone, *shares, strict=True):
        joined = {k: np.concatenate([part[k] for part in parts]) for k in ("index", "draw")}
        assert whole["draw"].dtype == np.uint32
        for key, value in joined.items():
            np.testing.assert_array_equal(value, whole[key])


def test_draws_of_a_resumed_run_are_those_of_the_straight_one():
    straight, resumed = take(3 * PER_EPOCH), take(PER_EPOCH, start=2 * PER_EPOCH)
    for a, b in zip(straight[2 * PER_EPOCH :], resumed, strict=True):
        np.testing.assert_array_equal(a["draw"], b["draw"])


def test_an_example_is_augmented_anew_in_every_epoch():
    batches = take(3 * PER_EPOCH, seed=3)
    drawn = [{}, {}, {}]
    for number, batch in enumerate(batches):
        epoch = number // PER_EPOCH
        np.testing.assert_array_equal(batch["draw"], draws(3, epoch, batch["index"]))
        drawn[epoch] |= zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)
    for one, other in itertools.combinations(drawn, 2):
        both = one.keys() & other.keys()
        assert len(both) > N // 2 and all(one[i] != other[i] for i in both)


def test_draws_depend_on_seed_epoch_and_example_and_on_nothing_else():
    number = np.arange(20000)
    drawn = draws(0, 0, number)
    np.testing.assert_array_equal(draws(0, 0, number[::-1])[::-1], drawn)
    np.testing.assert_array_equal(draws(0, 0, number[7:8]), drawn[7:8])
    for other in (draws(1, 0, number), draws(0, 1, number), draws(0, 0, number + 20000)):
        assert (other != drawn).mean() > 0.999
    assert (draws(0, 1, number) != draws(1, 0, number)).mean() > 0.999
    assert len(np.unique(drawn)) > 0.999 * len(number)
    bits = np.unpackbits(drawn.view(np.uint8)).reshape(len(drawn), 32)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02
    counts = np.bincount(drawn >> 28, minlength=16)
    assert np.abs(counts - len(number) / 16).max() < 5 * np.sqrt(len(number) / 16)


def test_draws_are_those_of_every_version():
    """Written by the first version: with others, a resumed run would be augmented otherwise."""
    found = draws(7, 3, np.array([0, 1, 1234567]))
    assert found.tolist() == [4001402184, 3211512775, 3958287338]
    assert draws(2**31 - 1, 10**6, np.arange(2, 4)).tolist() == [843890435, 3843100597]


@pytest.mark.parametrize(
    ("loader", "quick"), [(HERE, 1 << 20), (HERE, 0), (Loader(0, 3, 2), 0), (Loader(2, 1, 1), 0)]
)
def test_the_batches_are_the_same_whoever_loads_them(monkeypatch, loader, quick):
    monkeypatch.setattr(workers, "QUICK", quick)
    expected = take(PER_EPOCH + 2, start=4)
    batches = training_batches(make_split(N), BATCH, 0, 4, 0, 1, loader)
    for batch, loaded in zip(expected, batches, strict=False):
        check_rows(loaded, (BATCH,))
        for key in ("index", "draw", "valid"):
            np.testing.assert_array_equal(loaded[key], batch[key])
    batches.close()


def test_workers_outlive_signals_from_their_first_moment():
    batches = training_batches(make_split(N), BATCH, 0, loader=Loader(2, 1, 1))
    signalled = set()

    def signal_all():
        while len(signalled) < 2:
            for worker in set(multiprocessing.active_children()) - signalled:
                os.kill(worker.pid, signal.SIGTERM)  # long before it has imported anything
                signalled.add(worker)

    thread = threading.Thread(target=signal_all, daemon=True)
    thread.start()
    loaded = list(itertools.islice(batches, 3))
    thread.join()
    for worker in signalled:
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
    loaded += list(itertools.islice(batches, 6))
    np.testing.assert_array_equal(indices(loaded), indices(take(9)))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batches.close()
    assert not any(worker.is_alive() for worker in signalled)


class OnDisk:
    """A split that is no ``ArraySplit``: pickled whole, read by number."""

    def __init__(self, split):
        self.split, self.label, self.present = split, split.label, split.present
        self.examples, self.shapes = split.examples, split.shapes

    def fetch(self, index):
        return self.split.fetch(index)


def test_auto_starts_workers_for_data_on_disk_in_commands_of_ours_alone(monkeypatch):
    memory = make_split(N)
    disk = OnDisk(memory)
    masked = [MaskedSplit(split, split.present) for split in (memory, disk)]
    assert [workers.in_memory(s) for s in (memory, disk, *masked)] == [True, False, True, False]

    def found(split, count):
        monkeypatch.setattr(cores, "usable_cores", lambda: count)
        return Loader("auto").resolved(split).workers

    assert found(disk, 8) == 0, "pytest is no command of ours: it may not be safe to import again"
    for name, expected in (("mla_jax.main", 7), ("mla_jax.compare.__main__", 7), ("mine", 0)):
        spec = types.SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
        assert found(disk, 8) == found(masked[1], 8) == expected
        assert found(memory, 8) == found(masked[0], 8) == 0
    spec.name = "mla_jax.main"
    assert [found(disk, cores) for cores in (1, 3, 4, 17, 200)] == [0, 0, 3, 16, 16]
    assert Loader(3).resolved(memory).workers == 3, "a number is a number"


def test_small_batches_in_memory_are_loaded_when_they_are_taken():
    memory = make_split(N)
    masked = MaskedSplit(memory, memory.present)
    assert workers.is_quick(memory, 1 << 17) and workers.is_quick(masked, 1 << 17)  # 8 bytes each
    assert not workers.is_quick(memory, (1 << 17) + 1) and not workers.is_quick(OnDisk(memory), 1)
    before = set(threading.enumerate())
    batches = training_batches(memory, BATCH, 0)
    next(batches)
    assert set(threading.enumerate()) == before
    spoilt = CorruptedSplit(masked, "a", 0, lambda x, rng: x, (0,))  # one example at a time
    assert not workers.in_memory(spoilt) and not workers.is_quick(spoilt, 1)
    assert len(list(evaluation_batches(spoilt, BATCH, 1))) == -(-N // BATCH)
    batches.close()
    assert next(batches, None) is None


def test_every_example_at_most_once_an_epoch_and_all_in_the_long_run():
    epochs = indices(take(20 * PER_EPOCH)).reshape(20, -1)
    for epoch in epochs:
        assert len(set(epoch)) == PER_EPOCH * BATCH
    assert set(epochs.ravel()) == set(range(N)), "the ones left over must change"
    assert len({tuple(epoch) for epoch in epochs}) == 20, "each epoch has its own order"
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 10


def test_the_seed_alone_decides():
    np.testing.assert_array_equal(indices(take(9, seed=3)), indices(take(9, seed=3)))
    assert not np.array_equal(indices(take(9, seed=3)), indices(take(9, seed=4)))
    assert not np.array_equal(indices(take(1)).ravel(), np.arange(BATCH))


def test_a_split_of_exactly_one_batch():
    batches = indices(take(3, split=make_split(BATCH)))
    np.testing.assert_array_equal(np.sort(batches), [np.arange(BATCH)] * 3)


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_partial_batch_is_padded(count):
    """Every example once an epoch, the same global batches for any number of processes."""
    split = make_split(N)._replace(present=np.ones((N, 1), bool))
    per_epoch = batches_per_epoch(N, BATCH, drop_last=False)
    assert per_epoch * BATCH > N
    loads = [TrainingBatch(split, BATCH, 0, i, count, drop_last=False) for i in range(count)]
    for epoch in range(2):
        numbers = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        batches = [
            {k: np.concatenate([load(number)[k] for load in loads]) for k in ("index", "valid")}
            | {"present": np.concatenate([load(number)["present"] for load in loads])}
            for number in numbers
        ]
        seen = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
        np.testing.assert_array_equal(np.sort(seen), np.arange(N))
        assert all(batch["valid"].all() for batch in batches[:-1])
        last = batches[-1]
        np.testing.assert_array_equal(last["valid"], np.arange(BATCH) < N % BATCH)
        np.testing.assert_array_equal(last["present"], last["valid"][:, None])
        assert set(last["index"][~last["valid"]]) == {batches[0]["index"][0]}


def test_batches_per_epoch():
    assert batches_per_epoch(N, BATCH) == 6
    assert batches_per_epoch(48, BATCH) == 6
    assert batches_per_epoch(47, BATCH) == 5
    assert batches_per_epoch(47, BATCH, drop_last=False) == 6
    assert batches_per_epoch(3, BATCH, drop_last=False) == 1


def test_errors():
    with pytest.raises(UserError, match="7 examples, fewer than batch_size=8"):
        take(1, split=make_split(7))
    with pytest.raises(UserError, match="batch_size=8 does not divide among 3 processes"):
        take(1, process_count=3)


@pytest.mark.parametrize("examples", [1, 7, 8, 9, 50, 64])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (3, 1), (2, 2), (1, 4)])
def test_evaluation_visits_each_example_once(examples, batch_size, devices, processes):
    split = make_split(examples)
    shares = [
        list(evaluation_batches(split, batch_size, devices, process, processes))
        for process in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1, "all processes take equally many steps"
    blocks = []
    for step in zip(*shares, strict=True):
        for batch in step:
            check_rows(batch, (devices, batch_size))
            np.testing.assert_array_equal(batch["index"][~batch["valid"]], 0)
            blocks += [i[v].tolist() for i, v in zip(batch["index"], batch["valid"], strict=True)]
    # Read process after process within a step, the blocks are consecutive whatever the devices.
    expected = [
        list(range(first, min(first + batch_size, examples)))
        for first in range(0, examples, batch_size)
    ]
    assert blocks == expected + [[]] * (len(blocks) - len(expected))
    assert len(blocks) - len(expected) < devices * processes, "no step of padding alone"


@pytest.mark.parametrize("loader", [Loader(0, 1, 1), Loader(0, 3, 2), Loader(2, 1, 1)])
def test_evaluation_batches_are_the_same_whoever_loads_them(monkeypatch, loader):
    monkeypatch.setattr(pipeline, "EVALUATED_BY_WORKERS", N)
    monkeypatch.setattr(workers, "is_our_command", lambda: True)
    expected = list(evaluation_batches(make_split(N), 4, 2))
    loaded = list(evaluation_batches(OnDisk(make_split(N)), 4, 2, loader=loader))
    assert len(loaded) == len(expected) == -(-N // 8)
    for batch, other in zip(expected, loaded, strict=True):
        check_rows(other, (2, 4))
        for key in ("index", "valid", "label", "present"):
            np.testing.assert_array_equal(other[key], batch[key])
            assert other[key].dtype == batch[key].dtype
    assert not multiprocessing.active_children()


class Damaged(OnDisk):
    """A split with one example that cannot be read; it says which threads have read."""

    def __init__(self, split, damaged=-1):
        super().__init__(split)
        self.damaged, self.threads = damaged, set()

    def fetch(self, index):
        self.threads.add(threading.current_thread())
        if self.damaged in index:
            raise UserError(f"example {self.damaged} is damaged")
        return super().fetch(index)

    def __getstate__(self):
        return {**self.__dict__, "threads": set()}


def test_evaluation_loads_ahead_of_the_device():
    """While the first batch is used, the next ones are read by another thread."""
    read = threading.Semaphore(0)

    class Counted(Damaged):
        def fetch(self, index):
            read.release()
            return super().fetch(index)

    split = Counted(make_split(N))
    batches = evaluation_batches(split, 4, 1, loader=Loader(3, 1, 2))  # too few for workers
    next(batches)
    for _ in range(3):  # the one that is used, and two that wait
        assert read.acquire(timeout=10)
    batches.close()
    (thread,) = split.threads - {threading.current_thread()}
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("count", [0, 2])
def test_an_evaluation_that_fails_ends_its_threads_and_workers(monkeypatch, count):
    monkeypatch.setattr(pipeline, "EVALUATED_BY_WORKERS", N)
    monkeypatch.setattr(workers, "is_our_command", lambda: True)
    split, started = Damaged(make_split(N), damaged=21), []
    with pytest.raises(UserError, match="example 21 is damaged"):
        for _ in evaluation_batches(split, 4, 1, loader=Loader(count, 1, 1)):
            started += multiprocessing.active_children()
    assert len(set(started)) == count and not multiprocessing.active_children()
    monkeypatch.setattr(workers, "is_our_command", lambda: False)
    with pytest.raises(UserError, match="example 21 is damaged"):
        for _ in evaluation_batches(split, 4, 1, loader=Loader(count, 1, 1)):
            assert not multiprocessing.active_children(), "a script of a user has none"
    for thread in split.threads - {threading.current_thread()}:
        thread.join(10)
        assert not thread.is_alive()
