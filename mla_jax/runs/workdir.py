"""A run's directory: its content, whether it may be used, and which run it belongs to."""

import json
import pathlib
from collections.abc import Collection
from typing import Any

from mla_jax import storage
from mla_jax.config import fields
from mla_jax.data.dataset import DataSpec
from mla_jax.errors import UserError
from mla_jax.runs.metrics import MetricsFile
from mla_jax.runs.nulls import with_nulls
from mla_jax.storage.lease import Lease

try:
    import fcntl
except ImportError:  # Windows: two runs in one directory are not detected
    fcntl = None  # type: ignore[assignment]

ELSEWHERE = "give another --workdir"
ELSEWHERE_EMPTY = "name a folder that is empty or does not exist yet"
EARLY = ("checkpoints", "config.tmp", "data.json", "data.tmp", "metrics.jsonl")
"""Files that a killed run may leave without a ``config.json``."""
LOGS = (".err", ".log", ".out", ".txt")
"""Suffixes of files that may be in a folder before a run."""

IDENTITY = {
    "config": {
        "encoders": {},
        "optimizer": {},
        "method": {"name": str, "fidelity": str},
        "dataset": {"name": str},
        "modalities": list,
        "epochs": int,
    },
    "data": str,
}
"""``{name: type}`` that every ``config.json`` of ours has at least."""
NUMBER = (int, float)
FIGURE = (*NUMBER, type(None))
RESULT = {
    **dict.fromkeys(("dataset", "method", "fidelity", "protocol", "device", "commit"), str),
    "seed": int,
    "parameters": int,
    "versions": {},
    "selection": {"rule": str, "epoch": int},
    "test": {"examples": int, "macro_f1": {}, "fused": FIGURE},
    "train": {
        "stages": {},
        "epochs": int,
        "steps": int,
        **dict.fromkeys(("seconds", "examples_per_second"), NUMBER),
        **dict.fromkeys(("compile_seconds", "evaluate_seconds"), NUMBER),
    },
}
"""``{name: type}`` that every ``result.json`` has and that is read again."""


