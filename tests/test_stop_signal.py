"""What a run says of a signal, and how soon it looks at one."""

import concurrent.futures
import contextlib
import ctypes
import os
import select
import signal
import threading

import jax

from mla_jax import distributed, train
from mla_jax.config import files
from mla_jax.runs.metrics import RunningMeans
from tests.conftest import TINY, digits_program

LIBC = ctypes.CDLL(None)


@contextlib.contextmanager
def terminal():
    """``line()``: the next line on descriptor 2, or "" after a while."""
    reading, writing = os.pipe()
    kept = os.dup(2)
    os.dup2(writing, 2)

    coming = select.poll()  # select.select knows the first 1,024 descriptors of a process only
    coming.register(reading, select.POLLIN)

    def line():
        return os.read(reading, 4096).decode() if coming.poll(10_000) else ""

    try:
        yield line
    finally:
        os.dup2(kept, 2)
        for descriptor in (reading, writing, kept):
            os.close(descriptor)


def while_blocked(work):
    """Runs ``work()`` in a thread while this one waits in C, where no Python handler is called."""
    mutex = ctypes.create_string_buffer(64)

    def work_and_release():
        try:
            work()
        finally:
            LIBC.pthread_mutex_unlock(mutex)

    LIBC.pthread_mutex_lock(mutex)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        done = thread.submit(work_and_release)
        LIBC.pthread_mutex_lock(mutex)
        done.result()


def test_every_signal_is_answered_at_once(monkeypatch):
    said, ended = [], threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())

    def send(number):
        os.kill(os.getpid(), number)
        said.append(line())

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with terminal() as line, distributed.StopSignal() as stopping:
        assert not stopping(1)
        while_blocked(lambda: (send(signal.SIGTERM), send(signal.SIGINT)))
        assert stopping(2) and stopping.received in (signal.SIGTERM, signal.SIGINT)
        send(signal.SIGINT)
        assert not ended.is_set()
        send(signal.SIGINT)
        assert ended.wait(10)
    assert [line.strip() for line in said] == [
        "SIGTERM: stopping after the current batch, with a checkpoint",
        "SIGINT: already stopping; the checkpoint is saved after the current batch",
        "SIGINT: already saving the checkpoint (a third Ctrl-C ends the run without it)",
        "SIGINT: already saving the checkpoint",
    ]
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


def test_few_batches_are_in_flight(tmp_path, monkeypatch):
    """All but the newest two are waited for, after each batch and before signals are looked at."""
    waited, asked = [], []
    monkeypatch.setattr(
        jax, "block_until_ready", lambda x, wait=jax.block_until_ready: waited.append(id(x))
    )

    class Means(RunningMeans):
        def wait(self, batches):
            pending = list(self._pending)
            waited.clear()
            super().wait(batches)
            oldest = pending[-1].step - 2
            expected = [id(p.metrics["loss"]) for p in pending if p.step == oldest][-1:]
            assert waited == expected
            asked.append(pending[-1].step)

    monkeypatch.setattr(train, "RunningMeans", Means)
    config = files.load_config(TINY, {}, {"method": "mla", "modalities": "audio+text"})
    config.epochs = 3
    train.train(
        config, tmp_path / "run", digits_program("mla")[0], jax.devices()[:1], lambda line: None
    )
    assert asked == list(range(1, 3 * 26 + 1))
