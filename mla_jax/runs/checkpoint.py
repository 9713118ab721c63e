"""Checkpoints: the training state and the run's progress, saved together; only this file knows
orbax.

A checkpoint holds the state (orbax, asynchronous), the progress as JSON (what the loop needs to
go on as if nothing had happened, and which run it belongs to) and a checksum of the state: a
damaged one is noticed, down to a flipped bit in an array, and the one before it is used.  A file
that cannot be read at the moment is not damage: it is read again, and then the run stops.

Every process reads for itself, without orbax's barriers, and then all of them agree on a verdict:
an error on one process leaves no other one waiting.
"""

import asyncio
import contextlib
import functools
import gc
import json
import logging
import pathlib
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mla_jax import distributed, storage
from mla_jax.errors import NoSpaceError, UserError
from mla_jax.runs.checksum import checksum, crc, on_host
from mla_jax.runs.verdict import DAMAGED, OTHER, SOUND, ChecksumError, verdict_of
from mla_jax.state import TrainState

PROGRESS = {"progress": None}

# Orbax logs the errors of its threads there, with tracebacks; save() and close() raise them too.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)

ASK_AFTER = 10.0
"""Seconds of waiting for a save in a bucket after which the bucket is asked for a sign of life."""

WORTH_A_PART = 64 * 1024
"""Bytes of an array for each host; where there are fewer, one of the hosts writes it all."""

PAUSES = (1.0, 3.0)
"""Seconds before a checkpoint that could not be read is read again."""


class DamagedError(Exception):
    """A checkpoint is damaged, as all processes agree; the message is the reason."""


class Checkpoints:
    """The checkpoints under one directory: the newest ``keep`` of them, and the pinned one."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self._directory = storage.absolute(directory)
        self._retention = _Retention(keep)
        self._saving: Any = None
        with _quiet():
            self._checkpointer = ocp.training.Checkpointer(
                self._directory,
                context=_context(),
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=self._retention,
                cleanup_tmp_directories=True,
            )

    def save(self, step: int, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves in the background; the arrays may be donated as soon as this returns.

        Raises:
          NoSpaceError: there is no room; the checkpoints before it are kept.
        """
        self._wait()
        if storage.free_space(self._directory) < (needed := size(state)):
            raise NoSpaceError(self._directory, needed)
        # Process 0 alone writes the progress, and all that takes time is left to the background.
        arrays = list(on_host(state)) if distributed.is_main() else None
        text = functools.partial(_text, json.dumps(progress), arrays)
        with _quiet():
            self._saving = self._checkpointer.save_checkpointables_async(
                step, {"state": state, "progress": text}
            )

    def pin(self, step: int) -> None:
        """Keeps the checkpoint of ``step`` from now on, in place of the one pinned before."""
        self._retention.pinned = step

    @property
    def steps(self) -> list[int]:
        """The saved steps, newest first."""
        with _quiet():
            return sorted((c.step for c in self._checkpointer.checkpoints), reverse=True)

    def restore(self, like: TrainState, damaged: Any = print) -> tuple[TrainState, dict] | None:
        """The newest sound checkpoint, laid out like ``like``; None if there is none at all.

        Damaged ones are moved aside, to ``damaged-<step>`` beside the directory, and reported by
        one call of ``damaged(line)`` each.

        Raises:
          UserError: there are checkpoints, and all of them are damaged, or the newest one that may
            be sound cannot be read.  Then nothing is moved.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        distributed.check_agreement(
            zlib.crc32(str(self.steps).encode()) >> 1,
            f"the processes see different checkpoints in {self._directory}: it must lie on a file "
            "system that all of them share",
        )
        unsound = {}
        for step in self.steps:
            try:
                loaded = _read(self._directory / str(step), {"state": abstract, **PROGRESS})
            except DamagedError as error:
                unsound[step] = str(error)
                continue
            for bad, reason in unsound.items():
                damaged(f"checkpoint {bad} is damaged ({reason}); moved to {self._set_aside(bad)}")
            return loaded["state"], loaded["progress"]
        if unsound:
            raise UserError(
                f"all checkpoints of {self._directory} are damaged: start in another --workdir"
            )
        return None

    def _set_aside(self, step: int) -> pathlib.Path:
        source = self._directory / str(step)
        aside = self._directory.with_name(f"damaged-{step}")
        while aside.exists():
            aside = aside.with_name(aside.name + "-again")
        distributed.barrier(f"set aside {step}")  # all have the same name by now
        problem = ""
        if distributed.is_main():
            try:
                source.rename(aside)
            except OSError as error:
                problem = f" ({error.strerror})"
        if any(distributed.of_all(bool(problem))):
            raise UserError(f"{source} is damaged and cannot be moved{problem}: move it yourself")
        with _quiet():
            self._checkpointer.reload()
        return aside

    def _wait(self) -> None:
        """Waits for the save in flight; if it is to a bucket, for as long as the bucket answers.

        TensorStore alone would try for a quarter of an hour before it says that it is gone.  And
        orbax ends the thread of a save only when it is asked for the result.
        """
        saving, self._saving = self._saving, None
        patience = ASK_AFTER if storage.in_bucket(self._directory) else None
        while saving:
            since = time.monotonic()
            try:
                saving.result(patience)
                return
            except TimeoutError:
                if patience is None or time.monotonic() - since < patience:
                    raise  # the save's own error
                storage.require_answer(self._directory)

    def close(self) -> None:
        """Waits for the save in flight; not if its bucket was lost."""
        if storage.is_lost(self._directory):
            return
        self._wait()
        with _quiet():
            self._checkpointer.close()


def read_progress(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """The progress that was saved with checkpoint ``step``; touches nothing.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it cannot be read.
    """
    return _read_only(directory, step, PROGRESS)["progress"]


def read_state(directory: pathlib.Path, step: int, abstract: Any) -> TrainState:
    """The state of checkpoint ``step``; touches nothing, so that a run in progress may go on.

    ``abstract``: a ``TrainState`` of ``jax.ShapeDtypeStruct`` with shardings.

    Raises:
      UserError: there is no such checkpoint, it is damaged, of another structure, or unreadable.
    """
    return _read_only(directory, step, {"state": abstract, **PROGRESS})["state"]


def _read_only(directory: pathlib.Path, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
    path = storage.absolute(directory) / str(step)
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}: train the run again")
    try:
        return _read(path, wanted)
    except DamagedError as error:
        raise UserError(
            f"checkpoint {step} of {directory} cannot be used, it is damaged ({error}): train the "
            "run again in another --workdir"
        ) from error


def _read(path: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What was saved under ``path``, checked; the same outcome on all processes.

    Raises:
      DamagedError: all processes find it damaged.
      UserError: it is of another structure, or it cannot be read, also not a little later.
    """
    for pause in (*PAUSES, None):
        loaded, verdict, reason = None, SOUND, "another process cannot read it"
        try:
            loaded = _load(path, wanted)
        except Exception as error:  # of many kinds, with pages of text
            verdict, reason = verdict_of(error, path)
            with _quiet():
                gc.collect()  # orbax leaves coroutines behind that complain when collected
        verdicts = distributed.of_all(verdict)
        if verdicts == {SOUND}:
            assert loaded is not None  # the verdict here is SOUND too
            return loaded
        if verdicts == {DAMAGED}:
            raise DamagedError(reason)
        if verdicts == {OTHER}:
            raise UserError(
                f"checkpoint {path} cannot be read: its arrays are those of another run, or of "
                "another version of mla_jax"
            )
        loaded = None
        if pause is not None:
            time.sleep(pause)
    raise UserError(
        f"checkpoint {path} cannot be read at the moment ({reason}): repeat the command, or delete "
        "that folder to go on without it"
    )