class Workdir:
    """``config.json data.json metrics.jsonl result.json predictions.npz report.md checkpoints/``
    and plots."""

    def __init__(self, path: str | pathlib.Path):
        """``path`` is local or in a bucket (``gs://``); raises as ``storage.place`` does."""
        self.path = storage.place(path)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.predictions = self.path / "predictions.npz"
        self._config = self.path / "config.json"
        self._data = self.path / "data.json"
        self._result = self.path / "result.json"
        self._lock: Any = None

    def identity(self) -> dict[str, Any] | None:
        """The ``{"config": ..., "data": fingerprint}`` of the run in this directory, if any.

        Fields and switches that an old ``config.json`` lacks are filled in with what the code
        did before they existed.

        Raises:
          UserError: ``config.json`` is damaged, or is not ours.
        """
        content = self._read(self._config, {"config": dict, "data": str})
        if content is not None and (missing := _missing(content, IDENTITY)):
            raise UserError(f"{self._config} is damaged (no valid '{missing}'): {ELSEWHERE}")
        return content and {**content, "config": fields.completed(content["config"])}

    def is_run(self) -> bool:
        """Whether the directory holds a run, to judge by its files."""
        try:
            return self.identity() is not None
        except UserError:  # a config.json of another program
            return False

    def check_path(self) -> None:
        """Raises ``UserError`` unless the path is a directory, or one could be made there."""
        try:
            parents = () if storage.in_bucket(self.path) else self.path.parents
            for path in (self.path, self.checkpoints, *parents):
                if path.exists() and not path.is_dir():
                    raise UserError(f"--workdir={self.path}: {path} is a file: {ELSEWHERE}")
        except OSError as error:
            raise UserError(
                f"cannot use --workdir={self.path} ({error.strerror}): name another"
            ) from error

    def check(self, identity: dict[str, Any]) -> None:
        """Refuses a directory that belongs to another run.

        A run with fewer epochs is the same run if its epochs are the first ones of the longer run
        (``fields.extension_problem``).

        Raises:
          UserError: the path is not a directory, or it holds a run of another configuration or
            something that is not a run.
        """
        self.check_path()
        for path in (self.metrics, self._data, self._result):
            if path.is_dir():
                raise UserError(f"--workdir={self.path}: {path} is a folder: {ELSEWHERE}")
        saved = self.identity()
        if saved is not None:
            self.require_same(saved, identity)
            if self.is_shorter(saved, identity) and not self.newest_checkpoint():
                raise UserError(
                    f"{self.path} holds a run of {saved['config']['epochs']} epochs but no "
                    f"checkpoint to go on from: {ELSEWHERE}"
                )
        elif self._result.exists() or self.newest_checkpoint():
            raise UserError(
                f"{self._config} is gone, so it is unknown what was trained here: {ELSEWHERE}"
            )
        elif name := foreign(self.path, EARLY):
            raise UserError(f"--workdir={self.path} holds {name} but no run: {ELSEWHERE_EMPTY}")

    def is_shorter(self, saved: dict[str, Any], identity: dict[str, Any]) -> bool:
        """Whether a run has fewer epochs than the configuration now has."""
        return saved["config"].get("epochs", 0) < identity["config"]["epochs"]

    def require_same(self, saved: dict[str, Any], identity: dict[str, Any]) -> None:
        """Raises ``UserError`` naming the fields in which two identities differ, if they do.

        Fields that ``saved`` lacks, of an earlier version, are filled in as in ``identity``.
        """
        saved = {**saved, "config": fields.completed(saved["config"])}
        differing = fields.differing_fields(
            {**saved["config"], "data": saved["data"]},
            {**identity["config"], "data": identity["data"]},
        )
        if not differing:
            return
        only_epochs = all(field.startswith("epochs:") for field in differing)
        if only_epochs and self.is_shorter(saved, identity):
            problem = fields.extension_problem(saved["config"], identity["config"])
            if problem:
                epochs = saved["config"]["epochs"]
                raise UserError(
                    f"{self.path} holds a run of {epochs} epochs, which are not the first {epochs} "
                    f"of {identity['config']['epochs']}, because {problem}: {ELSEWHERE}, with "
                    f"--config.init_from={self.path} to start from its weights"
                )
            return
        raise UserError(
            f"{self.path} holds a run of another configuration ({'; '.join(differing)}): "
            f"{ELSEWHERE}, or set these fields back to resume it"
        )

    def create(self, identity: dict[str, Any], data: DataSpec) -> None:
        """Makes the directory, locks it, and writes ``config.json`` and ``data.json``.

        What ``check`` saw may have changed since, so it is checked again under the lock.  A
        directory without ``config.json`` holds no run: a ``data.json`` in it is replaced.

        Raises:
          UserError: the directory cannot be written, another process is using it, or it
            belongs to another run by now.
        """
        try:
            self._take_lock()
            self.check(identity)
            if self._config.exists():
                self.write_data(data)
            else:
                self._write(self._data, data.to_json())
                self._write(self._config, identity)
        except OSError as error:
            if storage.in_bucket(self.path):
                raise  # ``storage.watched`` explains it
            raise UserError(
                f"cannot write to --workdir={self.path} ({error.strerror}): name a directory that "
                "you may write to"
            ) from error

    def extend(self, identity: dict[str, Any]) -> None:
        """Turns the directory of a shorter run into that of the longer one.

        The result of the shorter run is kept as ``result-<epochs>-epochs.json``, and its
        predictions likewise.
        """
        saved = self.identity()
        if saved is not None and self.is_shorter(saved, identity):
            if self._result.exists():  # first: a crash here leaves a run without a result
                ending = f"-{saved['config']['epochs']}-epochs"
                self._result.replace(self.path / f"result{ending}.json")
                if self.predictions.exists():
                    self.predictions.replace(self.path / f"predictions{ending}.npz")
            self._write(self._config, identity)

    def write_data(self, data: DataSpec) -> None:
        """Writes ``data.json`` unless it is there already."""
        if not self._data.exists():
            self._write(self._data, data.to_json())

    def _take_lock(self) -> None:
        taken = True
        if storage.in_bucket(self.path):
            lease = Lease(self.path / ".lock")
            if taken := lease.take():
                self._lock = lease
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w", encoding="utf-8")
            try:
                if fcntl:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                taken = False
            except OSError:  # a file system without locks
                pass
        if not taken:
            raise UserError(
                f"another process is at work in {self.path}: wait for it, or {ELSEWHERE}"
            )

    def require_lock(self) -> None:
        """Raises ``UserError`` if another process has taken over the directory, in a bucket."""
        if isinstance(self._lock, Lease):
            self._lock.require()

    def metrics_file(self, batches: int) -> MetricsFile:
        """``metrics.jsonl``, opened; its lines past ``batches`` are dropped."""
        return MetricsFile(self.metrics, batches, self.require_lock)

    def data(self) -> DataSpec:
        """What ``data.json`` holds.

        Raises:
          UserError: it is missing or damaged.
        """
        kinds = {"class_names": list, "examples": dict, "shapes": dict, "dtypes": dict}
        content = self._read(self._data, {**kinds, "streams": dict})
        if content is None:
            raise UserError(
                f"{self._data} is missing: repeat the command that trained the run, which writes it"
            )
        try:
            return DataSpec.from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self._data} is damaged: delete it and repeat the command that trained the run"
            ) from error

    def release(self) -> None:
        """Releases the lock."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def steps(self) -> list[int]:
        """The steps of all checkpoint directories, complete or not, newest first."""
        found = (p for p in self.checkpoints.glob("*") if p.name.isdigit() and storage.is_whole(p))
        return sorted((int(path.name) for path in found), reverse=True)

    def newest_checkpoint(self) -> int:
        """The step of the newest checkpoint directory, complete or not; 0 if there is none."""
        return next(iter(self.steps()), 0)

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run, else None.

        Figures that are not finite are None (NaN in files of earlier versions).

        Raises:
          UserError: it is damaged or incomplete.
        """
        content = self._read(self._result, {"test": dict, "train": dict, "method": str})
        if content is None:
            return None
        missing = _missing(content, RESULT)
        if not missing:
            names = content["test"]["macro_f1"]
            figures = {"macro_f1": dict.fromkeys(names, FIGURE)} | dict.fromkeys(names, FIGURE)
            missing = _missing(content["test"], figures, "test")
        if missing:
            raise UserError(
                f"{self._result} is damaged (no valid '{missing}'): delete it and repeat the "
                f"command that trained the run, or {ELSEWHERE}"
            )
        return content

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the whole ``result.json`` or nothing; figures that are not finite are null."""
        self._write(self._result, with_nulls(result))

    def _read(self, path: pathlib.Path, expected: dict[str, type]) -> dict[str, Any] | None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is unreadable or damaged ({error}): {ELSEWHERE}") from error
        sound = isinstance(content, dict)
        if not sound or any(not isinstance(content.get(k), kind) for k, kind in expected.items()):
            raise UserError(f"{path} is damaged ({', '.join(expected)} expected): {ELSEWHERE}")
        return content

    def _write(self, path: pathlib.Path, content: dict[str, Any]) -> None:
        storage.put(path, json.dumps(content, indent=1) + "\n")


def foreign(folder: pathlib.Path, known: Collection[str]) -> str:
    """The name of an entry in a folder that is not ``known``; empty if there is none.

    Hidden entries, logs and the bytecode beside a configuration file do not count.
    """
    names = (path.name for path in sorted(folder.iterdir())) if folder.is_dir() else ()
    known = {*known, "__pycache__"}
    others = (n for n in names if n not in known and not n.startswith(".") and not n.endswith(LOGS))
    return next(others, "")


def _missing(content: Any, expected: Any, name: str = "") -> str:
    """The name of the first entry that is missing or has another type, as ``test.examples``."""
    if not isinstance(expected, dict):
        return "" if isinstance(content, expected) else name
    if not isinstance(content, dict):
        return name
    prefix = f"{name}." if name else ""
    found = (_missing(content.get(key, ...), kind, prefix + key) for key, kind in expected.items())
    return next(filter(None, found), "")
