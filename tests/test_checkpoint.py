"""Checkpoints by themselves: what is left to the background, and how it lies on the disk."""

import json
import pathlib
import threading
import time
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from mla_jax.distributed import data_parallel
from mla_jax.runs import checkpoint
from mla_jax.runs.checkpoint import Checkpoints
from mla_jax.runs.checksum import AHEAD, on_host


def state_of(value: float) -> dict[str, jax.Array]:
    names = [f"w{number:02}" for number in range(2 * AHEAD)]
    return {name: jnp.full((3, 5), value + number) for number, name in enumerate(names)}


@pytest.fixture
def held(monkeypatch):
    """The background of saves waits until this is set."""
    gate, text = threading.Event(), checkpoint._text
    monkeypatch.setattr(checkpoint, "_text", lambda *args: gate.wait(60) and text(*args))
    yield gate
    gate.set()


def test_the_background_saves_what_was_there(tmp_path, held):
    """Not what is in the arrays, or in the progress, by the time the checksum is computed."""
    checkpoints, progress = Checkpoints(tmp_path), {"batches": 7, "sums": {"loss": 0.1}}
    state = state_of(1.0)
    checkpoints.save(7, state, progress)
    progress["sums"]["loss"] = 9.0
    change = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    state = jax.block_until_ready(change(state))
    assert not (tmp_path / "7").exists()  # so a process that is killed now has no checkpoint 7
    held.set()
    checkpoints.close()

    checkpoints = Checkpoints(tmp_path)
    restored, found = checkpoints.restore(state)
    checkpoints.close()
    assert found == {"batches": 7, "sums": {"loss": 0.1}}
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(1.0))


def test_one_process_writes_whole_arrays_from_many_devices(tmp_path, monkeypatch):
    """A part from each device would take a compiled program per shape."""
    sliced = AssertionError("a part of an array was cut out")
    monkeypatch.setattr(jax.lax, "slice_in_dim", mock.Mock(side_effect=sliced))
    everywhere = data_parallel(8).replicated
    state = jax.device_put({"w": np.arange(2.0**18), "scalar": np.float32(1)}, everywhere)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {"batches": 3})
    restored, _ = checkpoints.restore(state)
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert restored["w"].sharding == everywhere


def test_a_checksum_that_fails_leaves_no_checkpoint(tmp_path, monkeypatch):
    checkpoints, state = Checkpoints(tmp_path), state_of(1.0)
    checkpoints.save(1, state, {"batches": 1})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)

    def fail(arrays):
        raise MemoryError("no memory for the checksum")

    monkeypatch.setattr(checkpoint, "crc", fail)
    checkpoints.save(2, state, {"batches": 2})
    with pytest.raises(MemoryError, match="no memory for the checksum"):
        checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.steps == [1] and again.restore(state)[1] == {"batches": 1}
    again.close()


def test_the_layout_on_the_disk(tmp_path):
    """Earlier versions of mla_jax read and write it with orbax's own handlers."""
    state = state_of(2.0)
    crc = 0
    for leaf in jax.tree.leaves(state):
        crc = zlib.crc32(np.asarray(leaf).tobytes(), crc)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {"batches": 3})
    checkpoints.close()
    found = ocp.load_checkpointables(tmp_path / "3", {"progress": None})["progress"]["json"]
    assert json.loads(np.asarray(found).tobytes()) == {"batches": 3, "checksum": crc}

    text = np.frombuffer(json.dumps({"batches": 4, "checksum": crc}).encode(), np.uint8)
    with ocp.training.Checkpointer(tmp_path) as before:
        before.save_checkpointables(4, {"state": state, "progress": {"json": text}})
    assert checkpoint.read_progress(tmp_path, 4) == {"batches": 4}
    checkpoints = Checkpoints(tmp_path)
    restored, found = checkpoints.restore(state)
    checkpoints.close()
    assert found == {"batches": 4}
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_saves_leave_no_threads_and_open_files_behind(tmp_path):
    """A run of many epochs would reach the 1,024 open files that most systems allow."""

    def used(saves):
        checkpoints = Checkpoints(tmp_path / str(saves))
        for step in range(saves):
            checkpoints.save(step, state_of(1.0), {"batches": step})
        checkpoints.close()
        files = pathlib.Path("/proc/self/fd")  # on Linux
        return threading.active_count(), len(list(files.iterdir())) if files.exists() else 0

    used(1)  # what later saves use too
    assert used(5) == used(2)


@pytest.mark.parametrize("bucket", [True, False])
def test_a_save_that_timed_out_is_not_one_that_takes_long(bucket, tmp_path, monkeypatch):
    checkpoints, asked = Checkpoints(tmp_path), []

    class Saving:
        def result(self, patience):
            if patience and not asked:
                time.sleep(patience)
            raise TimeoutError("the save's own")

    monkeypatch.setattr(checkpoint, "ASK_AFTER", 0.1)
    monkeypatch.setattr(checkpoint.storage, "in_bucket", lambda path: bucket)
    monkeypatch.setattr(checkpoint.storage, "require_answer", asked.append)
    checkpoints._saving = Saving()
    with pytest.raises(TimeoutError, match="the save's own"):
        checkpoints.close()
    assert len(asked) == bucket


def test_arrays_on_the_host_are_in_tree_order():
    state = state_of(5.0)
    for mine, leaf in zip(on_host(state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(mine, leaf)