def _load(path: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What was saved under ``path``, checked; read by this process alone."""
    _ignore_abandoned_reads()
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})
    with _quiet(), _context(multiprocessing_options=alone):
        loaded = ocp.load_checkpointables(path, wanted)
    progress = json.loads(np.asarray(loaded["progress"]["json"]).tobytes())
    expected = progress.pop("checksum")
    if "state" in loaded and checksum(loaded["state"]) != expected:
        raise ChecksumError
    return {**loaded, "progress": progress}


@functools.cache
def _ignore_abandoned_reads() -> None:
    """Keeps quiet about the reads that orbax abandons when one of them fails.

    Each complains, whenever it ends, that its event loop is closed, and as it is collected.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    shown = sys.unraisablehook

    def unraisablehook(what: Any) -> None:
        code = getattr(what.object, "cr_code", None)
        abandoned = code is not None and "orbax" in code.co_filename
        if not abandoned and str(what.exc_value) != "Event loop is closed":
            shown(what)

    sys.unraisablehook = unraisablehook


class _Retention:
    """An orbax preservation policy: the newest ``keep`` checkpoints and the pinned one."""

    def __init__(self, keep: int):
        self.keep = keep
        self.pinned: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        newest = sorted(c.step for c in checkpoints)[-self.keep :]
        return [c.step in newest or c.step == self.pinned for c in checkpoints]


def size(state: TrainState) -> int:
    """The bytes of a checkpoint, but for what compression spares and a few files add."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _text(progress: str, arrays: list[np.ndarray] | None) -> np.ndarray:
    """The bytes of the progress, which is JSON, with the checksum of the arrays if given any."""
    if arrays is not None:
        progress = json.dumps({**json.loads(progress), "checksum": crc(arrays)})
    return np.frombuffer(progress.encode(), np.uint8)


class _ProgressHandler:
    """How orbax saves the progress: a function computes its bytes in the background.

    On the disk it is the tree ``{"json": bytes}``.
    """

    def __init__(self) -> None:
        self._tree = ocp.handlers.PyTreeHandler()

    async def save(self, directory: Any, checkpointable: Callable[[], np.ndarray]) -> Any:
        return self._save_later(directory, checkpointable)

    async def _save_later(self, directory: Any, text: Callable[[], np.ndarray]) -> None:
        tree = {"json": await asyncio.to_thread(text)}
        await (await self._tree.save(directory, tree))

    async def load(self, directory: Any, abstract_checkpointable: None = None) -> Any:
        return await self._tree.load(directory, abstract_checkpointable)

    async def metadata(self, directory: Any) -> Any:
        return await self._tree.metadata(directory)

    def is_handleable(self, checkpointable: Any) -> bool:
        return callable(checkpointable)

    def is_abstract_handleable(self, abstract_checkpointable: Any) -> bool:
        return abstract_checkpointable is None


def _context(**options: Any) -> Any:
    registry = ocp.handlers.local_registry()
    registry.add(_ProgressHandler, checkpointable_name="progress")
    handlers = ocp.options.CheckpointablesOptions(registry=registry)
    arrays = ocp.options.ArrayOptions.Saving(
        # Each device would write a part of each array, for which every shape compiles a program.
        # That pays where several hosts write at the same time, and for large arrays.
        use_replica_parallel=None if jax.process_count() > 1 else False,
        min_slice_bytes_for_replica_parallel=WORTH_A_PART // jax.local_device_count(),
    )
    return ocp.Context(
        checkpointables_options=handlers,
        array_options=ocp.options.ArrayOptions(saving=arrays),
        **options,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax's own messages off the terminal: ours say what a user can act on."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", "orbax")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
