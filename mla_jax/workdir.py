"""A run's directory: what it holds, whether it may be used, and which run it belongs to."""

import json
import pathlib
from typing import Any

from mla_jax import configuration
from mla_jax.errors import UserError


class Workdir:
    """``config.json metrics.jsonl result.json report.md checkpoints/`` and plots, of one run."""

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self._config = self.path / "config.json"
        self._result = self.path / "result.json"

    def check(self, identity: dict[str, Any]) -> None:
        """Refuses a directory that belongs to another run.

        ``identity`` is ``{"config": ..., "data": fingerprint}``.

        Raises:
          UserError: the path is not a directory, or it holds a run of another configuration.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir={self.path} is a file: name a directory")
        saved = self._read(self._config)
        if saved is None:
            return
        differing = configuration.differing_fields(
            {**saved["config"], "data": saved["data"]},
            {**identity["config"], "data": identity["data"]},
        )
        if differing:
            raise UserError(
                f"{self.path} holds a run of another configuration ({'; '.join(differing)}): "
                "give another --workdir, or set these fields back to resume it"
            )

    def create(self, identity: dict[str, Any]) -> None:
        """Makes the directory and writes ``config.json`` unless it is there already."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not self._config.exists():
                self._write(self._config, identity)
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={self.path} ({error.strerror}): name a directory that "
                "you may write to"
            ) from error

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None."""
        return self._read(self._result)

    def finish(self, result: dict[str, Any]) -> None:
        """Writes ``result.json``, all of it or nothing."""
        self._write(self._result, result)

    def _read(self, path: pathlib.Path) -> dict[str, Any] | None:
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is unreadable or damaged ({error}): give another --workdir, or remove it"
            ) from error

    def _write(self, path: pathlib.Path, content: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(path)
