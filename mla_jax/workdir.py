"""A run's directory: what it holds, whether it may be used, and which run it belongs to."""

import json
import pathlib
from typing import Any

from mla_jax import configuration
from mla_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two runs in one directory are then not noticed
    fcntl = None

ELSEWHERE = "give another --workdir"


class Workdir:
    """``config.json metrics.jsonl result.json report.md checkpoints/`` and plots, of one run."""

    def __init__(self, path: str | pathlib.Path):
        if "://" in str(path):
            raise UserError(
                f"--workdir={path} is no local path: mount the bucket (gcsfuse) or another file "
                "system that all processes share, and name a directory there"
            )
        self.path = pathlib.Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self._config = self.path / "config.json"
        self._result = self.path / "result.json"
        self._lock: Any = None

    def check(self, identity: dict[str, Any]) -> None:
        """Refuses a directory that belongs to another run.

        ``identity`` is ``{"config": ..., "data": fingerprint}``.

        Raises:
          UserError: the path is not a directory, or it holds a run of another configuration.
        """
        for path in (self.path, self.checkpoints):
            if path.exists() and not path.is_dir():
                raise UserError(f"--workdir={self.path}: {path} is a file: {ELSEWHERE}")
        saved = self._read(self._config, {"config": dict, "data": str})
        if saved is not None:
            self.require_same(saved, identity)
        elif self._result.exists() or self.newest_checkpoint():
            raise UserError(
                f"{self._config} is gone, so this run is of nobody knows what: {ELSEWHERE}"
            )

    def require_same(self, saved: dict[str, Any], identity: dict[str, Any]) -> None:
        """Raises ``UserError`` with the fields in which two identities differ, if they do."""
        differing = configuration.differing_fields(
            {**saved["config"], "data": saved["data"]},
            {**identity["config"], "data": identity["data"]},
        )
        if differing:
            raise UserError(
                f"{self.path} holds a run of another configuration ({'; '.join(differing)}): "
                f"{ELSEWHERE}, or set these fields back to resume it"
            )

    def create(self, identity: dict[str, Any]) -> None:
        """Makes the directory, locks it and writes ``config.json`` unless it is there already.

        Raises:
          UserError: the directory cannot be written, or another process is at work in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
            if not self._config.exists():
                self._write(self._config, identity)
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={self.path} ({error.strerror}): name a directory that "
                "you may write to"
            ) from error
        if fcntl:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process is at work in {self.path}: wait for it, or {ELSEWHERE}"
                ) from error
            except OSError:  # a file system without locks
                pass

    def release(self) -> None:
        """Gives up the lock."""
        if self._lock:
            self._lock.close()

    def newest_checkpoint(self) -> int:
        """The step of the newest checkpoint directory, sound or not; 0 if there is none."""
        return max((int(p.name) for p in self.checkpoints.glob("*") if p.name.isdigit()), default=0)

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        return self._read(self._result, {"test": dict, "train": dict, "method": str})

    def finish(self, result: dict[str, Any]) -> None:
        """Writes ``result.json``, all of it or nothing."""
        self._write(self._result, result)

    def _read(self, path: pathlib.Path, fields: dict[str, type]) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is unreadable or damaged ({error}): {ELSEWHERE}") from error
        sound = isinstance(content, dict)
        if not sound or any(not isinstance(content.get(k), kind) for k, kind in fields.items()):
            raise UserError(f"{path} is damaged ({', '.join(fields)} expected): {ELSEWHERE}")
        return content

    def _write(self, path: pathlib.Path, content: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)
