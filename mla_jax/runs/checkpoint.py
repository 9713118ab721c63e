"""Checkpoints: the training state and the run's progress, saved together; only this file knows
orbax.

A checkpoint holds the state (orbax, asynchronous), the progress as JSON (what the loop needs to
go on as if nothing had happened, and which run it belongs to) and a checksum of the state: a
damaged one is noticed, down to a flipped bit in an array, and the one before it is used.
"""

import contextlib
import gc
import json
import logging
import pathlib
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mla_jax import distributed
from mla_jax.errors import UserError
from mla_jax.state import TrainState

PROGRESS = {"progress": None}


class ChecksumError(Exception):
    """The arrays of a checkpoint are not those that were saved."""


class Checkpoints:
    """The checkpoints under one directory: the newest ``keep`` of them, and the pinned one."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        self._directory = directory.absolute()
        self._retention = _Retention(keep)
        with _quiet():
            self._checkpointer = ocp.training.Checkpointer(
                self._directory,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=self._retention,
                cleanup_tmp_directories=True,
            )

    def save(self, step: int, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves in the background; the arrays may be donated as soon as this returns."""
        progress = {**progress, "checksum": checksum(state)}
        text = np.frombuffer(json.dumps(progress).encode(), np.uint8)
        with _quiet():
            self._checkpointer.save_checkpointables_async(
                step, {"state": state, "progress": {"json": text}}
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
          UserError: there are checkpoints, and all of them are damaged.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        unsound = {}
        for step in self.steps:
            try:
                loaded = self._load(step, abstract)
            except (MemoryError, PermissionError):
                raise
            except Exception as error:
                unsound[step] = "bad checksum" if isinstance(error, ChecksumError) else "unreadable"
                continue
            finally:
                with _quiet():
                    gc.collect()  # orbax leaves coroutines behind that complain when collected
            for bad, reason in unsound.items():
                damaged(f"checkpoint {bad} is damaged ({reason}); moved to {self._set_aside(bad)}")
            return loaded
        if unsound:
            raise UserError(
                f"all checkpoints of {self._directory} are damaged: start in another --workdir"
            )
        return None

    def _load(self, step: int, abstract: Any) -> tuple[TrainState, dict]:
        with _quiet():
            loaded = self._checkpointer.load_checkpointables(step, {"state": abstract, **PROGRESS})
        return _checked(loaded)

    def _set_aside(self, step: int) -> pathlib.Path:
        source = self._directory / str(step)
        aside = self._directory.with_name(f"damaged-{step}")
        while aside.exists():
            aside = aside.with_name(aside.name + "-again")
        if distributed.is_main():
            source.rename(aside)
        distributed.barrier(f"set aside {step}")
        with _quiet():
            self._checkpointer.reload()
        return aside

    def close(self) -> None:
        """Waits for the save in flight."""
        with _quiet():
            self._checkpointer.close()


def read_progress(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """The progress that was saved with checkpoint ``step``; touches nothing.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    return _decoded(_read(directory, step, PROGRESS))


def read_state(directory: pathlib.Path, step: int, abstract: Any) -> TrainState:
    """The state of checkpoint ``step``; touches nothing, so that a run in progress may go on.

    ``abstract``: a ``TrainState`` of ``jax.ShapeDtypeStruct`` with shardings.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it is of another structure.
    """
    loaded = _read(directory, step, {"state": abstract, **PROGRESS})
    try:
        return _checked(loaded)[0]
    except ChecksumError as error:
        raise UserError(
            f"checkpoint {step} of {directory} is damaged (bad checksum): train the run again in "
            "another --workdir"
        ) from error


def _read(directory: pathlib.Path, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
    path = directory.absolute() / str(step)
    if not path.is_dir():
        raise UserError(f"there is no checkpoint {path}: train the run again")
    loaded = None
    with _quiet():
        with contextlib.suppress(Exception):  # of many kinds, with pages of text
            loaded = ocp.load_checkpointables(path, wanted)
        gc.collect()  # orbax leaves coroutines behind that complain when collected
    if loaded is None:
        raise UserError(f"checkpoint {path} cannot be read: it is damaged, or it is of another run")
    return loaded


def _decoded(loaded: dict[str, Any]) -> dict[str, Any]:
    return json.loads(np.asarray(loaded["progress"]["json"]).tobytes())


def _checked(loaded: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
    progress = _decoded(loaded)
    if checksum(loaded["state"]) != progress.pop("checksum"):
        raise ChecksumError
    return loaded["state"], progress


class _Retention:
    """An orbax preservation policy: the newest ``keep`` checkpoints and the pinned one."""

    def __init__(self, keep: int):
        self.keep = keep
        self.pinned: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        newest = sorted(c.step for c in checkpoints)[-self.keep :]
        return [c.step in newest or c.step == self.pinned for c in checkpoints]


def checksum(state: TrainState) -> int:
    """A CRC-32 over the bytes of every array, in tree order; replicated arrays only."""
    crc = 0
    for leaf in jax.tree.leaves(state):
        crc = zlib.crc32(np.ascontiguousarray(leaf.addressable_data(0)), crc)
    return crc


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
