"""A lock in a bucket, where ``flock`` does not exist: an object that one process can create.

The holder changes the object's metadata every ``RENEWAL`` seconds, as a heartbeat.  A process
that finds the object treats it as stale if the holder ran on this machine and has ended, or if
there is no heartbeat for ``PATIENCE`` seconds; then it deletes exactly that object and creates its
own.  Google Cloud Storage checks both steps (``ifGenerationMatch``), so only one of two processes
succeeds.
"""

import contextlib
import datetime
import os
import pathlib
import socket
import threading
import time
from typing import Any

from mla_jax import storage
from mla_jax.errors import UserError

RENEWAL = 10.0
"""Seconds between two heartbeats; one object may be changed about once per second."""
PATIENCE = 3 * RENEWAL
LOST = (FileNotFoundError, FileExistsError)
"""The errors of ``gcsfs`` for an object that is gone, or is not the expected one."""


class Lease:
    """The lock object at ``path``: ``take`` it, check it with ``require``, ``close`` it."""

    def __init__(self, path: pathlib.Path):
        self._fs = storage.file_system()
        self._path = path
        self._bucket, self._key, _ = self._fs.split_path(os.fspath(path))
        self._generation = ""
        self._ended = threading.Event()
        self._lost = False

    def take(self) -> bool:
        """Creates the object; False if another process holds it."""
        while True:
            try:
                self._fs.pipe_file(os.fspath(self._path), b"", mode="create", metadata=_metadata())
            except FileExistsError:
                found = self._look()
                if found and not self._left_behind(found):
                    return False
                if found:
                    self._delete(found["generation"])
                continue
            found = self._look()
            if not found or found["metadata"].get("process") != _process():
                continue
            self._generation = found["generation"]
            threading.Thread(target=self._renew, daemon=True, name="lease").start()
            return True

    def require(self) -> None:
        """Raises ``UserError`` if another process has taken the lock since."""
        if self._lost:
            raise UserError(
                f"another process has taken over {self._path.parent}, since this one sent no "
                "heartbeat for a while: this one stops"
            )

    def close(self) -> None:
        """Deletes the object, if it is still ours."""
        self._ended.set()
        if storage.is_lost(self._path):
            return  # the next run finds it stale
        with contextlib.suppress(Exception):
            self._delete(self._generation)

    def _look(self) -> dict[str, Any] | None:
        try:
            found = self._fs.call("GET", "b/{}/o/{}", self._bucket, self._key, json_out=True)
        except FileNotFoundError:
            return None
        return {"metadata": {}, **found}

    def _delete(self, generation: str) -> None:
        with contextlib.suppress(*LOST):
            self._fs.call(
                "DELETE", "b/{}/o/{}", self._bucket, self._key, ifGenerationMatch=generation
            )

    def _left_behind(self, found: dict[str, Any]) -> bool:
        """Whether the holder of the object is gone."""
        machine, _, pid = found["metadata"].get("process", "").rpartition(" ")
        if machine == _machine() and pid.isdigit() and not _is_alive(int(pid)):
            return True
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(RENEWAL / 10)
            now = self._look()
            if now is None:
                return True
            signs = ("generation", "metageneration")
            if any(now[sign] != found[sign] for sign in signs):
                return False
        return True

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            try:
                self._fs.call(
                    "PATCH",
                    "b/{}/o/{}",
                    self._bucket,
                    self._key,
                    ifGenerationMatch=self._generation,
                    json={"metadata": _metadata()},
                )
            except LOST:
                self._lost = not self._ended.is_set()
                return
            except Exception:  # the bucket does not answer: try again
                continue


def _metadata() -> dict[str, str]:
    now = datetime.datetime.now(datetime.UTC)
    return {"process": _process(), "alive": now.isoformat(timespec="seconds")}


def _process() -> str:
    return f"{_machine()} {os.getpid()}"


def _machine() -> str:
    """Identifies the machine, or the container on it: process numbers are only valid
    within it."""
    parts = [socket.gethostname()]
    try:
        parts.append(
            pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        )
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        pass
    return " ".join(parts)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True
